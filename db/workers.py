"""Which worker processes live, what they serve and what they cannot."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

ALIVE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Presence:
    """What a worker process says of itself with every heartbeat."""

    id: str
    host: str
    pid: int
    device: str
    version: str
    models: list[str]
    loaded: list[str] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    # What it does at the moment; workers/activity.py says what there is.
    activity: dict[str, Any] = field(default_factory=dict)


def beat(session: Session, presence: Presence) -> None:
    """Write the worker's row, with the database's clock."""
    session.execute(
        text("""
            INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable, activity)
            VALUES (:id, :host, :pid, :device, :version, CAST(:models AS jsonb), CAST(:loaded AS jsonb),
                    CAST(:unavailable AS jsonb), CAST(:activity AS jsonb))
            ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), device = excluded.device, models = excluded.models,
                loaded = excluded.loaded, unavailable = excluded.unavailable, activity = excluded.activity
        """),
        {
            "id": presence.id,
            "host": presence.host,
            "pid": presence.pid,
            "device": presence.device,
            "version": presence.version,
            "models": msgspec.json.encode(presence.models).decode(),
            "loaded": msgspec.json.encode(presence.loaded).decode(),
            "unavailable": msgspec.json.encode(presence.unavailable).decode(),
            "activity": msgspec.json.encode(presence.activity).decode(),
        },
    )


@dataclass(frozen=True, slots=True)
class OwnLease:
    """A chunk of the asking tenant that a worker holds; `progress` of its items are done."""

    job_id: str
    model: str
    items: int
    progress: int
    attempt: int
    since: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker as the ledger knows it: its last words, and what it holds of everybody and of the asking tenant."""

    presence: Presence
    is_alive: bool
    started_at: datetime
    heartbeat_at: datetime
    leased_chunks: int
    leased_items: int
    own: list[OwnLease]


_SEEN = text("""
    SELECT worker.*, worker.heartbeat_at > now() - :alive * interval '1 second' AS is_alive,
        leased.chunks AS leased_chunks, leased.items AS leased_items
    FROM workers worker CROSS JOIN LATERAL (
        SELECT count(*) AS chunks, coalesce(sum(items), 0) AS items FROM leased_work WHERE lease_owner = worker.id
    ) AS leased
    ORDER BY is_alive DESC, worker.host, worker.started_at, worker.id
""")
_OWN_LEASES = text("""
    SELECT chunk.lease_owner, chunk.job_id, chunk.model, chunk.items, chunk.progress, chunk.attempt, chunk.started_at,
        chunk.lease_expires_at
    FROM chunks chunk JOIN jobs job ON job.id = chunk.job_id
    WHERE chunk.state = 'leased' AND job.tenant_id = :tenant ORDER BY chunk.started_at, chunk.id
""")


def seen(session: Session, tenant_id: str) -> list[Seen]:
    """All workers, those alive first; those that went missing are there for an hour. For sessions of a tenant."""
    own: dict[str, list[OwnLease]] = {}
    for row in session.execute(_OWN_LEASES, {"tenant": tenant_id}):
        own.setdefault(row.lease_owner, []).append(OwnLease(*row[1:]))
    return [
        Seen(
            Presence(
                row.id,
                row.host,
                row.pid,
                row.device,
                row.version,
                row.models,
                row.loaded,
                row.unavailable,
                row.activity,
            ),
            row.is_alive,
            row.started_at,
            row.heartbeat_at,
            row.leased_chunks,
            int(row.leased_items),
            own.get(row.id, []),
        )
        for row in session.execute(_SEEN, {"alive": ALIVE_SECONDS})
    ]


def leave(session: Session, worker_id: str) -> None:
    session.execute(text("DELETE FROM workers WHERE id = :id"), {"id": worker_id})


def forget_dead(session: Session) -> None:
    """Remove rows of processes not heard of for an hour; until then they show that one went missing."""
    session.execute(text("DELETE FROM workers WHERE heartbeat_at < now() - interval '1 hour'"))
