"""Jobs made from jobs: a retry of what did not succeed, a clone of the whole. The parent never changes."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from db import files, jobs
from db.errors import Conflict, NotFound
from db.jobs import NewJob
from db.models import Job
from db.states import JobStatus, is_final

UNFINISHED = "unfinished"
# How many requests an inline batch brought, which its row says before they are counted in.
REQUESTS = "requests"
# What ingest found in the file. It finds it again.
_FOUND = "columns"


def retry(session: Session, tenant_id: str, job_id: str) -> NewJob:
    """A job for those items of the parent that have not succeeded; Conflict where there can be none.

    The caller may change what it likes with `dataclasses.replace`. Where the parent has an `inputs_key`,
    the child needs a copy of those bytes under a key of its own.
    """
    parent = _parent(session, tenant_id, job_id)
    if not is_final(JobStatus(parent.status)):
        raise Conflict(f"job {job_id} is {parent.status}; only a job that has ended can be retried", "job_not_final")
    if parent.dry_run:
        raise Conflict(
            f"job {job_id} was a dry run, which runs nothing; clone it with `dry_run` false to run it",
            "nothing_to_retry",
        )
    if parent.status == JobStatus.FAILED and not parent.total:
        raise Conflict(
            f"job {job_id} failed before it had any item (its `errors` say why); "
            "mend the file and submit it anew, or clone the job with other settings",
            "input_invalid",
        )
    if parent.status == JobStatus.CANCELLED and parent.in_progress_at is None:
        return _unbegun(parent)
    if parent.succeeded == parent.total:
        raise Conflict(f"every item of job {job_id} succeeded; there is nothing to retry", "nothing_to_retry")
    return _child(parent, UNFINISHED)


def _unbegun(parent: Job) -> NewJob:
    """Cancelled before all its items were known, and before any could run: the child begins as the parent did."""
    if parent.selection is None:
        return _child(parent, None)
    if parent.parent_id is None:
        raise Conflict(
            f"job {parent.id} was to run a part of a job that was deleted since; submit what is to run as a new job",
            "parent_deleted",
        )
    return replace(_child(parent, parent.selection), format=parent.format, parent_id=parent.parent_id)


def clone(session: Session, tenant_id: str, job_id: str) -> NewJob:
    """A job for the whole input of the parent, whatever became of that; else as `retry`."""
    return _child(_parent(session, tenant_id, job_id), None)


def _parent(session: Session, tenant_id: str, job_id: str) -> Job:
    parent = jobs.get(session, tenant_id, job_id)
    if parent.interactive:
        raise Conflict(f"job {job_id} was a single request; send the request again", "job_not_repeatable")
    if parent.input_file_id is not None:
        _check_input(session, parent)
    return parent


def _check_input(session: Session, parent: Job) -> None:
    try:
        files.get(session, parent.tenant_id, parent.input_file_id or "")
    except NotFound as exc:
        raise gone(parent.id) from exc


def gone(job_id: str) -> Conflict:
    """Said when a job cannot be repeated any more."""
    return Conflict(f"the input of job {job_id} was deleted, so it cannot be run again; upload it anew", "input_gone")


def _child(parent: Job, selection: str | None) -> NewJob:
    kept = parent.output_lifetime_seconds
    share = 1.0 if selection is None or not parent.total else 1 - parent.succeeded / parent.total
    return NewJob(
        id=jobs.new_job_id(),
        task=parent.task,
        # In the other dialects the model stands on every line, and the row has what was found there.
        model=parent.model if parent.dialect == "bushel" else None,
        params=parent.params,
        format=_format(parent, selection),
        long_input=parent.long_input,
        on_error=parent.on_error,
        priority=parent.priority,
        completion_window=parent.completion_window,
        expires_in=None if parent.expires_at is None else parent.expires_at - parent.created_at,
        metadata=parent.job_metadata,
        dry_run=parent.dry_run,
        cache=parent.cache,
        input_file_id=parent.input_file_id,
        announced_items=round(parent.announced_items * share),
        announced_tokens=round(parent.announced_tokens * share),
        dialect=parent.dialect,
        endpoint=parent.endpoint,
        output_lifetime=None if kept is None else timedelta(seconds=kept),
        parent_id=parent.id,
        selection=selection,
    )


def _format(parent: Job, selection: str | None) -> dict[str, Any]:
    format = {name: value for name, value in parent.format.items() if name != _FOUND}
    if selection is not None and REQUESTS in format:
        format[REQUESTS] -= parent.succeeded
    return format
