"""Keeping leases on chunks alive, and taking back those whose worker is gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import events
from db.chunks import LEASE_SECONDS, MAX_CRASHES, SPLIT_CRASHES
from db.recording import NewResult, record
from db.states import ChunkState, JobEventType, JobStatus, Outcome
from db.steps import STEP_LEASE_SECONDS


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life for one lease. `is_begun`: the chunk is on the device, so its deadline runs."""

    chunk_id: int
    attempt: int
    progress: int
    is_begun: bool


_RENEW = text("""
    UPDATE chunks SET progress = beat.progress, hard_deadline = beat.hard_deadline,
        lease_expires_at = least(now() + :lease * interval '1 second', beat.hard_deadline)
    FROM (
        SELECT mine.id, mine.attempt, mine.progress,
            CASE WHEN mine.is_begun THEN held.hard_deadline ELSE now() + :budget * interval '1 second' END
                AS hard_deadline
        FROM unnest(CAST(:chunks AS bigint[]), CAST(:attempts AS int[]), CAST(:progress AS int[]),
            CAST(:begun AS bool[])) AS mine(id, attempt, progress, is_begun)
        JOIN chunks held ON held.id = mine.id
    ) AS beat
    WHERE chunks.id = beat.id AND chunks.attempt = beat.attempt AND chunks.state = 'leased'
""")
_HELD = text("""
    SELECT chunk.id, chunk.attempt, job.status FROM chunks chunk JOIN jobs job ON job.id = chunk.job_id
    JOIN unnest(CAST(:chunks AS bigint[]), CAST(:attempts AS int[])) AS mine(id, attempt)
        ON chunk.id = mine.id AND chunk.attempt = mine.attempt
    WHERE chunk.state = 'leased'
""")


def renew(session: Session, beats: Sequence[Beat], budget_seconds: float) -> None:
    """Extend leases, never past their hard deadline; that one moves on only while the chunk waits for the device."""
    session.execute(
        _RENEW,
        {
            "chunks": [beat.chunk_id for beat in beats],
            "attempts": [beat.attempt for beat in beats],
            "progress": [beat.progress for beat in beats],
            "begun": [beat.is_begun for beat in beats],
            "lease": LEASE_SECONDS,
            "budget": budget_seconds,
        },
    )


def held(session: Session, leases: Sequence[tuple[int, int]]) -> dict[tuple[int, int], JobStatus]:
    """Those of the leases (chunk id, attempt) that still stand, with their job's status: not in_progress means stop."""
    chunks, attempts = [chunk for chunk, _ in leases], [attempt for _, attempt in leases]
    rows = session.execute(_HELD, {"chunks": chunks, "attempts": attempts})
    return {(row.id, row.attempt): JobStatus(row.status) for row in rows}


def inherit(session: Session, slot: str, heir: str) -> None:
    """Let the leases of earlier owners under the slot (owners' names begin with it) run out now: they are dead.

    If one is not, after all, its fence is gone with the lease: it can waste work, but not write.
    """
    values = {"slot": slot, "heir": heir}
    session.execute(
        text("""
            UPDATE chunks SET lease_expires_at = now() - interval '1 s'
            WHERE state = 'leased' AND starts_with(lease_owner, :slot) AND lease_owner <> :heir
        """),
        values,
    )
    session.execute(
        text("""
            UPDATE jobs SET step_expires_at = now() - interval '1 s'
            WHERE starts_with(step_owner, :slot) AND step_owner <> :heir
                AND status IN ('validating', 'finalizing', 'cancelling')
        """),
        values,
    )
    session.execute(text("DELETE FROM workers WHERE starts_with(id, :slot) AND id <> :heir"), values)


_SHORTEN_CHUNKS = text("""
    UPDATE chunks SET lease_expires_at = now() + :lease * interval '1 second'
    WHERE state = 'leased' AND lease_expires_at > now() + (:lease + :slack) * interval '1 second'
""")
_SHORTEN_STEPS = text("""
    UPDATE jobs SET step_expires_at = now() + :lease * interval '1 second'
    WHERE status IN ('validating', 'finalizing', 'cancelling')
        AND step_expires_at > now() + (:lease + :slack) * interval '1 second'
""")
_SLACK_SECONDS = 5


def shorten(session: Session) -> None:
    """Cut leases that are longer than any lease is: the database's clock was set back while they ran.

    Whoever is alive renews theirs as before; of a process that died they would have lasted as long as the clock lost.
    """
    session.execute(_SHORTEN_CHUNKS, {"lease": LEASE_SECONDS, "slack": _SLACK_SECONDS})
    session.execute(_SHORTEN_STEPS, {"lease": STEP_LEASE_SECONDS, "slack": _SLACK_SECONDS})


def acquit(session: Session, chunk_id: int, known_crashes: int) -> bool:
    """Take back the crash that a worker is charged with whose lease ran out and that is alive; whether there was one.

    It was frozen, or cut off from the database, and the chunk is not to blame. `known_crashes` are those of when it
    was claimed. Only for a chunk that ran to its end: one that hangs the device must stay charged.
    """
    acquitted = session.execute(
        text("""
            UPDATE chunks SET crashes = crashes - 1
            WHERE state IN ('ready', 'leased')
                AND ((id = :chunk AND crashes > :known) OR (parent_id = :chunk AND crashes > 0))
            RETURNING id
        """),
        {"chunk": chunk_id, "known": known_crashes},
    )
    return acquitted.first() is not None


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """An expired lease and what became of its chunk."""

    chunk_id: int
    job_id: str
    model: str
    state: ChunkState
    finalize: bool
    # Items of it that have their outcome now: those that failed, and those that ended with their job, as it is.
    failed: int = 0
    left: int = 0
    status: JobStatus = JobStatus.IN_PROGRESS


