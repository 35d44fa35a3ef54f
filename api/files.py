"""Files: upload, list, look, download, delete - as the OpenAI API has them."""

import logging
import re
import unicodedata
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import quote

from flask import Response, request, send_file
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.http import dump_options_header, parse_options_header
from werkzeug.wsgi import wrap_file

from api import auth
from api.errors import InvalidRequest, OutOfRoom, documented
from api.multipart import Form
from api.pagination import ListQuery
from api.services import services, tenant_id
from api.strict import Strict
from api.transfers import SMALL_BYTES
from api.wire import answer, listed, unix
from db import faults, files, quotas
from db.audit_log import Act
from db.disk import explained
from db.errors import NotFound, QuotaExceeded
from db.models import File
from db.quotas import Amounts

logger = logging.getLogger(__name__)

tag = Tag(name="files", description="Inputs you upload, and the results Bushel writes.")
bp = APIBlueprint("files", __name__, url_prefix="/v1/files", abp_tags=[tag])

MIN_LIFETIME, MAX_LIFETIME = 3_600, 2_592_000
# Boundaries and fields around the file.
ENVELOPE_BYTES = 64 * 1024
_ONE_RANGE = re.compile(r"bytes=(\d+-\d*|-\d+)\Z")
_EXAMPLE_ID = "file-0mgcxk2l9h4t8v2c6y0q1w5r3a"

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals", "batch_output"]


