"""Uploads: a large file in parts, as the OpenAI API has them."""

import hashlib
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.errors import InvalidRequest, documented
from api.files import ENVELOPE_BYTES, FileObject, base_name, boundary, discard_unused, ensure_room
from api.multipart import Form
from api.openai import wire
from api.openai.lifetimes import ExpiresAfter
from api.services import services, tenant_id
from api.strict import Kept, Strict
from api.wire import answer
from db import files, quotas, uploads
from db.errors import Conflict, NotFound, QuotaExceeded
from db.models import Upload, UploadPart
from db.quotas import Amounts
from db.states import UploadStatus
from db.uploads import MAX_PARTS, NewUpload

logger = logging.getLogger(__name__)

tag = Tag(name="uploads", description="Large files in parts, as the OpenAI API has them.")
bp = APIBlueprint("uploads", __name__, url_prefix="/v1/uploads", abp_tags=[tag])

MAX_PART = 64 * 2**20
_COPY = 2**20
_EXAMPLE_ID = "upload_0mgcxk2l9h4t8v2c6y0q1w5r3a"


class UploadRequest(Strict):
    """What the file will be, before its first byte is sent."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "example": {"bytes": 52_311, "filename": "big.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
        },
    )

    bytes: int = Field(ge=1, description="How many bytes all parts have together.")
    filename: str = Field(min_length=1, max_length=1_000)
    mime_type: Kept = Field(max_length=255, description="Taken in and not looked at: what a file is, its bytes tell.")
    purpose: Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
    expires_after: ExpiresAfter | None = Field(None, description="Of the file; default for `batch`: 30 days.")


class CompleteRequest(Strict):
    """The parts, in the order in which they make the file."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": {"part_ids": ["part_1", "part_2"]}})

    part_ids: list[str] = Field(min_length=1, max_length=MAX_PARTS)
    md5: str | None = Field(None, description="Of the whole file, in hexadecimal; checked if it is given.")


class UploadObject(BaseModel):
    """An upload."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": _EXAMPLE_ID,
                "object": "upload",
                "bytes": 52_311,
                "created_at": 1_790_000_000,
                "expires_at": 1_790_003_600,
                "filename": "big.jsonl",
                "purpose": "batch",
                "status": "pending",
                "file": None,
            }
        }
    )

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int = Field(description="Unix seconds.")
    expires_at: int = Field(description="When it is given up if it is not complete.")
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = Field(description="The file it became.")


class UploadPartObject(BaseModel):
    """A part that has arrived."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


class UploadPath(Strict):
    upload_id: str = Field(description="The upload's id.", json_schema_extra={"example": _EXAMPLE_ID})


_PART_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["data"],
                "properties": {"data": {"type": "string", "description": "Bytes, as a file; at most 64 MiB."}},
            }
        }
    },
}


@bp.post(
    "",
    operation_id="create_upload",
    responses={200: UploadObject, **documented(400, 401, 413, 415, 503, 507)},
)
def create(body: UploadRequest) -> Response:
    """Begin an upload

    It takes parts for an hour.
    """
    limit = services().settings.max_upload_bytes
    if body.bytes > limit:
        message = f"the file would have {body.bytes:,} bytes; at most {limit:,} are accepted"
        raise InvalidRequest(message, param="bytes", code="request_too_large", status=413)
    ensure_room(body.bytes)
    lifetime = body.expires_after.lifetime if body.expires_after else files.usual_lifetime(body.purpose)
    new = NewUpload(body.purpose, base_name(body.filename), body.mime_type, body.bytes, lifetime)
    with services().sessions.begin() as session:
        quotas.admit(session, tenant_id(), Amounts(stored_bytes=body.bytes), services().settings.quotas)
        return _shown(session, uploads.create(session, tenant_id(), new))


@bp.post(
    "/<upload_id>/parts",
    operation_id="add_upload_part",
    openapi_extensions={"requestBody": _PART_FORM},
    responses={200: UploadPartObject, **documented(400, 401, 404, 409, 413, 415, 503, 507)},
)
def add_part(path: UploadPath) -> Response:
    """Send a part

    Parts may be sent in any order and at once; completing the upload says how they follow each other.
    """
    service = services()
    request.max_content_length = MAX_PART + ENVELOPE_BYTES
    mark = boundary()
    with service.sessions.begin() as session:
        # Told before the bytes are sent, not after.
        uploads.pending(session, tenant_id(), path.upload_id)
    ensure_room(request.content_length or 0)
    part_id = uploads.new_part_id()
    with service.store.writer(uploads.part_key(part_id)) as writer:
        form = Form(writer, MAX_PART, "data")
        form.read(request.stream, mark)
        for name in form.fields:
            raise InvalidRequest(f"`{name[:64]}` is unknown", param=name[:64], code="unknown_field")
        if not writer.bytes:
            raise InvalidRequest("the part is empty", param="data", code="empty_part")
    try:
        with service.sessions.begin() as session:
            part = uploads.add_part(session, tenant_id(), path.upload_id, part_id, writer.bytes)
            # What was announced is counted already; parts that were sent again come on top.
            quotas.ensure_stored_within(session, tenant_id(), service.settings.quotas)
    except (SQLAlchemyError, NotFound, Conflict, QuotaExceeded):
        service.store.delete(uploads.part_key(part_id))
        raise
    return answer(wire.part(part.id, part.upload_id, part.created_at))


