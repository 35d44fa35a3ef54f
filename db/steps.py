"""The lease on a job's own steps, ingest and finalize: one process at a time, fenced by `step_attempt`."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import LeaseLost
from db.states import JobStatus

STEP_LEASE_SECONDS = 30
Step = Literal["ingest", "finalize"]

# Which jobs a step is due for. A cancelling job is finalized once no worker holds items of it;
# one that is cancelled while it is being validated has none.
_DUE = {
    "ingest": "status = 'validating'",
    "finalize": "(status = 'finalizing' OR status = 'cancelling')",
}


@dataclass(frozen=True, slots=True)
class StepLease:
    job_id: str
    attempt: int
    # The trace that the job belongs to.
    traceparent: str | None = None


def due(session: Session, step: Step, limit: int = 20) -> list[str]:
    """Jobs that wait for the step and that nobody is at, oldest first, but after them those that keep failing."""
    rows = session.execute(
        text(f"""
            SELECT id FROM jobs WHERE {_DUE[step]} AND (step_expires_at IS NULL OR step_expires_at < now())
            ORDER BY step_attempt / 10, created_at LIMIT :limit
        """),
        {"limit": limit},
    )
    return list(rows.scalars())


def take(session: Session, job_id: str, step: Step, owner: str) -> StepLease | None:
    """Lease the step, or None when it is not due or somebody else is at it."""
    row = session.execute(
        text(f"""
            UPDATE jobs SET step_attempt = step_attempt + 1, step_owner = :owner,
                step_expires_at = now() + :lease * interval '1 second'
            WHERE id = :job AND {_DUE[step]} AND (step_expires_at IS NULL OR step_expires_at < now())
            RETURNING step_attempt, traceparent
        """),
        {"job": job_id, "owner": owner, "lease": STEP_LEASE_SECONDS},
    ).one_or_none()
    return StepLease(job_id, row.step_attempt, row.traceparent) if row else None


def hold(session: Session, lease: StepLease, *expected: JobStatus) -> JobStatus:
    """Lock the job's row, extend the lease, and return the status; LeaseLost if any of that is not ours.

    Every transaction of a step begins with this. `expected` (default: any) are the statuses in
    which the step may go on; another one means the job was cancelled or deleted under it.
    """
    row = session.execute(
        text("""
            UPDATE jobs SET step_expires_at = now() + :lease * interval '1 second'
            WHERE id = :job AND step_attempt = :attempt AND step_owner IS NOT NULL RETURNING status
        """),
        {"job": lease.job_id, "attempt": lease.attempt, "lease": STEP_LEASE_SECONDS},
    ).one_or_none()
    if row is None or (expected and JobStatus(row.status) not in expected):
        raise LeaseLost(f"a step of job {lease.job_id}", lease.attempt)
    return JobStatus(row.status)


def leave(session: Session, lease: StepLease) -> None:
    """Give the step up, done or not. Harmless when the lease is already lost."""
    session.execute(
        text("""
            UPDATE jobs SET step_owner = NULL, step_expires_at = NULL
            WHERE id = :job AND step_attempt = :attempt
        """),
        {"job": lease.job_id, "attempt": lease.attempt},
    )
