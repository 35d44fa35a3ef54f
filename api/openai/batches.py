"""Batches, as the OpenAI API has them: the same rows that are jobs elsewhere."""

import logging
from contextlib import nullcontext
from typing import Any, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import ConfigDict, Field, field_validator, model_validator
from sqlalchemy.orm import Session

from api import creation
from api.creation import Said
from api.errors import InvalidRequest, documented, summary
from api.files import ensure_room
from api.openai import wire
from api.openai.batch_object import EXAMPLE_FILE, EXAMPLE_ID, PREFIX, BatchList, BatchObject, batch_id, shown
from api.openai.lifetimes import ExpiresAfter
from api.pagination import ListQuery
from api.services import services, tenant_id
from api.strict import Strict
from api.submission import Metadata, Window, duration
from api.wire import answer
from db import files, jobs
from db.cursors import UnknownCursor, is_id
from db.doorbell import FINALIZE, INGEST
from db.errors import NotFound
from db.ids import renamed
from db.jobs import NewJob, Submitted
from db.models import Job
from db.outlook import surroundings
from db.states import JobStatus
from dialects.openai.endpoints import task_of
from models.params import impossible

logger = logging.getLogger(__name__)

tag = Tag(name="batches", description="Files of requests, as the OpenAI API has them: every line names its own model.")
bp = APIBlueprint("batches", __name__, url_prefix="/v1/batches", abp_tags=[tag])

DIALECT = "openai"
VALIDATE_SECONDS = 30.0

EndpointName = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/translations", "/v1/summaries"]