@bp.post(
    "/<upload_id>/complete",
    operation_id="complete_upload",
    responses={200: UploadObject, **documented(400, 401, 404, 409, 413, 415, 503, 507)},
)
def complete(path: UploadPath, body: CompleteRequest) -> Response:
    """Make the file

    Of the parts in the order of `part_ids`, which together must have exactly the announced bytes. Completing a
    completed upload again returns the same file; while that is being made, it is a 409 that is worth another try.
    """
    with services().sessions.begin() as session:
        upload = uploads.get(session, tenant_id(), path.upload_id)
        if upload.status == UploadStatus.COMPLETED:
            return _shown(session, upload)
    # The bytes pass through this process once more, and a thread is held for as long.
    services().transfers.begin()
    with services().sessions.begin() as alone:
        uploads.begin_completing(alone, upload.id)
        return _completed(upload.id, body)


def _completed(upload_id: str, body: CompleteRequest) -> Response:
    """Make the file and show the upload; or show, or say, what somebody else made of it in the meantime."""
    with services().sessions.begin() as session:
        # Locked from the first look, or it might be completed between that and the next one.
        upload = uploads.get(session, tenant_id(), upload_id, lock=True)
        if upload.status == UploadStatus.COMPLETED:
            return _shown(session, upload)
        uploads.pending(session, tenant_id(), upload_id)
        parts = _parts(session, upload, body.part_ids)
    ensure_room(upload.bytes)
    try:
        new = _joined(upload, parts, body.md5)
    except FileNotFoundError as exc:
        # Completed, cancelled or expired in this moment, and the parts removed already.
        with services().sessions.begin() as session:
            upload = uploads.get(session, tenant_id(), upload.id)
            if upload.status == UploadStatus.COMPLETED:
                return _shown(session, upload)
        raise Conflict(f"upload {upload.id} has just ended", "upload_not_pending") from exc
    try:
        with services().sessions.begin() as session:
            # Somebody may have completed or cancelled it while its parts were joined.
            upload = uploads.get(session, tenant_id(), upload.id, lock=True)
            if upload.status != UploadStatus.COMPLETED:
                upload = uploads.pending(session, tenant_id(), upload.id)
                uploads.complete(session, upload, new)
            response = _shown(session, upload)
    finally:
        discard_unused(new)
    fields = {"action": "file_uploaded", "file_id": upload.file_id, "upload_id": upload.id, "bytes": upload.bytes}
    logger.info("file %s uploaded in parts, %d bytes", upload.file_id, upload.bytes, extra=fields)
    return response


@bp.post(
    "/<upload_id>/cancel",
    operation_id="cancel_upload",
    responses={200: UploadObject, **documented(401, 404, 409, 503)},
)
def cancel(path: UploadPath) -> Response:
    """Give an upload up

    Its parts are deleted. Cancelling again changes nothing.
    """
    with services().sessions.begin() as session:
        return _shown(session, uploads.cancel(session, tenant_id(), path.upload_id))


def _shown(session: Session, upload: Upload) -> Response:
    file = uploads.file_of(session, upload)
    return answer(wire.upload(upload, None if file is None else FileObject.of(file).model_dump(mode="json")))


def _parts(session: Session, upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    """The named parts; InvalidRequest unless each is one of the upload's, once, and all together have its size."""
    if len(set(part_ids)) < len(part_ids):
        raise InvalidRequest("`part_ids` names a part twice", param="part_ids", code="invalid_value")
    try:
        parts = uploads.parts(session, upload.id, part_ids)
    except NotFound as exc:
        message = f"{exc} in upload {upload.id}"
        raise InvalidRequest(message, param="part_ids", code="part_not_found") from exc
    size = sum(part.bytes for part in parts)
    if size != upload.bytes:
        message = f"the parts have {size:,} bytes, but the upload announced {upload.bytes:,}; name every part once"
        raise InvalidRequest(message, param="part_ids", code="size_mismatch")
    return parts


def _joined(upload: Upload, parts: Sequence[UploadPart], md5: str | None) -> files.NewFile:
    """Write the file's bytes to the store; InvalidRequest, with nothing written, if they are not those of `md5`."""
    store, file_id = services().store, files.new_file_id()
    digest = hashlib.md5(usedforsecurity=False)
    with store.writer(files.store_key(file_id)) as writer:
        for part in parts:
            with store.open(part.store_key) as source:
                while piece := source.read(_COPY):
                    writer.write(piece)
                    digest.update(piece)
        if md5 is not None and md5.lower() != digest.hexdigest():
            message = f"the file's md5 is {digest.hexdigest()}, not {md5[:64]}; are the parts in order?"
            raise InvalidRequest(message, param="md5", code="md5_mismatch")
    lifetime = None if upload.lifetime_seconds is None else timedelta(seconds=upload.lifetime_seconds)
    return files.NewFile(
        id=file_id,
        purpose=upload.purpose,
        filename=upload.filename,
        bytes=writer.bytes,
        sha256=writer.sha256,
        content_type="application/octet-stream",
        store_key=writer.key,
        lifetime=lifetime,
    )
