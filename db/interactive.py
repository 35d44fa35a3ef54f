"""Jobs of a single request that somebody waits for: no file, no validation, no list - one item, served first."""

from dataclasses import replace
from typing import Any

from sqlalchemy import func, text
from sqlalchemy.orm import Session

from db import jobs
from db.chunks import NewChunk, add_chunks
from db.inputs import estimated_tokens
from db.intake import NewItem, add_item
from db.jobs import NewJob
from db.lines import ResultRow
from db.models import Job
from db.results import first
from db.states import JobStatus

# Above what anyone may ask for.
PRIORITY = 1000
_KEPT = "1 hour"
_FORGET_AT_ONCE = 1_000


def submit(
    session: Session,
    tenant_id: str,
    new: NewJob,
    body: dict[str, Any],
    params: dict[str, Any],
    custom_id: str = "request",
) -> Job:
    """Insert a job that is ready to run: `body` is its only item's, `params` are checked against `new.model`.

    The caller rings for that model (WORK) after commit, waits until `answer` has something (db.notices), and cancels
    the job (db.jobs.cancel, then FINALIZE) if it waits no longer. `new.expires_in` ends it should the caller die.
    """
    assert new.model is not None, "an interactive job runs at once, so its model is known"
    tokens = estimated_tokens(body)
    cost = tokens * int(params.get("n", 1))
    job = jobs.submit(session, tenant_id, replace(new, interactive=True)).job
    job.priority = PRIORITY
    job.status, job.in_progress_at = JobStatus.IN_PROGRESS.value, func.now()
    job.total = job.queued = 1
    job.queued_tokens = cost
    session.flush()
    chunk_ids = add_chunks(session, job.id, [NewChunk(new.model, params, 1, cost)])
    add_item(session, job.id, NewItem(0, custom_id, 1, body, None, tokens, chunk=0, same_as=None), chunk_ids)
    session.refresh(job)
    return job


def answer(session: Session, job_id: str) -> ResultRow | None:
    """The one item of the job with its outcome - also when it was cancelled or expired -, or None while it is open.

    It is there as soon as it is recorded, before the job's own status says so. NotFound when the job is gone.
    """
    return first(session, job_id)


def forget(session: Session) -> None:
    """Delete interactive jobs that ended an hour ago, a bounded number at a time."""
    session.execute(
        text(f"""
            DELETE FROM jobs WHERE id IN (
                SELECT id FROM jobs
                WHERE interactive AND created_at < now() - interval '{_KEPT}'
                    AND greatest(completed_at, failed_at, expired_at, cancelled_at) < now() - interval '{_KEPT}'
                ORDER BY created_at LIMIT {_FORGET_AT_ONCE} FOR UPDATE SKIP LOCKED)
        """)
    )
