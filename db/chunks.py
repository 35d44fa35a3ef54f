"""Chunks: who runs next, the claim, the hand-back, and the split of one that kills its workers.

Lock order everywhere: chunk, then job. Every statement that changes a chunk repeats the state and
the attempt it was judged by, and every move of items is mirrored in the job's counts in the same
transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.states import JobStatus, leftover

LEASE_SECONDS = 30
# A job that nothing was claimed from for this long goes before any priority.
STARVED_SECONDS = 120
# A model that is not loaded yet is fetched once its job has waited this long, or nothing else is ready.
SWAP_PATIENCE_SECONDS = 15
# A chunk that cost this many workers is cut into single items, each of which keeps one of the deaths.
SPLIT_CRASHES = 2
# A single item is failed once it has so many: two of its own, because one may have had another cause.
MAX_CRASHES = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that has ready chunks for a model."""

    job_id: str
    model: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on a chunk: `attempt` is the fencing token that its results must carry."""

    chunk_id: int
    attempt: int
    job_id: str
    model: str
    params: dict[str, Any]
    long_input: str
    items: int
    tokens: int
    # Workers that died while they held it. One more may be its own fault, so it is best held alone.
    crashes: int
    # Somebody waits for it; its speed is that of a single item, and tells nothing of the model's.
    interactive: bool = False
    # How long its job has waited for it, and the trace that the job belongs to.
    waited_seconds: float = 0.0
    traceparent: str | None = None
    # Whose it is, and whether results may come from that tenant's cache, and go there.
    tenant_id: str = ""
    cache: bool = False


class ClaimedItem(msgspec.Struct, frozen=True):
    """`same_as` may be the index of an item of the same chunk, or of one that was cut before it."""

    idx: int
    input: dict[str, Any]
    same_as: int | None


# Chunks of twins are left until all that they may be equal to are through: they copy those results, which takes no
# device. Waiting for them costs nothing either, because the job cannot end before.
_FIRSTS = "SELECT FROM chunks first WHERE first.job_id = {job} AND first.model = {model} AND NOT first.of_twins"
_READY_FIRSTS = f"EXISTS ({_FIRSTS} AND first.state = 'ready')"
_LEASED_FIRSTS = f"EXISTS ({_FIRSTS} AND first.state = 'leased')"

_CANDIDATES = text(f"""
    SELECT job.id, wanted.model
    FROM jobs job
    CROSS JOIN unnest(CAST(:models AS text[])) AS wanted(model)
    LEFT JOIN model_rates rate ON rate.model = wanted.model
    CROSS JOIN LATERAL (
        SELECT extract(epoch FROM now() - coalesce(job.last_claimed_at, job.in_progress_at)) AS seconds
    ) AS waited
    WHERE job.status = 'in_progress' AND NOT job.paused AND job.queued > 0
      AND ({_READY_FIRSTS.format(job="job.id", model="wanted.model")}
        OR (EXISTS (SELECT FROM chunks c WHERE c.job_id = job.id AND c.model = wanted.model AND c.state = 'ready')
          AND NOT {_LEASED_FIRSTS.format(job="job.id", model="wanted.model")}))
    ORDER BY
        -- Somebody waits for it. Where many jobs take turns one of them has always starved, so that goes before only
        -- if all have: if nothing but requests was served for so long.
        (job.interactive AND coalesce(extract(epoch FROM now() - coalesce(
            max(job.last_claimed_at) FILTER (WHERE NOT job.interactive) OVER (),
            min(job.in_progress_at) FILTER (WHERE NOT job.interactive) OVER ())), 0) <= :starved) DESC,
        waited.seconds > :starved DESC,
        job.priority DESC,
        -- Urgent: what is left takes more than half of the time that is left.
        coalesce(extract(epoch FROM job.expires_at - now()) < 2 * job.queued_tokens / rate.tokens_per_second, false)
            DESC,
        (wanted.model = ANY(CAST(:loaded AS text[])) OR waited.seconds > :patience) DESC,
        -- Fair between tenants, then between the jobs of one: whoever was served longest ago.
        max(job.last_claimed_at) OVER (PARTITION BY job.tenant_id) ASC NULLS FIRST,
        job.last_claimed_at ASC NULLS FIRST,
        job.created_at, job.id
    LIMIT 20
