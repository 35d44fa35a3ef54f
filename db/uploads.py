"""Uploads: files that arrive in parts and are one file when they are complete."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from db import files
from db.cursors import born, is_id
from db.errors import Conflict, NotFound
from db.ids import new_id
from db.models import File, Upload, UploadPart
from db.states import UploadStatus

PREFIX, PART_PREFIX = "upload_", "part_"
# What is not complete an hour after it was begun is given up, as the OpenAI API does.
LIFETIME = timedelta(hours=1)
# A client that got no answer sends a part again, and then again; more than that is not needed by any file.
COPIES = 3
# The store's folder of parts. Nothing in it has a meaning a day later, whether there is a row for it or not.
PARTS, PARTS_KEPT = "parts", timedelta(days=1)
MAX_PARTS = 10_000
# The code of the one conflict that ends by itself.
BEING_COMPLETED = "upload_being_completed"


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What the client says of the file before it sends it. `lifetime` is the file's own, once there is one."""

    purpose: str
    filename: str
    mime_type: str
    bytes: int
    lifetime: timedelta | None


def part_key(part_id: str) -> str:
    """Where the bytes of a part with this id go."""
    return f"{PARTS}/{part_id}"


def new_part_id() -> str:
    return new_id(PART_PREFIX)


def create(session: Session, tenant_id: str, new: NewUpload) -> Upload:
    id = new_id(PREFIX)
    upload = Upload(
        id=id,
        tenant_id=tenant_id,
        status=UploadStatus.PENDING.value,
        purpose=new.purpose,
        filename=new.filename,
        mime_type=new.mime_type,
        bytes=new.bytes,
        lifetime_seconds=None if new.lifetime is None else int(new.lifetime.total_seconds()),
        created_at=born(id),
        expires_at=born(id) + LIFETIME,
    )
    session.add(upload)
    session.flush()
    return upload


