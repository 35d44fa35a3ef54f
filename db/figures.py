"""Numbers of the whole service, of all tenants together and without whose; for metrics."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.workers import ALIVE_SECONDS


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for a model (None: each item names its own).

    `oldest_seconds` is the age of the oldest job with items that wait and that is not paused; 0 if there is none.
    """

    model: str | None
    jobs: int
    items: int
    tokens: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Webhook deliveries that have not ended, and how long the one due longest has been due."""

    waiting: int
    overdue_seconds: float


def open_jobs(session: Session) -> dict[str, int]:
    """Jobs that have not ended, by status."""
    rows = session.execute(text("SELECT status, count(*) FROM open_work GROUP BY status"))
    return {status: count for status, count in rows}


def backlogs(session: Session) -> list[Backlog]:
    """Of every model for which something waits."""
    rows = session.execute(
        text("""
            SELECT model, count(*) AS jobs, sum(queued) AS items, sum(queued_tokens) AS tokens,
                coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE NOT paused)), 0) AS oldest_seconds
            FROM open_work WHERE status = 'in_progress' AND queued > 0 GROUP BY model
        """)
    )
    return [Backlog(row.model, row.jobs, int(row.items), int(row.tokens), float(row.oldest_seconds)) for row in rows]


def ready_chunks(session: Session) -> dict[str, int]:
    """Chunks that a worker could take, by model."""
    rows = session.execute(text("SELECT model, count(*) FROM ready_work GROUP BY model"))
    return {model: count for model, count in rows}


def live_workers(session: Session) -> int:
    """Processes that have written their heartbeat lately, those without models too."""
    alive = {"alive": ALIVE_SECONDS}
    query = text("SELECT count(*) FROM workers WHERE heartbeat_at > now() - :alive * interval '1 second'")
    return int(session.execute(query, alive).scalar_one())


def serving(session: Session) -> dict[str, int]:
    """Live workers by the model that they serve; each counts for every one of its models, unless it cannot load it."""
    rows = session.execute(
        text("""
            SELECT model, count(*) FILTER (WHERE NOT unavailable ? model)
            FROM workers CROSS JOIN jsonb_array_elements_text(models) AS model
            WHERE heartbeat_at > now() - :alive * interval '1 second' GROUP BY model
        """),
        {"alive": ALIVE_SECONDS},
    )
    return {model: count for model, count in rows}


def speeds(session: Session) -> dict[str, float]:
    """Measured tokens a second of a worker, by model."""
    rows = session.execute(text("SELECT model, tokens_per_second FROM model_rates"))
    return {model: float(rate) for model, rate in rows}


def deliveries(session: Session) -> Deliveries:
    """For sessions that see every tenant's."""
    row = session.execute(
        text("""
            SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(due_at)), 0) AS overdue
            FROM deliveries WHERE state = 'pending'
        """)
    ).one()
    return Deliveries(row.waiting, max(0.0, float(row.overdue)))
