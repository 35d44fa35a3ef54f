"""Jobs: submit, list, look, cancel, delete, audit."""

import hashlib
import logging
import re
from typing import Any, Literal

import msgspec
from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from api.errors import InvalidRequest, documented
from api.files import ensure_room
from api.pagination import ListQuery
from api.services import services, tenant_id
from api.strict import Strict
from api.submission import JobRequest, TaskName, check_job_params, checked_lines, guessed_format
from api.wire import answer, listed, unix
from db import audit as audits
from db import files, jobs
from db.doorbell import FINALIZE, INGEST
from db.models import Job
from db.outlook import Surroundings, outlook, surroundings
from db.states import JobStatus
from models.registry import Registry
from models.spec import ModelSpec, Task

logger = logging.getLogger(__name__)

tag = Tag(name="jobs", description="Work you hand in, and how it goes.")
bp = APIBlueprint("jobs", __name__, url_prefix="/v1/jobs", abp_tags=[tag])

_EXAMPLE_ID = "job_0mgcxk2l9h4t8v2c6y0q1w5r3a"
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
StatusName = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]


class Counts(BaseModel):
    """Where the items are. The six always sum to `total`."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int


class WaitingFor(BaseModel):
    """Why nothing of the job runs."""

    code: str
    message: str


class JobErrors(BaseModel):
    """Problems of the input: how many there are, and the first hundred with line, column and a hint."""

    total: int
    data: list[dict[str, Any]]


class Estimate(BaseModel):
    """What a dry run found. Tokens are estimated from the length of the texts; `seconds` are of one worker, if the
    model was ever measured; `invalid_items` are those that `on_error: skip` would fail."""

    items: int
    invalid_items: int
    input_tokens: int
    seconds: float | None


class Notices(BaseModel):
    """How many succeeded items were cut: their input (`long_input: truncate`), or their output at the token limit."""

    truncated_inputs: int
    cut_outputs: int


class Usage(BaseModel):
    """Tokens of everything that was run."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class JobObject(BaseModel):
    """A job. All times are Unix seconds."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": _EXAMPLE_ID,
                "object": "job",
                "task": "translation",
                "model": "tatoeba-en-de-draft",
                "status": "in_progress",
                "paused": False,
                "priority": 0,
                "params": {"target_lang": "de"},
                "long_input": "error",
                "on_error": "fail",
                "dry_run": False,
                "input_file_id": "file-0mgcxk2l9h4t8v2c6y0q1w5r3a",
                "format": {"type": "txt"},
                "completion_window": "24h",
                "metadata": None,
                "counts": {
                    "total": 1500,
                    "queued": 1000,
                    "running": 100,
                    "succeeded": 399,
                    "failed": 1,
                    "cancelled": 0,
                    "expired": 0,
                },
                "progress": 0.2667,
                "items_per_second": 66.7,
                "tokens_per_second": 1460.2,
                "eta_seconds": 16.5,
                "waiting_for": None,
                "errors": None,
                "estimate": None,
                "notices": {"truncated_inputs": 0, "cut_outputs": 2},
                "usage": {"input_tokens": 4400, "output_tokens": 4360, "total_tokens": 8760},
                "output_file_id": None,
                "error_file_id": None,
                "created_at": 1_790_000_000,
                "in_progress_at": 1_790_000_001,
                "finalizing_at": None,
                "completed_at": None,
                "failed_at": None,
                "expired_at": None,
                "cancelling_at": None,
                "cancelled_at": None,
                "expires_at": 1_790_086_400,
            }
        }
    )

    id: str
    object: Literal["job"] = "job"
    task: str
    model: str
    status: StatusName
    paused: bool
    priority: int
    params: dict[str, Any]
    long_input: str
    on_error: str
    dry_run: bool
    input_file_id: str | None
    format: dict[str, Any] | None
    completion_window: str | None
    metadata: dict[str, str] | None
    counts: Counts
    progress: float = Field(description="Share of the items that are settled, 0 to 1.")
    items_per_second: float | None
    tokens_per_second: float | None = Field(description="Input and output tokens.")
    eta_seconds: float | None = Field(description="Until the last result, waiting included; null: cannot be told.")
    waiting_for: WaitingFor | None
    errors: JobErrors | None
    estimate: Estimate | None
    notices: Notices
    usage: Usage
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    expires_at: int | None

    @classmethod
    def of(cls, job: Job, around: Surroundings) -> "JobObject":
        seen = outlook(job, around)
        return cls(
            id=job.id,
            task=job.task,
            model=job.model,
            status=job.status,
            paused=job.paused,
            priority=job.priority,
            params=job.params,
            long_input=job.long_input,
            on_error=job.on_error,
            dry_run=job.dry_run,
            input_file_id=job.input_file_id,
            format=_shown_format(job),
            completion_window=job.completion_window,
            metadata=job.job_metadata,
            counts=Counts.model_validate(job, from_attributes=True),
            progress=seen.progress,
            items_per_second=seen.items_per_second,
            tokens_per_second=seen.tokens_per_second,
            eta_seconds=seen.eta_seconds,
            waiting_for=WaitingFor.model_validate(seen.waiting_for, from_attributes=True) if seen.waiting_for else None,
            errors=JobErrors.model_validate(job.errors) if job.errors else None,
            estimate=Estimate.model_validate(job.estimate) if job.estimate else None,
            notices=Notices.model_validate(job, from_attributes=True),
            usage=Usage(
                input_tokens=job.input_tokens,
                output_tokens=job.output_tokens,
                total_tokens=job.input_tokens + job.output_tokens,
            ),
            output_file_id=job.output_file_id,
            error_file_id=job.error_file_id,
            created_at=unix(job.created_at) or 0,
            in_progress_at=unix(job.in_progress_at),
            finalizing_at=unix(job.finalizing_at),
            completed_at=unix(job.completed_at),
            failed_at=unix(job.failed_at),
            expired_at=unix(job.expired_at),
            cancelling_at=unix(job.cancelling_at),
            cancelled_at=unix(job.cancelled_at),
            expires_at=unix(job.expires_at),
        )


def _shown_format(job: Job) -> dict[str, Any] | None:
    """What the client said of its file; inline inputs have none, and the header is no news to anybody."""
    if job.inputs_key is not None:
        return None
    return {name: value for name, value in job.format.items() if name != "columns"}


class JobList(BaseModel):
    """A part of the list of jobs."""

    object: Literal["list"] = "list"
    data: list[JobObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


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
    job_id: str = Field(description="The job's id.", json_schema_extra={"example": _EXAMPLE_ID})


class JobsQuery(ListQuery):
    status: StatusName | None = Field(None, description="Only jobs in this status.")
    task: TaskName | None = Field(None, description="Only jobs of this task.")


_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Any name of yours for this request. Sent again with the same body, it returns the job it made; "
    "with another body it is an error (422).",
    "schema": {"type": "string", "maxLength": 255},
}
_CREATED = {
    "description": "The job is accepted and will not be lost. `Location` says where to look.",
    "headers": {"Location": {"schema": {"type": "string"}, "description": "The job's path."}},
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobObject"}}},
}


@bp.post(
    "",
    operation_id="create_job",
    openapi_extensions={"parameters": [_KEY_PARAMETER]},
    responses={202: _CREATED, **documented(400, 401, 404, 409, 413, 415, 422, 503, 507)},
)
def create(body: JobRequest) -> Response:
    """Submit a job

    Inline inputs are checked at once, and all their problems are reported. A file is checked by a worker
    while the job is `validating`; the job's `errors` say what was found.
    """
    idempotency = _idempotency()
    with services().sessions() as session:
        earlier = jobs.replayed(session, tenant_id(), idempotency) if idempotency else None
        if earlier is not None:
            return _accepted(session, earlier)
    spec = _model(services().catalog.current(), body)
    submitted = _submit_file(body, spec, idempotency) if body.input_file_id else _submit_inline(body, spec, idempotency)
    if submitted.is_new:
        # Ring only once the row is committed: a worker that answered sooner would find nothing.
        services().doorbell.ring(INGEST, submitted.job.id)
        fields = {"action": "job_created", "job_id": submitted.job.id, "task": body.task, "model": spec.name}
        logger.info("job %s submitted for model %s", submitted.job.id, spec.name, extra=fields)
    with services().sessions() as session:
        return _accepted(session, submitted.job)


@bp.get("", operation_id="list_jobs", responses={200: JobList, **documented(400, 401, 503)})
def index(query: JobsQuery) -> Response:
    """List jobs"""
    status = JobStatus(query.status) if query.status else None
    with services().sessions() as session:
        page = jobs.listing(session, tenant_id(), query.after, query.limit, status=status, task=query.task)
        around = surroundings(session, page.rows)
    return listed(page.rows, page.has_more, lambda job: JobObject.of(job, around))


@bp.get("/<job_id>", operation_id="get_job", responses={200: JobObject, **documented(401, 404, 503)})
def show(path: JobPath) -> Response:
    """Look at a job"""
    with services().sessions() as session:
        return _shown(session, jobs.get(session, tenant_id(), path.job_id))


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
        return _shown(session, job)


@bp.delete("/<job_id>", operation_id="delete_job", responses={200: JobDeleted, **documented(401, 404, 409, 503)})
def delete(path: JobPath) -> Response:
    """Delete a job

    With its inputs, results and result files. Only a job that has ended can be deleted.
    """
    with services().sessions.begin() as session:
        jobs.delete(session, tenant_id(), path.job_id)
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


def _shown(session: Session, job: Job, status: int = 200, **headers: str) -> Response:
    return answer(JobObject.of(job, surroundings(session, [job])), status, **headers)


def _accepted(session: Session, job: Job) -> Response:
    return _shown(session, job, 202, Location=f"/v1/jobs/{job.id}")


def _idempotency() -> jobs.Idempotency | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.match(key):
        raise InvalidRequest(
            "Idempotency-Key must be 1 to 255 visible ASCII characters", param="Idempotency-Key", code="invalid_value"
        )
    said = msgspec.json.encode(request.get_json(), order="deterministic")
    return jobs.Idempotency(key, hashlib.sha256(said).hexdigest())


def _model(registry: Registry, body: JobRequest) -> ModelSpec:
    task = Task(body.task)
    if body.model is None:
        return registry.default(task)
    spec = registry.get(body.model)
    if spec.task is not task:
        fitting = ", ".join(other.name for other in registry.all() if other.task is task) or "none"
        raise InvalidRequest(
            f"model {spec.name} does {spec.task}, not {task}; models for {task}: {fitting}",
            param="model",
            code="task_mismatch",
        )
    return spec


def _submit_file(body: JobRequest, spec: ModelSpec, idempotency: jobs.Idempotency | None) -> jobs.Submitted:
    with services().sessions.begin() as session:
        file = files.get(session, tenant_id(), body.input_file_id or "")
        format = (body.format or guessed_format(file.filename)).stored()
        check_job_params(body, spec, format["type"])
        new = _new_job(jobs.new_job_id(), body, spec, format, input_file_id=file.id)
        return jobs.submit(session, tenant_id(), new, idempotency)


def _submit_inline(body: JobRequest, spec: ModelSpec, idempotency: jobs.Idempotency | None) -> jobs.Submitted:
    """Spool the inputs to the store first; should the job not come to be, take them out again."""
    service = services()
    check_job_params(body, spec, "jsonl")
    lines = checked_lines(body, spec, service.settings.max_inline_inputs)
    ensure_room(sum(map(len, lines)))
    job_id = jobs.new_job_id()
    key = jobs.inputs_key(job_id)
    with service.store.writer(key) as writer:
        for line in lines:
            writer.write(line)
    is_needed = False
    try:
        with service.sessions.begin() as session:
            new = _new_job(job_id, body, spec, {"type": "jsonl"}, inputs_key=key)
            submitted = jobs.submit(session, tenant_id(), new, idempotency)
        is_needed = submitted.is_new
        return submitted
    finally:
        if not is_needed:
            service.store.delete(key)


def _new_job(
    id: str,
    body: JobRequest,
    spec: ModelSpec,
    format: dict[str, Any],
    *,
    input_file_id: str | None = None,
    inputs_key: str | None = None,
) -> jobs.NewJob:
    return jobs.NewJob(
        id=id,
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
        input_file_id=input_file_id,
        inputs_key=inputs_key,
    )