""")

_CLAIM = text(f"""
    UPDATE chunks SET
        state = 'leased', attempt = attempt + 1, lease_owner = :owner, progress = 0,
        started_at = now(), hard_deadline = now() + :budget * interval '1 second',
        lease_expires_at = now() + least(:lease, :budget) * interval '1 second'
    WHERE id = (
        SELECT id FROM chunks WHERE job_id = :job AND model = :model AND state = 'ready'
            -- Also of those that others are just about to lease, which the lock makes us skip.
            AND (NOT of_twins OR NOT ({_READY_FIRSTS.format(job=":job", model=":model")}
                OR {_LEASED_FIRSTS.format(job=":job", model=":model")}))
        ORDER BY of_twins, id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AND state = 'ready'
    RETURNING id, attempt, model, params, items, tokens, crashes
""")

_START = text("""
    UPDATE jobs SET queued = queued - :items, running = running + :items,
        queued_tokens = queued_tokens - :tokens, last_claimed_at = clock_timestamp()
    WHERE id = :job AND status = 'in_progress' AND NOT paused
    RETURNING long_input, interactive, traceparent, tenant_id, cache,
        greatest(0, extract(epoch FROM clock_timestamp() - in_progress_at))::float8 AS waited
""")


def candidates(session: Session, models: Sequence[str], loaded: Sequence[str]) -> list[Candidate]:
    """Jobs to serve next, best first, among those that have ready chunks for `models`."""
    rows = session.execute(
        _CANDIDATES,
        {
            "models": list(models),
            "loaded": list(loaded),
            "starved": STARVED_SECONDS,
            "patience": SWAP_PATIENCE_SECONDS,
        },
    )
    return [Candidate(*row) for row in rows]


def claim(session: Session, candidate: Candidate, owner: str, budget_seconds: float) -> Claim | None:
    """Lease the next ready chunk of the candidate, or None when others took them or the job stopped.

    The lease needs heartbeats and never outlives `budget_seconds`, whatever the heartbeats say.
    The caller rolls back on None: a chunk may have been taken for a job that just ceased to run.
    """
    values = {"owner": owner, "budget": budget_seconds, "lease": LEASE_SECONDS}
    chunk = session.execute(_CLAIM, values | {"job": candidate.job_id, "model": candidate.model}).one_or_none()
    if chunk is None:
        return None
    job = session.execute(_START, {"job": candidate.job_id, "items": chunk.items, "tokens": chunk.tokens}).one_or_none()
    if job is None:
        return None
    return Claim(
        chunk.id,
        chunk.attempt,
        candidate.job_id,
        chunk.model,
        chunk.params,
        job.long_input,
        chunk.items,
        chunk.tokens,
        chunk.crashes,
        job.interactive,
        job.waited or 0.0,
        job.traceparent,
        job.tenant_id,
        job.cache,
    )


_ITEMS = text("""
    SELECT item.idx, item.input, item.same_as FROM items item
    WHERE item.chunk_id = :chunk
      AND NOT EXISTS (SELECT FROM results r WHERE r.job_id = item.job_id AND r.idx = item.idx)
    ORDER BY item.idx
""")


def items_of(session: Session, chunk_id: int) -> list[ClaimedItem]:
    """The chunk's items that have no result yet (some may, after a hand-back in the middle)."""
    return [ClaimedItem(*row) for row in session.execute(_ITEMS, {"chunk": chunk_id})]


def drop_ready(session: Session, job_id: str, status: JobStatus) -> int:
    """Close every chunk nobody runs, of a job that is cancelled or out of time; the count of its items.

    Chunks that are leased are left to their workers, who notice within a second.
    """
    into = leftover(status)
    closed = session.execute(
        text("""
            WITH closed AS (
                UPDATE chunks SET state = 'done', finished_at = now()
                WHERE id IN (SELECT id FROM chunks WHERE job_id = :job AND state = 'ready' FOR UPDATE)
                RETURNING items, tokens
            ) SELECT coalesce(sum(items), 0) AS items, coalesce(sum(tokens), 0) AS tokens FROM closed
        """),
        {"job": job_id},
    ).one()
    if closed.items:
        session.execute(
            text(f"""
                UPDATE jobs SET queued = queued - :items, {into} = {into} + :items,
                    queued_tokens = queued_tokens - :tokens
                WHERE id = :job
            """),
            {"job": job_id, "items": closed.items, "tokens": closed.tokens},
        )
    return int(closed.items)


def target_languages(session: Session, job_id: str) -> list[str | None]:
    """Every language that items of the job are translated into; None for those of which it is not said."""
    rows = session.execute(
        text("SELECT DISTINCT params ->> 'target_lang' FROM chunks WHERE job_id = :job"), {"job": job_id}
    )
    return list(rows.scalars())


def open_models(session: Session, job_id: str) -> list[str]:
    """Models the job still has ready chunks for."""
    rows = session.execute(
        text("SELECT DISTINCT model FROM chunks WHERE job_id = :job AND state = 'ready'"), {"job": job_id}
    )
    return list(rows.scalars())


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk about to be written; `items` counts twins (`same_as`) too.

    One `of_twins` alone, whose firsts were written before, has nothing to compute, and no tokens.
    """

    model: str
    params: dict[str, Any]
    items: int
    tokens: int
    of_twins: bool = False


def add_chunks(session: Session, job_id: str, new: Sequence[NewChunk]) -> list[int]:
    """Insert chunks and return their ids in the same order."""
    rows = session.execute(
        text("""
            INSERT INTO chunks (job_id, model, params, items, tokens, of_twins)
            SELECT :job, model, params::jsonb, items, tokens, of_twins
            FROM unnest(CAST(:models AS text[]), CAST(:params AS text[]), CAST(:items AS int[]),
                    CAST(:tokens AS bigint[]), CAST(:of_twins AS bool[]))
                WITH ORDINALITY AS new(model, params, items, tokens, of_twins, place)
            ORDER BY place RETURNING id
        """),
        {
            "job": job_id,
            "models": [chunk.model for chunk in new],
            "params": [msgspec.json.encode(chunk.params).decode() for chunk in new],
            "items": [chunk.items for chunk in new],
            "tokens": [chunk.tokens for chunk in new],
            "of_twins": [chunk.of_twins for chunk in new],
        },
    )
    # Identity values are drawn in insertion order, so sorting restores it whatever RETURNING does.
    return sorted(rows.scalars())