class BatchOptions(Strict):
    """What the OpenAI API has no words for; its client sends it as `extra_body={"bushel": {…}}`."""

    model_config = ConfigDict(strict=True)

    on_error: Literal["fail", "skip"] = Field(
        "fail", description="Whether a line that is no request stops the batch before it starts, or fails alone."
    )
    long_input: Literal["error", "truncate"] = Field(
        "error", description="What happens to an input longer than the model takes."
    )
    priority: int = Field(0, ge=-100, le=100, description="Higher goes first.")
    cache: bool = Field(
        False, description="Take results of earlier jobs and batches with `cache` for equal requests, and keep these."
    )
    # Not called so: pydantic's own classes have a `validate`.
    is_validated: bool = Field(
        False,
        alias="validate",
        description=f"Wait until the file is checked, up to {VALIDATE_SECONDS:g} seconds, and answer 400 with every "
        "problem if it is refused. The refused batch stays in the list.",
    )
    params: dict[str, Any] = Field(
        default_factory=dict, description="Decoding parameters, under our names, of lines that say nothing else."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """A null is the same as leaving the key out, as it is in the requests themselves."""
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given

    @field_validator("params")
    @classmethod
    def _are_possible(cls, params: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in params.items() if value is not None}
        if problem := impossible(given):
            raise ValueError(f"cannot be used: {problem}")
        return given


class BatchRequest(Strict):
    """A file of requests to one endpoint."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "example": {
                "input_file_id": EXAMPLE_FILE,
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": {"customer": "7"},
            }
        },
    )

    input_file_id: str = Field(max_length=100, description="A file of purpose `batch`: one request a line.")
    endpoint: EndpointName = Field(description="Where every line of the file is sent.")
    completion_window: Window = Field(description="`30m`, `24h`, `7d`: what is not finished by then expires.")
    metadata: Metadata | None = Field(None, description="Up to 16 pairs of your own.")
    output_expires_after: ExpiresAfter | None = Field(
        None, description="How long the result files are kept, from when they are written."
    )
    bushel: BatchOptions | None = Field(None, description="What the OpenAI API has no words for.")


class BatchPath(Strict):
    batch_id: str = Field(description="The batch's id.", json_schema_extra={"example": EXAMPLE_ID})


@bp.post(
    "",
    operation_id="create_batch",
    openapi_extensions={"parameters": [creation.KEY_PARAMETER]},
    responses={200: BatchObject, **documented(400, 401, 409, 413, 415, 422, 429, 503)},
)
def create(body: BatchRequest) -> Response:
    """Submit a batch

    The lines of the file are checked by a worker while the batch is `validating`; its `errors` say what was found.
    A request that a client library sends again, because the answer was lost, returns the batch it made.
    """
    said = creation.said()
    options = body.bushel or BatchOptions()
    with services().seats.taken() if options.is_validated else nullcontext():
        job = _submitted(body, options, said)
        if options.is_validated:
            job = _validated(job)
    with services().sessions() as session:
        return answer(shown(job, surroundings(session, [job])))


@bp.get("", operation_id="list_batches", responses={200: BatchList, **documented(400, 401, 503)})
def index(query: ListQuery) -> Response:
    """List batches"""
    with services().sessions() as session:
        page = jobs.listing(session, tenant_id(), _cursor(query.after), query.limit, dialect=DIALECT)
        around = surroundings(session, page.rows)
    return answer(wire.listing([shown(job, around) for job in page.rows], page.has_more))


@bp.get("/<batch_id>", operation_id="get_batch", responses={200: BatchObject, **documented(401, 404, 503)})
def show(path: BatchPath) -> Response:
    """Look at a batch"""
    with services().sessions() as session:
        job = _get(session, path.batch_id)
        return answer(shown(job, surroundings(session, [job])))


@bp.post(
    "/<batch_id>/cancel", operation_id="cancel_batch", responses={200: BatchObject, **documented(401, 404, 409, 503)}
)
def cancel(path: BatchPath) -> Response:
    """Cancel a batch

    What is finished is written to the result files. Cancelling again changes nothing.
    """
    with services().sessions.begin() as session:
        job = jobs.cancel(session, tenant_id(), _get(session, path.batch_id).id, called=f"batch {path.batch_id}")
    if job.status == JobStatus.CANCELLING:
        services().doorbell.ring(FINALIZE, job.id)
        logger.info("job %s is being cancelled", job.id, extra={"action": "job_cancelling", "job_id": job.id})
    with services().sessions() as session:
        return answer(shown(job, surroundings(session, [job])))


def _get(session: Session, id: str) -> Job:
    try:
        return jobs.get(session, tenant_id(), renamed(id, jobs.PREFIX) if is_id(id, PREFIX) else "", DIALECT)
    except NotFound as exc:
        raise NotFound("batch", id) from exc


def _cursor(after: str | None) -> str | None:
    if after is None:
        return None
    if not is_id(after, PREFIX):
        raise UnknownCursor(after)
    return renamed(after, jobs.PREFIX)


def _submitted(body: BatchRequest, options: BatchOptions, said: Said) -> Job:
    with services().sessions() as session:
        if (earlier := creation.earlier(session, said)) is not None:
            return earlier
    submitted = _submit(body, options, said)
    if submitted.is_new:
        # Ring only once the row is committed: a worker that answered sooner would find nothing.
        services().doorbell.ring(INGEST, submitted.job.id)
        fields = {"action": "job_created", "job_id": submitted.job.id, "endpoint": body.endpoint}
        logger.info("job %s submitted for %s", submitted.job.id, body.endpoint, extra=fields)
    return submitted.job


def _submit(body: BatchRequest, options: BatchOptions, said: Said) -> Submitted:
    new = NewJob(
        id=jobs.new_job_id(),
        task=task_of(body.endpoint).value,
        model=None,
        params=options.params,
        format={"type": "jsonl"},
        long_input=options.long_input,
        on_error=options.on_error,
        priority=options.priority,
        cache=options.cache,
        completion_window=body.completion_window,
        expires_in=duration(body.completion_window),
        metadata=body.metadata,
        input_file_id=body.input_file_id,
        dialect=DIALECT,
        endpoint=body.endpoint,
        output_lifetime=body.output_expires_after.lifetime if body.output_expires_after else None,
    )
    ensure_room(0)
    try:
        with services().sessions.begin() as session:
            _check_purpose(files.get(session, tenant_id(), body.input_file_id).purpose)
            return creation.submit(session, new, said)
    except NotFound as exc:
        # Of the body, not of the path: the thing asked for is there, and its input is not.
        raise InvalidRequest(str(exc), param="input_file_id", code="file_not_found") from exc


def _check_purpose(purpose: str) -> None:
    if purpose != "batch":
        message = f"the file's purpose is {purpose}, not batch; upload it again with purpose batch"
        raise InvalidRequest(message, param="input_file_id", code="invalid_purpose")


def _validated(job: Job) -> Job:
    """The job once its file is checked, or as it is when that takes too long; InvalidRequest if it is refused."""

    def look() -> Job:
        with services().sessions() as session:
            return jobs.get(session, tenant_id(), job.id)

    services().listener.wait(job.id, lambda: look().status != JobStatus.VALIDATING, VALIDATE_SECONDS)
    now = look()
    if now.status == JobStatus.FAILED:
        raise _refused(now)
    return now


def _refused(job: Job) -> InvalidRequest:
    found = wire.errors(job.errors)
    problems = found["data"] if found else []
    sentences = [f"line {each['line']}: {each['message']}" if each["line"] else each["message"] for each in problems]
    total = job.errors["total"] if job.errors else 0
    first = problems[0] if problems else {"param": None, "code": None}
    return InvalidRequest(
        f"batch {batch_id(job)} is refused: {summary(sentences, total)}",
        param=first["param"],
        code=first["code"],
        details=problems,
    )
