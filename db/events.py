"""The log of a job: what happened to it, written in the transaction in which it happened.

Single requests have none: there are too many of them, and who made one is waiting for its answer.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db.cursors import Page, UnknownCursor, page
from db.models import JobEvent
from db.notices import EVENTS
from db.states import JobEventType

_LARGEST = 2**63 - 1

# Whoever listens hears whose log has grown, with the commit.
_NOTE = text("""
    WITH noted AS (
        INSERT INTO job_events (job_id, tenant_id, type, detail)
        SELECT id, tenant_id, :type, CAST(:detail AS jsonb) FROM jobs
        WHERE id = ANY(CAST(:jobs AS text[])) AND NOT interactive ORDER BY id
        RETURNING tenant_id
    ) SELECT pg_notify(:channel, tenant_id) FROM (SELECT DISTINCT tenant_id FROM noted) AS theirs
""")


def note(session: Session, job_id: str, type: JobEventType, **detail: object) -> None:
    """Add to the log of the job, in the caller's transaction. No texts, and no names that a client gave."""
    note_all(session, [job_id], type, **detail)


def note_all(session: Session, job_ids: Sequence[str], type: JobEventType, **detail: object) -> None:
    """The same of several jobs, which may be of several tenants."""
    if job_ids:
        values = {"jobs": list(job_ids), "type": type.value, "detail": msgspec.json.encode(detail).decode()}
        session.execute(_NOTE, values | {"channel": EVENTS})


def position(after: str) -> int:
    """What a client sent to go on behind, as `listing` takes it. UnknownCursor for what cannot be an event's id.

    >>> position("17"), position("0")
    (17, 0)
    """
    # Of an id that was never given out one goes on as well: ids only grow.
    if not (after.isascii() and after.isdigit()) or len(after) > 19 or int(after) > _LARGEST:
        raise UnknownCursor(after)
    return int(after)


def newest(session: Session, tenant_id: str) -> int:
    """The id of the tenant's last event, 0 if there is none: what is committed later has a higher one."""
    query = select(JobEvent.id).where(JobEvent.tenant_id == tenant_id).order_by(JobEvent.id.desc())
    return session.scalar(query.limit(1)) or 0


def listing(
    session: Session, tenant_id: str, job_id: str | None, after: int, limit: int, upto: int | None = None
) -> Page[JobEvent]:
    """What follows `after` in the log of one job, or of all, up to and with `upto`: the oldest first.

    Nothing appears later behind an id that was read, so `after` the last one of a page nothing is missed.
    """
    query = select(JobEvent).where(JobEvent.tenant_id == tenant_id, JobEvent.id > after)
    if upto is not None:
        query = query.where(JobEvent.id <= upto)
    if job_id is not None:
        query = query.where(JobEvent.job_id == job_id)
    return page(session.scalars(query.order_by(JobEvent.id).limit(limit + 1)).all(), limit)
