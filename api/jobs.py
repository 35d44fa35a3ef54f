"""Jobs: submit, list, look, cancel, pause, resume, delete, audit."""

import logging
from dataclasses import replace
from typing import Any, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api import auth, creation
from api.choice import model_for
from api.creation import KEY_PARAMETER, Said
from api.errors import documented
from api.files import ensure_room
from api.job_object import EXAMPLE_ID, JobList, JobObject, StatusName
from api.pagination import ListQuery
from api.services import services, tenant_id
from api.spooling import spooled
from api.strict import Strict
from api.submission import JobRequest, TaskName, check_job_params, checked_lines, guessed_format
from api.wire import answer, listed
from db import audit as audits
from db import chunks, faults, files, jobs
from db.audit_log import Act
from db.doorbell import FINALIZE, INGEST, WORK
from db.models import Job
from db.outlook import surroundings
from db.states import JobStatus
from models.spec import ModelSpec, Task

logger = logging.getLogger(__name__)

tag = Tag(name="jobs", description="Work you hand in, and how it goes.")
bp = APIBlueprint("jobs", __name__, url_prefix="/v1/jobs", abp_tags=[tag])


class JobDeleted(BaseModel):
    """Said when a job is gone."""

    id: str
    object: Literal["job"] = "job"
    deleted: Literal[True] = True


class AuditCheck(BaseModel):
    """One invariant of the ledger: what the job's row promises, and what was counted."""

    name: str
    ok: bool
    expected: Any
    found: Any


class AuditObject(BaseModel):
    """The ledger's invariants, counted for one job."""

    object: Literal["audit"] = "audit"
    job_id: str
    ok: bool
    checks: list[AuditCheck]


class JobPath(Strict):
    job_id: str = Field(description="The job's id.", json_schema_extra={"example": EXAMPLE_ID})


class JobsQuery(ListQuery):
    status: StatusName | None = Field(None, description="Only jobs in this status.")
    task: Literal[TaskName, "embedding"] | None = Field(None, description="Only jobs of this task.")
    search: str | None = Field(
        None,
        max_length=100,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Only jobs that have this text in their id, model or metadata; case does not matter.",
    )


CREATED = {
    "description": "The job is accepted and will not be lost. `Location` says where to look.",
    "headers": {"Location": {"schema": {"type": "string"}, "description": "The job's path."}},
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobObject"}}},
}


@bp.post(
    "",
    operation_id="create_job",
    openapi_extensions={"parameters": [KEY_PARAMETER]},
    responses={202: CREATED, **documented(400, 401, 404, 409, 413, 415, 422, 429, 503, 507)},
)
def create(body: JobRequest) -> Response:
    """Submit a job

    Inline inputs are checked at once, and all their problems are reported. A file is checked by a worker
    while the job is `validating`; the job's `errors` say what was found.
    """
    said = creation.said()
    with services().sessions() as session:
        earlier = creation.earlier(session, said)
        if earlier is not None:
            return _accepted(session, earlier)
    spec = model_for(Task(body.task), body.model, body.wanted_tier)
    submitted = _submit_file(body, spec, said) if body.input_file_id else _submit_inline(body, spec, said)
    return accepted(submitted)


@bp.get("", operation_id="list_jobs", responses={200: JobList, **documented(400, 401, 503)})
def index(query: JobsQuery) -> Response:
    """List jobs"""
    status = JobStatus(query.status) if query.status else None
    with services().sessions() as session:
        page = jobs.listing(
            session, tenant_id(), query.after, query.limit, status=status, task=query.task, search=query.search
        )
        around = surroundings(session, page.rows)
    registry = services().catalog.current()
    return listed(page.rows, page.has_more, lambda job: JobObject.of(job, around, registry))


@bp.get("/<job_id>", operation_id="get_job", responses={200: JobObject, **documented(401, 404, 503)})
def show(path: JobPath) -> Response:
    """Look at a job"""
    with services().sessions() as session:
        return shown(session, jobs.get(session, tenant_id(), path.job_id))


@bp.post("/<job_id>/cancel", operation_id="cancel_job", responses={200: JobObject, **documented(401, 404, 409, 503)})
def cancel(path: JobPath) -> Response:
    """Cancel a job

    What is finished stays readable. Cancelling again changes nothing.
    """
    with services().sessions.begin() as session:
        job = jobs.cancel(session, tenant_id(), path.job_id)
    if job.status == JobStatus.CANCELLING:
        services().doorbell.ring(FINALIZE, job.id)
        logger.info("job %s is being cancelled", job.id, extra={"action": "job_cancelling", "job_id": job.id})
    with services().sessions() as session:
        return shown(session, job)