class FileObject(BaseModel):
    """A file."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": _EXAMPLE_ID,
                "object": "file",
                "bytes": 52_311,
                "created_at": 1_790_000_000,
                "expires_at": 1_792_592_000,
                "filename": "sentences.txt",
                "purpose": "batch",
                "status": "processed",
                "status_details": None,
            }
        }
    )

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Unix seconds.")
    expires_at: int | None = Field(description="When the file is deleted by itself; null: never.")
    filename: str
    purpose: str
    status: Literal["processed"] = Field("processed", description="Always `processed`; kept for OpenAI clients.")
    status_details: str | None = None

    @classmethod
    def of(cls, file: File) -> "FileObject":
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=unix(file.created_at) or 0,
            expires_at=unix(file.expires_at),
            filename=file.filename,
            purpose=file.purpose,
        )


class FileList(BaseModel):
    """A part of the list of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """Said when a file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FilePath(Strict):
    file_id: str = Field(description="The file's id.", json_schema_extra={"example": _EXAMPLE_ID})


class FilesQuery(ListQuery):
    limit: int = Field(10_000, ge=1, le=10_000, description="Most files to return.")
    order: Literal["asc", "desc"] = Field("desc", description="By time of upload.")
    purpose: Purpose | None = Field(None, description="Only files of this purpose.")


_UPLOAD_FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {
                        "type": "string",
                        "description": "JSONL, CSV or TXT, plain or gzip. What is in it is checked when a job uses it.",
                    },
                    "purpose": {"type": "string", "enum": list(files.PURPOSES)},
                    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                    "expires_after[seconds]": {"type": "integer", "minimum": MIN_LIFETIME, "maximum": MAX_LIFETIME},
                },
            }
        }
    },
}


@bp.post(
    "",
    operation_id="upload_file",
    openapi_extensions={"requestBody": _UPLOAD_FORM},
    responses={200: FileObject, **documented(400, 401, 413, 415, 503, 507)},
)
def upload() -> Response:
    """Upload a file

    The body is streamed to the store, so its size is limited only by the server's setting. A `batch` file
    is deleted after 30 days unless `expires_after` says otherwise; the other purposes stay until deleted.
    """
    service = services()
    limit = service.settings.max_upload_bytes
    request.max_content_length = limit + ENVELOPE_BYTES
    mark = boundary()
    ensure_room(request.content_length or 0)
    with service.sessions.begin() as session:
        room = quotas.room(session, tenant_id(), service.settings.quotas)
    # Told before the bytes are sent, where they are surely too many; a file has at least one.
    room.ensure_takes(max(1, (request.content_length or 0) - ENVELOPE_BYTES))
    file_id = files.new_file_id()
    key = files.store_key(file_id)
    with service.store.writer(key) as writer:
        # How many there are, a body without a length tells only as it comes.
        form = Form(writer, limit, ensure_room=room.ensure_takes)
        form.read(request.stream, mark)
        purpose, lifetime = _terms(form.fields)
        if not writer.bytes:
            raise InvalidRequest("the file is empty", param="file", code="empty_file")
    new = files.NewFile(
        id=file_id,
        purpose=purpose,
        filename=base_name(form.filename or ""),
        bytes=writer.bytes,
        sha256=writer.sha256,
        content_type="application/octet-stream",
        store_key=key,
        lifetime=lifetime,
    )
    faults.reached("in upload")
    try:
        with service.sessions.begin() as session:
            quotas.admit(session, tenant_id(), Amounts(stored_bytes=new.bytes), service.settings.quotas)
            file = files.add(session, tenant_id(), new)
    except (SQLAlchemyError, QuotaExceeded):
        discard_unused(new)
        raise
    fields = {"action": "file_uploaded", "file_id": file.id, "bytes": file.bytes}
    logger.info("file %s uploaded, %d bytes", file.id, file.bytes, extra=fields)
    return answer(FileObject.of(file))


@bp.get("", operation_id="list_files", responses={200: FileList, **documented(400, 401, 503)})
def index(query: FilesQuery) -> Response:
    """List files"""
    with services().sessions() as session:
        page = files.listing(session, tenant_id(), query.after, query.limit, query.order, query.purpose)
    return listed(page.rows, page.has_more, FileObject.of)


@bp.get("/<file_id>", operation_id="get_file", responses={200: FileObject, **documented(401, 404, 503)})
def show(path: FilePath) -> Response:
    """Look at a file"""
    with services().sessions() as session:
        return answer(FileObject.of(files.get(session, tenant_id(), path.file_id)))


@bp.get(
    "/<file_id>/content",
    operation_id="download_file",
    responses={
        200: {
            "description": "The bytes as they were uploaded or written.",
            "content": {"application/octet-stream": {"schema": {"type": "string"}}},
        },
        206: {
            "description": "The part asked for with `Range`.",
            "content": {"application/octet-stream": {"schema": {"type": "string"}}},
        },
        **documented(401, 404, 416, 503),
    },
)
def content(path: FilePath) -> Response:
    """Download a file

    Understands `Range`, so that a broken download can go on where it stopped.
    """
    with services().sessions() as session:
        file = files.get(session, tenant_id(), path.file_id)
    if file.bytes > SMALL_BYTES:
        services().transfers.begin()
    try:
        response = _sent(file)
    except FileNotFoundError as exc:
        # Deleted in this moment, or by somebody who cleaned the store by hand.
        raise NotFound("file", file.id) from exc
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@bp.delete("/<file_id>", operation_id="delete_file", responses={200: FileDeleted, **documented(401, 404, 503)})
def delete(path: FilePath) -> Response:
    """Delete a file

    A job that is reading it goes on undisturbed.
    """
    with services().sessions.begin() as session:
        files.delete(session, tenant_id(), path.file_id)
        auth.note(session, Act.FILE_DELETED, path.file_id)
    return answer(FileDeleted(id=path.file_id))


def ensure_room(wanted: int) -> None:
    """Refuse before reading what could not be kept, and leave the database some of the disk."""
    service = services()
    kept = service.settings.min_free_bytes
    if (shortage := service.disks.shortage(kept, wanted)) is not None:
        raise OutOfRoom(explained(shortage, kept, wanted))


def discard_unused(file: files.NewFile) -> None:
    """Delete bytes without a row. There may be one after an error: a commit whose answer was lost has happened."""
    with services().sessions() as session:
        is_used = files.exists(session, file.id)
    if not is_used:
        services().store.delete(file.store_key)


def base_name(sent: str) -> str:
    """The last part of a name from any system, without control characters.

    >>> base_name("C:\\\\texts\\\\a.txt"), base_name("../../etc/passwd"), base_name("..")
    ('a.txt', 'passwd', 'upload')
    """
    name = re.split(r"[/\\]", sent)[-1]
    name = "".join(character for character in name if character.isprintable()).strip()[:255]
    return name if name.strip(".") else "upload"


def boundary() -> str:
    """What separates the parts of the request that is being served; InvalidRequest if it is no multipart body."""
    mimetype, options = parse_options_header(request.headers.get("Content-Type"))
    if mimetype != "multipart/form-data":
        given = mimetype or "none"
        raise InvalidRequest(
            f"files are uploaded as multipart/form-data (not {given})", status=415, code="unsupported_media_type"
        )
    mark = options.get("boundary", "")
    if not mark or not mark.isascii():
        raise InvalidRequest("the multipart body has no boundary", code="invalid_multipart")
    return mark


def _terms(fields: dict[str, str]) -> tuple[str, timedelta | None]:
    """Purpose and lifetime from the form's fields."""
    purpose = fields.pop("purpose", None)
    anchor, seconds = fields.pop("expires_after[anchor]", None), fields.pop("expires_after[seconds]", None)
    for name in fields:
        raise InvalidRequest(f"`{name[:64]}` is unknown", param=name[:64], code="unknown_field")
    if purpose not in files.PURPOSES:
        what = "is required: one of" if purpose is None else "must be one of"
        code = "missing_field" if purpose is None else "invalid_value"
        raise InvalidRequest(f"`purpose` {what} {', '.join(files.PURPOSES)}", param="purpose", code=code)
    if anchor is None and seconds is None:
        return purpose, files.usual_lifetime(purpose)
    if anchor != "created_at":
        raise InvalidRequest(
            "`expires_after[anchor]` must be created_at", param="expires_after[anchor]", code="invalid_value"
        )
    if seconds is None or not re.fullmatch(r"\d{1,9}", seconds) or not MIN_LIFETIME <= int(seconds) <= MAX_LIFETIME:
        raise InvalidRequest(
            f"`expires_after[seconds]` must be a whole number from {MIN_LIFETIME} to {MAX_LIFETIME}",
            param="expires_after[seconds]",
            code="invalid_value",
        )
    return purpose, timedelta(seconds=int(seconds))


