"""What passes with time: deadlines, retention, jobs that missed their last step."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import events
from db.states import JobEventType

# Only one process at a time does the upkeep; the number is arbitrary but fixed.
_LOCK = 7_205_759_404


def is_mine(session: Session) -> bool:
    """Take the upkeep lock for this transaction; False when another process has it."""
    return bool(session.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK}).scalar_one())


def expire_jobs(session: Session) -> list[str]:
    """Running jobs past their completion window begin to end; their finished items stay."""
    rows = session.execute(
        text("""
            UPDATE jobs SET status = 'finalizing', version = version + 1, finalizing_at = now()
            WHERE status = 'in_progress' AND expires_at < now() RETURNING id
        """)
    )
    ending = list(rows.scalars())
    events.note_all(session, ending, JobEventType.FINALIZING, why="the completion window has closed")
    return ending


def finish_settled(session: Session) -> list[str]:
    """Running jobs without open items begin to end. The last record does this; here in case one did not."""
    rows = session.execute(
        text("""
            UPDATE jobs SET status = 'finalizing', version = version + 1, finalizing_at = now()
            WHERE status = 'in_progress' AND queued = 0 AND running = 0 RETURNING id
        """)
    )
    ending = list(rows.scalars())
    events.note_all(session, ending, JobEventType.FINALIZING)
    return ending


def waiting_models(session: Session) -> list[str]:
    """Models for which running jobs have ready chunks."""
    rows = session.execute(
        text("""
            SELECT model FROM (
                SELECT DISTINCT model FROM jobs job
                WHERE status = 'in_progress' AND NOT paused AND queued > 0 AND model IS NOT NULL
                    AND EXISTS (SELECT FROM chunks c WHERE c.job_id = job.id AND c.state = 'ready')
            ) AS of_one_model
            UNION
            SELECT chunk.model FROM jobs job JOIN chunks chunk ON chunk.job_id = job.id AND chunk.state = 'ready'
            WHERE job.status = 'in_progress' AND NOT job.paused AND job.queued > 0 AND job.model IS NULL
        """)
    )
    return list(rows.scalars())


@dataclass(frozen=True, slots=True)
class Outlived:
    """A job that ended so long ago that it is to be deleted."""

    tenant_id: str
    job_id: str


def outlived(session: Session, retention: timedelta, limit: int, but: Sequence[str] = ()) -> list[Outlived]:
    """Jobs that ended longer ago than `retention`, oldest first, but for those named; delete each with db.jobs.delete.

    Several processes may have found the same ones: `take` each first.
    """
    rows = session.execute(
        text("""
            SELECT tenant_id, id FROM jobs
            WHERE created_at < now() - :retention AND NOT interactive
                AND coalesce(completed_at, failed_at, expired_at, cancelled_at) < now() - :retention
                AND status IN ('completed', 'failed', 'expired', 'cancelled') AND id <> ALL(:but)
            ORDER BY created_at LIMIT :limit
        """),
        {"retention": retention, "limit": limit, "but": list(but)},
    )
    return [Outlived(*row) for row in rows]


def take(session: Session, job_id: str) -> bool:
    """Lock the job until the transaction ends; False when somebody else has it, or it is gone. Never waits."""
    query = text("SELECT id FROM jobs WHERE id = :job FOR UPDATE SKIP LOCKED")
    return session.execute(query, {"job": job_id}).first() is not None


def forget_idempotency_keys(session: Session) -> None:
    """A key is remembered for two days."""
    session.execute(text("DELETE FROM idempotency_keys WHERE created_at < now() - interval '2 days'"))
