"""Files: rows that name bytes in the store, and tombstones of deleted ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.orm import Session

from db.cursors import Order, Page, beyond, born, is_id, page
from db.errors import NotFound
from db.ids import new_id
from db.models import File, Upload

PREFIX = "file-"
# What a user may give a file for, in the vocabulary of the OpenAI API; outputs are `batch_output`.
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
OUTPUT = "batch_output"
# Inputs sent inside a request: bytes that no user ever sees as a file.
PRIVATE = "private"
BATCH_LIFETIME = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file whose bytes are in the store already. `lifetime` None: kept until it is deleted."""

    id: str
    purpose: str
    filename: str
    bytes: int
    sha256: str
    content_type: str
    store_key: str
    lifetime: timedelta | None = None


def usual_lifetime(purpose: str) -> timedelta | None:
    """How long a file is kept whose owner did not say."""
    return BATCH_LIFETIME if purpose == "batch" else None


def new_file_id() -> str:
    return new_id(PREFIX)


def store_key(file_id: str) -> str:
    """Where the bytes of a file with this id go."""
    return f"files/{file_id}"


def add(session: Session, tenant_id: str, new: NewFile) -> File:
    created = born(new.id)
    file = File(
        id=new.id,
        tenant_id=tenant_id,
        purpose=new.purpose,
        filename=new.filename,
        bytes=new.bytes,
        sha256=new.sha256,
        content_type=new.content_type,
        store_key=new.store_key,
        created_at=created,
        expires_at=None if new.lifetime is None else created + new.lifetime,
    )
    session.add(file)
    session.flush()
    return file


_VISIBLE = (File.deleted_at.is_(None), or_(File.expires_at.is_(None), File.expires_at > func.now()))


def get(session: Session, tenant_id: str, file_id: str) -> File:
    """The file, or NotFound: unknown, deleted, expired and foreign ones look the same."""
    query = select(File).where(File.id == file_id, File.tenant_id == tenant_id, *_VISIBLE)
    file = session.scalar(query) if is_id(file_id, PREFIX) else None
    if file is None:
        raise NotFound("file", file_id)
    return file


def find(session: Session, tenant_id: str, file_id: str | None) -> File | None:
    """The file as `get` sees it, or None."""
    return session.scalar(select(File).where(File.id == file_id, File.tenant_id == tenant_id, *_VISIBLE))


def listing(
    session: Session, tenant_id: str, after: str | None, limit: int, order: Order = "desc", purpose: str | None = None
) -> Page[File]:
    query = select(File).where(File.tenant_id == tenant_id, *_VISIBLE)
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    return page(session.scalars(beyond(query, tenant_id, File, after, limit, order, PREFIX)).all(), limit)


def delete(session: Session, tenant_id: str, file_id: str) -> None:
    """Make the file a tombstone. Its bytes stay until no open job reads them (see `removable`)."""
    query = (
        update(File)
        .where(File.id == file_id, File.tenant_id == tenant_id, *_VISIBLE)
        .values(deleted_at=func.now())
        .returning(File.id)
    )
    if not is_id(file_id, PREFIX) or session.scalar(query) is None:
        raise NotFound("file", file_id)


def bury_expired(session: Session) -> int:
    """Make tombstones of files past their time, for the reconciler; the count of them."""
    query = update(File).where(File.deleted_at.is_(None), File.expires_at <= func.now()).values(deleted_at=func.now())
    return len(session.scalars(query.returning(File.id)).all())


@dataclass(frozen=True, slots=True)
class Removable:
    id: str
    store_key: str


def removable(session: Session, limit: int = 100, but: Sequence[str] = ()) -> list[Removable]:
    """Tombstones whose bytes nobody needs any more, oldest first, but not those of the keys in `but`.

    Delete the bytes, then tell `bytes_removed`.
    """
    rows = session.execute(
        text("""
            SELECT id, store_key FROM files
            WHERE deleted_at IS NOT NULL AND bytes_removed_at IS NULL AND store_key <> ALL(:but) AND NOT EXISTS (
                SELECT FROM jobs WHERE jobs.input_file_id = files.id
                    AND jobs.status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))
            ORDER BY deleted_at LIMIT :limit
        """),
        {"limit": limit, "but": list(but)},
    )
    return [Removable(*row) for row in rows]


def exists(session: Session, file_id: str) -> bool:
    """Whether the file has a row, be it a tombstone."""
    return session.scalar(select(File.id).where(File.id == file_id)) is not None


def bytes_removed(session: Session, file_id: str) -> None:
    """Note that the bytes of a tombstone are gone, and forget what they were called and what they hashed to."""
    removed = session.scalar(
        update(File)
        .where(File.id == file_id, File.deleted_at.is_not(None))
        .values(bytes_removed_at=func.now(), filename="", sha256="")
        .returning(File.id)
    )
    if removed is not None:
        session.execute(update(Upload).where(Upload.file_id == file_id).values(filename="", mime_type=""))
