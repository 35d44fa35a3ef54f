"""Which worker processes live, what they serve and what they cannot."""

from dataclasses import dataclass, field

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


def beat(session: Session, presence: Presence) -> None:
    """Write the worker's row, with the database's clock."""
    session.execute(
        text("""
            INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable)
            VALUES (:id, :host, :pid, :device, :version, CAST(:models AS jsonb), CAST(:loaded AS jsonb),
                    CAST(:unavailable AS jsonb))
            ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), device = excluded.device, models = excluded.models,
                loaded = excluded.loaded, unavailable = excluded.unavailable
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
        },
    )


def leave(session: Session, worker_id: str) -> None:
    session.execute(text("DELETE FROM workers WHERE id = :id"), {"id": worker_id})


def forget_dead(session: Session) -> None:
    """Remove rows of processes not heard of for an hour; until then they show that one went missing."""
    session.execute(text("DELETE FROM workers WHERE heartbeat_at < now() - interval '1 hour'"))
