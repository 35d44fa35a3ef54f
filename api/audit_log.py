"""The audit log: who did what to keys, quotas, webhooks, jobs and files of the tenant."""

from typing import Any, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from api.errors import documented
from api.pagination import ListQuery
from api.services import services, tenant_id
from api.wire import listed
from db import audit_log
from db.audit_log import Act
from db.models import AuditEntry

tag = Tag(
    name="audit log", description="Who did what. Not to be mistaken for the audit of a job, which counts its rows."
)
bp = APIBlueprint("audit_log", __name__, url_prefix="/v1/audit-log", abp_tags=[tag])

_EXAMPLE_ID = "aud_0mgcxk2l9h4t8v2c6y0q1w5r3a"


class AuditEntryObject(BaseModel):
    """Something that was done, or refused for want of a scope."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": _EXAMPLE_ID,
                "object": "audit_log.entry",
                "at": 1_790_000_000.123,
                "actor": "0mgcxk2l9h4t",
                "action": "key.rotated",
                "target": "7c2v9q0w1e5r",
                "detail": {"grace_seconds": 86_400},
                "request_id": "req_0a1b2c3d4e5f60718293a4b5",
                "address": "10.0.0.7",
            }
        }
    )

    id: str
    object: Literal["audit_log.entry"] = "audit_log.entry"
    at: float = Field(description="Unix seconds.")
    actor: str = Field(description="The id of the key that did it, or `operator`.")
    action: Act
    target: str = Field(description="What it was done to: an id, a quota's name, or the route that was refused.")
    detail: dict[str, Any]
    request_id: str | None
    address: str | None = Field(description="Where the request came from, as this server sees it.")

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditEntryObject":
        return cls(
            id=entry.id,
            at=entry.created_at.timestamp(),
            actor=entry.actor,
            action=Act(entry.action),
            target=entry.object,
            detail=entry.detail,
            request_id=entry.request_id,
            address=entry.address,
        )


class AuditEntryList(BaseModel):
    """A part of the log, newest first."""

    object: Literal["list"] = "list"
    data: list[AuditEntryObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AuditQuery(ListQuery):
    action: Act | None = Field(None, description="Only entries of this action.")


@bp.get("", operation_id="list_audit_log", responses={200: AuditEntryList, **documented(400, 401, 503)})
def index(query: AuditQuery) -> Response:
    """Read the audit log

    Keys created, rotated and revoked, quotas set, webhooks created, changed, deleted and given a new secret, jobs and
    files deleted, and requests whose key lacked the scope. No texts and no secrets.
    """
    with services().sessions() as session:
        page = audit_log.listing(session, tenant_id(), query.after, query.limit, query.action)
    return listed(page.rows, page.has_more, AuditEntryObject.of)