def get(session: Session, tenant_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """The upload as it is now, or NotFound: unknown and foreign ones look the same. `lock`: nobody else changes it."""
    if not is_id(upload_id, PREFIX):
        raise NotFound("upload", upload_id)
    # The row's own hour is over before the reconciler says so.
    session.execute(
        update(Upload)
        .where(Upload.id == upload_id, Upload.tenant_id == tenant_id, *_OVERDUE)
        .values(status=UploadStatus.EXPIRED.value)
        .execution_options(synchronize_session=False)
    )
    query = select(Upload).where(Upload.id == upload_id, Upload.tenant_id == tenant_id)
    query = query.execution_options(populate_existing=True)
    upload = session.scalar(query.with_for_update() if lock else query)
    if upload is None:
        raise NotFound("upload", upload_id)
    return upload


def pending(session: Session, tenant_id: str, upload_id: str) -> Upload:
    """The upload, locked, which still takes parts; else Conflict."""
    upload = get(session, tenant_id, upload_id, lock=True)
    if upload.status != UploadStatus.PENDING:
        message = f"upload {upload_id} is {upload.status}; only a pending one can be changed"
        raise Conflict(message, "upload_not_pending")
    return upload


def add_part(session: Session, tenant_id: str, upload_id: str, part_id: str, bytes: int) -> UploadPart:
    """Note a part whose bytes are in the store already. Conflict when the upload takes no more."""
    upload = pending(session, tenant_id, upload_id)
    sums = select(func.count(), func.coalesce(func.sum(UploadPart.bytes), 0)).where(UploadPart.upload_id == upload_id)
    count, held = session.execute(sums).one()
    if count >= MAX_PARTS:
        raise Conflict(f"upload {upload_id} has {count:,} parts, which is as many as may be", "too_many_parts")
    if held + bytes > COPIES * upload.bytes:
        raise Conflict(
            f"the parts of upload {upload_id} have more than {COPIES} times the {upload.bytes:,} bytes it announced",
            "too_many_parts",
        )
    part = UploadPart(
        id=part_id, upload_id=upload_id, bytes=bytes, store_key=part_key(part_id), created_at=born(part_id)
    )
    session.add(part)
    session.flush()
    return part


def parts(session: Session, upload_id: str, part_ids: Sequence[str]) -> list[UploadPart]:
    """The parts in the order they are named. NotFound for one that is not of this upload."""
    found = {part.id: part for part in session.scalars(select(UploadPart).where(UploadPart.upload_id == upload_id))}
    for part_id in part_ids:
        if part_id not in found:
            raise NotFound("part", part_id)
    return [found[part_id] for part_id in part_ids]


def begin_completing(session: Session, upload_id: str) -> None:
    """Be the only one who completes the upload until the transaction ends; Conflict while somebody else does.

    The row is not locked: making a large file takes minutes, and who looks at it must not wait for that.
    """
    taken = text("SELECT pg_try_advisory_xact_lock(hashtextextended('completing ' || :id, 0))")
    if not session.execute(taken, {"id": upload_id}).scalar_one():
        message = f"upload {upload_id} is being completed already; ask again in a moment for its file"
        raise Conflict(message, BEING_COMPLETED)
    # The transaction does nothing but wait for the bytes.
    session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def complete(session: Session, upload: Upload, new: files.NewFile) -> File:
    """Make the file of a locked pending upload; its bytes are in the store already."""
    file = files.add(session, upload.tenant_id, new)
    upload.status, upload.file_id = UploadStatus.COMPLETED.value, file.id
    session.flush()
    return file


def cancel(session: Session, tenant_id: str, upload_id: str) -> Upload:
    """Give the upload up; doing so again changes nothing. Conflict when it is complete or has expired."""
    upload = get(session, tenant_id, upload_id, lock=True)
    if upload.status == UploadStatus.CANCELLED:
        return upload
    upload = pending(session, tenant_id, upload_id)
    upload.status = UploadStatus.CANCELLED.value
    session.flush()
    return upload


def file_of(session: Session, upload: Upload) -> File | None:
    """The file the upload became, even if it was deleted since."""
    return None if upload.file_id is None else session.get(File, upload.file_id)


_OVERDUE = (Upload.status == UploadStatus.PENDING.value, Upload.expires_at <= func.now())


def expire(session: Session) -> None:
    """End the uploads whose hour is over and forget those that ended long ago, for the reconciler."""
    session.execute(
        update(Upload)
        .where(*_OVERDUE)
        .values(status=UploadStatus.EXPIRED.value)
        .execution_options(synchronize_session=False)
    )
    # Of what came to nothing not even the name is kept.
    session.execute(
        update(Upload)
        .where(Upload.status.in_([UploadStatus.CANCELLED.value, UploadStatus.EXPIRED.value]), Upload.filename != "")
        .values(filename="", mime_type="")
        .execution_options(synchronize_session=False)
    )
    # Not before their parts are: without the rows, nobody would know of the bytes.
    session.execute(
        text("""
            DELETE FROM uploads WHERE status <> 'pending' AND created_at < now() - interval '2 days'
                AND NOT EXISTS (SELECT FROM upload_parts part WHERE part.upload_id = uploads.id)
        """)
    )


@dataclass(frozen=True, slots=True)
class RemovablePart:
    id: str
    store_key: str


def removable_parts(session: Session, limit: int = 100, but: Sequence[str] = ()) -> list[RemovablePart]:
    """Parts of uploads that have ended, but for the keys in `but`. Delete the bytes, then tell `part_removed`."""
    rows = session.execute(
        text("""
            SELECT part.id, part.store_key FROM upload_parts part JOIN uploads upload ON upload.id = part.upload_id
            WHERE upload.status <> 'pending' AND part.store_key <> ALL(:but) LIMIT :limit
        """),
        {"limit": limit, "but": list(but)},
    )
    return [RemovablePart(*row) for row in rows]


def part_removed(session: Session, part_id: str) -> None:
    session.execute(delete(UploadPart).where(UploadPart.id == part_id))
