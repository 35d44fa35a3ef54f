"""Who did what to what: an entry is written in the transaction it tells of, so there is one exactly if it happened.

Never a text, a secret or a URL's path: an entry outlives what it names.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.cursors import Page, beyond, born, page
from db.ids import new_id
from db.models import AuditEntry, Tenant

PREFIX = "aud_"


class Act(StrEnum):
    """What is worth an entry."""

    KEY_CREATED = "key.created"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    SIGNED_IN = "key.signed_in"
    SCOPE_REFUSED = "scope.refused"
    QUOTA_SET = "quota.set"
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_CHANGED = "webhook.changed"
    WEBHOOK_DELETED = "webhook.deleted"
    WEBHOOK_SECRET_ROTATED = "webhook.secret_rotated"
    JOB_DELETED = "job.deleted"
    FILE_DELETED = "file.deleted"
    CACHE_CLEARED = "cache.cleared"


@dataclass(frozen=True, slots=True)
class Actor:
    """The id of a key, with the request it came with; or the operator, who has the database itself."""

    name: str
    request_id: str | None = None
    address: str | None = None


OPERATOR = Actor("operator")


def note(session: Session, tenant_id: str, by: Actor, act: Act, object: str, **detail: object) -> None:
    """Add an entry to the tenant's log, in the caller's transaction."""
    id = new_id(PREFIX)
    session.add(
        AuditEntry(
            id=id,
            created_at=born(id),
            tenant_id=tenant_id,
            actor=by.name,
            action=act.value,
            object=object,
            detail=detail,
            request_id=by.request_id,
            address=by.address,
        )
    )
    session.flush()


def noted_lately(session: Session, tenant_id: str, by: Actor, act: Act, object: str, within: timedelta) -> bool:
    """Whether the log says so already. For what a client can do a thousand times a second without being stopped."""
    query = select(AuditEntry.id).where(
        AuditEntry.tenant_id == tenant_id,
        AuditEntry.created_at > func.now() - within,
        AuditEntry.actor == by.name,
        AuditEntry.action == act.value,
        AuditEntry.object == object,
    )
    return session.scalar(query.limit(1)) is not None


def listing(
    session: Session, tenant_id: str, after: str | None, limit: int, action: Act | None = None
) -> Page[AuditEntry]:
    """A part of the tenant's log, newest first."""
    query = select(AuditEntry).where(AuditEntry.tenant_id == tenant_id)
    if action is not None:
        query = query.where(AuditEntry.action == action.value)
    return page(session.scalars(beyond(query, tenant_id, AuditEntry, after, limit, "desc", PREFIX)).all(), limit)


@dataclass(frozen=True, slots=True)
class Told:
    """An entry, and whose it is by name: as the operator reads it."""

    tenant: str
    entry: AuditEntry


def latest(session: Session, limit: int, tenant_name: str | None = None) -> list[Told]:
    """The newest entries of one tenant or of all, the newest first."""
    query = select(Tenant.name, AuditEntry).join(AuditEntry, AuditEntry.tenant_id == Tenant.id)
    if tenant_name is not None:
        query = query.where(Tenant.name == tenant_name)
    rows = session.execute(query.order_by(AuditEntry.created_at.desc(), AuditEntry.id.desc()).limit(limit))
    return [Told(name, entry) for name, entry in rows]