def reclaim(session: Session) -> Reclaimed | None:
    """Take back one expired lease: the chunk is ready again, split, or (a lone killer item) failed.

    One a transaction, so that a failure with one chunk does not hold up the others. None when no
    lease is expired.
    """
    chunk = session.execute(
        text("""
            SELECT id, attempt, job_id, model, items, crashes + 1 AS crashes FROM chunks
            WHERE state = 'leased' AND lease_expires_at < now()
            ORDER BY lease_expires_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
        """)
    ).one_or_none()
    if chunk is None:
        return None
    session.execute(text("UPDATE chunks SET crashes = crashes + 1 WHERE id = :id"), {"id": chunk.id})
    groups = _groups(session, chunk.id) if chunk.crashes >= SPLIT_CRASHES else []
    if len(groups) > 1 and _is_running(session, chunk.job_id):
        _split(session, chunk.id, chunk.attempt, groups)
        _note_loss(session, chunk, ChunkState.SPLIT)
        return Reclaimed(chunk.id, chunk.job_id, chunk.model, ChunkState.SPLIT, finalize=False)
    lone = groups[0] if len(groups) == 1 and chunk.crashes >= MAX_CRASHES else []
    recorded = record(session, chunk.id, chunk.attempt, [_crashed(idx, chunk.crashes) for idx in lone])
    state = ChunkState.READY if recorded.handed_back else ChunkState.DONE
    left = chunk.items - len(lone) - recorded.handed_back
    _note_loss(session, chunk, state)
    whose = (chunk.id, chunk.job_id, chunk.model)
    return Reclaimed(*whose, state, recorded.finalize, len(lone), left, recorded.status)


def _note_loss(session: Session, chunk: Any, became: ChunkState) -> None:
    events.note(
        session,
        chunk.job_id,
        JobEventType.CHUNK_LOST,
        chunk=chunk.id,
        items=chunk.items,
        became=became.value,
        # How often it has cost a worker by now.
        crashes=chunk.crashes,
        why="its worker was not heard of until the lease ran out",
    )


def _crashed(idx: int, crashes: int) -> NewResult:
    message = f"the worker process died {crashes} times while it ran this item alone or in its chunk"
    return NewResult(idx, Outcome.FAILED, error_code="worker_crashed", error_message=message)


def _is_running(session: Session, job_id: str) -> bool:
    status = session.execute(text("SELECT status FROM jobs WHERE id = :job FOR UPDATE"), {"job": job_id}).scalar_one()
    return JobStatus(status) is JobStatus.IN_PROGRESS


def _groups(session: Session, chunk_id: int) -> list[list[int]]:
    """The chunk's open items; an item and its twins stay together, because they are computed once."""
    rows = session.execute(
        text("""
            SELECT array_agg(item.idx ORDER BY item.idx) FROM items item
            WHERE item.chunk_id = :chunk
              AND NOT EXISTS (SELECT FROM results r WHERE r.job_id = item.job_id AND r.idx = item.idx)
            GROUP BY coalesce(item.same_as, item.idx) ORDER BY 1
        """),
        {"chunk": chunk_id},
    )
    return list(rows.scalars())


def _split(session: Session, chunk_id: int, attempt: int, groups: list[list[int]]) -> None:
    """Give every item (with its twins) a chunk of its own, two crashes away from being failed.

    Straight to single items, because a dead worker costs more - a model load, the time until its
    lease runs out - than the few milliseconds that a chunk does: a killer is found at the fourth death.
    """
    total = sum(map(len, groups))
    for idxs in groups:
        session.execute(
            text("""
                WITH piece AS (
                    INSERT INTO chunks (job_id, model, params, items, tokens, of_twins, crashes, parent_id)
                    SELECT job_id, model, params, :items, tokens * :items / :total, of_twins, :crashes, id
                    FROM chunks WHERE id = :chunk RETURNING id, job_id
                )
                UPDATE items SET chunk_id = piece.id FROM piece
                WHERE items.job_id = piece.job_id AND items.idx = ANY(:idxs)
            """),
            {"chunk": chunk_id, "items": len(idxs), "total": total, "crashes": SPLIT_CRASHES - 1, "idxs": idxs},
        )
    closed = session.execute(
        text("""
            UPDATE chunks SET state = 'split', lease_owner = NULL, lease_expires_at = NULL, hard_deadline = NULL,
                finished_at = now()
            WHERE id = :chunk AND attempt = :attempt AND state = 'leased' RETURNING job_id
        """),
        {"chunk": chunk_id, "attempt": attempt},
    ).one()
    session.execute(
        text("""
            UPDATE jobs SET running = running - :items, queued = queued + :items, queued_tokens = queued_tokens + (
                SELECT sum(tokens) FROM chunks WHERE parent_id = :chunk)
            WHERE id = :job
        """),
        {"items": total, "chunk": chunk_id, "job": closed.job_id},
    )
