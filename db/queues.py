"""What waits and what runs, model by model: of everybody, and of the asking tenant. For sessions of a tenant."""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a queue: jobs that have items waiting there, the items and their tokens as estimated, and what runs."""

    jobs: int = 0
    items: int = 0
    tokens: int = 0
    running_items: int = 0


@dataclass(frozen=True, slots=True)
class Queue:
    """What there is for a model to do. `all` is of every tenant, and `own` of the asking one.

    Items of paused jobs are in `paused_items` and in neither share. `oldest_at` is when the job began that has waited
    longest, of those that are not paused.
    """

    model: str
    all: Share = field(default_factory=Share)
    own: Share = field(default_factory=Share)
    chunks: int = 0
    leased_chunks: int = 0
    paused_items: int = 0
    oldest_at: datetime | None = None


# What is the tenant's own, the policies of chunks and jobs tell.
_OWN = """
    SELECT chunk.model, count(DISTINCT job.id) FILTER (WHERE chunk.state = 'ready') AS jobs,
        coalesce(sum(chunk.items) FILTER (WHERE chunk.state = 'ready'), 0) AS items,
        coalesce(sum(chunk.tokens) FILTER (WHERE chunk.state = 'ready'), 0) AS tokens,
        coalesce(sum(chunk.items) FILTER (WHERE chunk.state = 'leased'), 0) AS running
    FROM chunks chunk JOIN jobs job ON job.id = chunk.job_id
    WHERE job.tenant_id = :tenant
        AND (chunk.state = 'leased' OR (chunk.state = 'ready' AND job.status = 'in_progress' AND NOT job.paused))
    GROUP BY chunk.model
"""
_QUEUES = text(f"""
    WITH leased AS (
        SELECT model, count(*) AS chunks, sum(items) AS items FROM leased_work GROUP BY model
    ), queued AS (
        SELECT model, sum(jobs) FILTER (WHERE NOT paused) AS jobs, sum(items) FILTER (WHERE NOT paused) AS items,
            sum(tokens) FILTER (WHERE NOT paused) AS tokens, sum(chunks) FILTER (WHERE NOT paused) AS chunks,
            sum(items) FILTER (WHERE paused) AS paused_items, min(oldest_at) FILTER (WHERE NOT paused) AS oldest_at
        FROM queued_work GROUP BY model
    ), own AS ({_OWN})
    SELECT model, coalesce(queued.jobs, 0) AS jobs, coalesce(queued.items, 0) AS items,
        coalesce(queued.tokens, 0) AS tokens, coalesce(queued.chunks, 0) AS chunks,
        coalesce(queued.paused_items, 0) AS paused_items, queued.oldest_at,
        coalesce(leased.chunks, 0) AS leased_chunks, coalesce(leased.items, 0) AS running_items,
        coalesce(own.jobs, 0) AS own_jobs, coalesce(own.items, 0) AS own_items,
        coalesce(own.tokens, 0) AS own_tokens, coalesce(own.running, 0) AS own_running
    FROM queued FULL JOIN leased USING (model) LEFT JOIN own USING (model)
""")


def queues(session: Session, tenant_id: str) -> dict[str, Queue]:
    """The queues in which there is something, by model."""
    rows = session.execute(_QUEUES, {"tenant": tenant_id})
    return {
        row.model: Queue(
            row.model,
            Share(int(row.jobs), int(row.items), int(row.tokens), int(row.running_items)),
            Share(int(row.own_jobs), int(row.own_items), int(row.own_tokens), int(row.own_running)),
            int(row.chunks),
            int(row.leased_chunks),
            int(row.paused_items),
            row.oldest_at,
        )
        for row in rows
    }