def _sent(file: File) -> Response:
    store = services().store
    # A range of another unit, or several at once, may be ignored (RFC 9110), and is no reason to send nothing.
    if not _ONE_RANGE.match(request.headers.get("Range", "")):
        request.environ.pop("HTTP_RANGE", None)
    path = store.local_path(file.store_key)
    if path is not None:
        # By path, so that the server can hand the file to the kernel.
        return send_file(
            path,
            mimetype=file.content_type,
            as_attachment=True,
            download_name=file.filename,
            etag=file.sha256 or False,
            last_modified=file.created_at,
            max_age=0,
        )
    response = Response(wrap_file(request.environ, store.open(file.store_key)), direct_passthrough=True)
    response.content_type = file.content_type
    response.content_length = file.bytes
    response.headers["Content-Disposition"] = attachment(file.filename)
    response.set_etag(file.sha256)
    response.last_modified = file.created_at
    response.make_conditional(request, accept_ranges=True, complete_length=file.bytes)
    return response


def attachment(filename: str) -> str:
    """A Content-Disposition that cannot be broken out of (RFC 6266)."""
    ascii = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode("ascii")
    plain = "".join(letter if letter.isprintable() else "_" for letter in ascii)
    names = {"filename": plain}
    if plain != filename:
        names["filename*"] = f"UTF-8''{quote(filename, safe='')}"
    return dump_options_header("attachment", names)