@bp.post("/<job_id>/pause", operation_id="pause_job", responses={200: JobObject, **documented(401, 404, 409, 503)})
def pause(path: JobPath) -> Response:
    """Pause a job

    Nothing more of it is started; what runs is finished. Its completion window goes on. Pausing again changes nothing.
    """
    with services().sessions.begin() as session:
        job = jobs.set_paused(session, tenant_id(), path.job_id, is_paused=True)
    logger.info("job %s is paused", job.id, extra={"action": "job_paused", "job_id": job.id})
    with services().sessions() as session:
        return shown(session, job)


@bp.post("/<job_id>/resume", operation_id="resume_job", responses={200: JobObject, **documented(401, 404, 409, 503)})
def resume(path: JobPath) -> Response:
    """Resume a paused job

    Resuming a job that is not paused changes nothing.
    """
    with services().sessions.begin() as session:
        job = jobs.set_paused(session, tenant_id(), path.job_id, is_paused=False)
        waiting = chunks.open_models(session, job.id)
    for model in waiting:
        services().doorbell.ring(WORK, model)
    logger.info("job %s goes on", job.id, extra={"action": "job_resumed", "job_id": job.id})
    with services().sessions() as session:
        return shown(session, job)


@bp.delete("/<job_id>", operation_id="delete_job", responses={200: JobDeleted, **documented(401, 404, 409, 503)})
def delete(path: JobPath) -> Response:
    """Delete a job

    With its inputs, results and result files. Only a job that has ended can be deleted.
    """
    with services().sessions.begin() as session:
        jobs.delete(session, tenant_id(), path.job_id)
        auth.note(session, Act.JOB_DELETED, path.job_id)
    logger.info("job %s deleted", path.job_id, extra={"action": "job_deleted", "job_id": path.job_id})
    return answer(JobDeleted(id=path.job_id))


@bp.get("/<job_id>/audit", operation_id="audit_job", responses={200: AuditObject, **documented(401, 404, 503)})
def audit(path: JobPath) -> Response:
    """Audit a job

    Counts the rows behind the job's counts. For when you want to be sure, not for polling.
    """
    with services().sessions() as session:
        found = audits.audit(session, tenant_id(), path.job_id)
    checks = [
        AuditCheck(name=check.name, ok=check.ok, expected=check.expected, found=check.found) for check in found.checks
    ]
    return answer(AuditObject(job_id=found.job_id, ok=found.ok, checks=checks))


def shown(session: Session, job: Job, status: int = 200, **headers: str) -> Response:
    seen = JobObject.of(job, surroundings(session, [job]), services().catalog.current())
    return answer(seen, status, **headers)


def accepted(submitted: jobs.Submitted) -> Response:
    """Ring for the job if it is new, and show it."""
    job = submitted.job
    if submitted.is_new:
        faults.reached("after submit")
        # Ring only once the row is committed: a worker that answered sooner would find nothing.
        services().doorbell.ring(INGEST, job.id)
        fields = {"action": "job_created", "job_id": job.id, "task": job.task, "model": job.model}
        logger.info("job %s submitted for model %s", job.id, job.model, extra=fields)
    with services().sessions() as session:
        return _accepted(session, job)


def _accepted(session: Session, job: Job) -> Response:
    return shown(session, job, 202, Location=f"/v1/jobs/{job.id}")


def _submit_file(body: JobRequest, spec: ModelSpec, said: Said) -> jobs.Submitted:
    with services().sessions() as session:
        file = files.get(session, tenant_id(), body.input_file_id or "")
    format = (body.format or guessed_format(file.filename)).stored()
    check_job_params(body.given_params, spec, format["type"])
    ensure_room(0)
    with services().sessions.begin() as session:
        return creation.submit(session, _new_job(body, spec, format, file.id), said)


def _submit_inline(body: JobRequest, spec: ModelSpec, said: Said) -> jobs.Submitted:
    check_job_params(body.given_params, spec, "jsonl")
    lines, tokens = checked_lines(body, spec, services().settings.max_inline_inputs)
    ensure_room(sum(map(len, lines)))
    new = _new_job(body, spec, {"type": "jsonl"})
    size = sum(map(len, lines))
    new = replace(new, announced_items=len(lines), announced_tokens=tokens, inputs_bytes=size)
    return spooled(new, said, lines)


def _new_job(
    body: JobRequest, spec: ModelSpec, format: dict[str, Any], input_file_id: str | None = None
) -> jobs.NewJob:
    return jobs.NewJob(
        id=jobs.new_job_id(),
        task=body.task,
        model=spec.name,
        params=body.given_params,
        format=format,
        long_input=body.long_input,
        on_error=body.on_error,
        priority=body.priority,
        completion_window=body.completion_window,
        expires_in=body.window,
        metadata=body.metadata,
        dry_run=body.dry_run,
        cache=body.cache,
        input_file_id=input_file_id,
    )
