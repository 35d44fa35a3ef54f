"""Message batches: requests in, a job; its items' outcomes out as they are called there."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.config import JsonDict
from sqlalchemy.orm import Session

from api import auth, creation
from api.anthropic import wire
from api.anthropic.answers import documented
from api.creation import Said
from api.errors import InvalidRequest, summary
from api.files import ensure_room
from api.results import streamed
from api.services import services, tenant_id
from api.spooling import spooled
from api.strict import Strict
from api.wire import answer
from db import jobs, results
from db.audit_log import Act
from db.children import REQUESTS
from db.cursors import is_id
from db.doorbell import FINALIZE, INGEST
from db.errors import Conflict, NotFound
from db.ids import renamed
from db.inputs import Problem, Refused, estimated_tokens
from db.jobs import NewJob
from db.lines import json_line
from db.models import Job
from dialects.anthropic.requests import read_line
from dialects.anthropic.responses import result_line

logger = logging.getLogger(__name__)

tag = Tag(name="messages", description="Single messages and batches of them, as the Anthropic API has them.")
bp = APIBlueprint("message_batches", __name__, url_prefix="/v1/messages/batches", abp_tags=[tag])

DIALECT, ENDPOINT = "anthropic", "/v1/messages"
# Anthropic's own bound; the size of the request's body is the other one.
MAX_REQUESTS = 100_000
_WINDOW = timedelta(hours=24)
_LISTED = 100
_EXAMPLE_ID = "msgbatch_0mgcxk2l9h4t8v2c6y0q1w5r3a"
_EXAMPLE: JsonDict = {
    "requests": [
        {
            "custom_id": "a",
            "params": {
                "model": "a-chat-model",
                "max_tokens": 64,
                "messages": [{"role": "user", "content": "Name a colour."}],
            },
        }
    ]
}


_REQUESTS_SCHEMA: JsonDict = {
    "type": "array",
    "description": f"1 to {MAX_REQUESTS:,} requests. What is wrong inside `params` is told in the results.",
    "minItems": 1,
    "maxItems": MAX_REQUESTS,
    "items": {
        "type": "object",
        "required": ["custom_id", "params"],
        "additionalProperties": False,
        "properties": {
            "custom_id": {
                "type": "string",
                "pattern": "^[a-zA-Z0-9_-]{1,64}$",
                "description": "1 to 64 letters, digits, hyphens and underscores; no two alike.",
            },
            "params": {"type": "object", "description": "The body of a `POST /v1/messages`."},
        },
    },
}


class MessageBatchRequest(Strict):
    """Requests to be answered within 24 hours."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": _EXAMPLE})

    # Entries are checked by the reader that ingest has, too, which says more of what is wrong with one.
    requests: Annotated[list[Any], WithJsonSchema(_REQUESTS_SCHEMA)]


class RequestCounts(BaseModel):
    """They sum to the number of requests. All but `processing` are zero until the batch has ended."""

    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


class MessageBatchObject(BaseModel):
    """A message batch. All times are RFC 3339."""

    id: str = Field(json_schema_extra={"example": _EXAMPLE_ID})
    type: Literal["message_batch"]
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: RequestCounts
    created_at: str
    expires_at: str
    cancel_initiated_at: str | None
    ended_at: str | None
    archived_at: str | None
    results_url: str | None = Field(description="Where the results are, once the batch has ended.")


class MessageBatchList(BaseModel):
    """A part of the list of batches, newest first."""

    data: list[MessageBatchObject]
    has_more: bool
    first_id: str | None
    last_id: str | None


class MessageBatchDeleted(BaseModel):
    """Said when a batch is gone."""

    id: str
    type: Literal["message_batch_deleted"] = "message_batch_deleted"


class BatchPath(Strict):
    message_batch_id: str = Field(description="The batch's id.", json_schema_extra={"example": _EXAMPLE_ID})


class BatchesQuery(Strict):
    after_id: str | None = Field(None, description="Go on behind the batch with this id.")
    before_id: str | None = Field(None, description="What stands directly before the batch with this id.")
    limit: int = Field(20, ge=1, le=1_000, description="Most batches to return.")
    beta: bool | None = Field(None, description="Sent by the beta half of Anthropic's SDK; means nothing here.")

    @model_validator(mode="after")
    def _has_one_direction(self) -> "BatchesQuery":
        if self.after_id is not None and self.before_id is not None:
            raise ValueError("has both `after_id` and `before_id`; a page goes on in one direction")
        return self


_RESULTS = {
    "description": "One JSON object a line, in the order of the requests.",
    "content": {
        "application/jsonl": {
            "schema": {"type": "string"},
            "example": '{"custom_id":"a","result":{"type":"canceled"}}\n',
        }
    },
}


@bp.post(
    "",
    operation_id="create_message_batch",
    openapi_extensions={"parameters": [creation.KEY_PARAMETER]},
    responses={200: MessageBatchObject, **documented(400, 401, 404, 409, 413, 415, 422, 429, 503, 507)},
)
def create(body: MessageBatchRequest) -> Response:
    """Create a message batch

    Only the shape of the requests is checked here. What a request asks that cannot be served, be it a model that does
    not exist, is its `errored` result.
    """
    said = creation.said()
    with services().sessions() as session:
        earlier = creation.earlier(session, said)
    return answer(_object(earlier or _submit(body.requests, said)))


def _submit(requests: Sequence[Any], said: Said) -> Job:
    lines, tokens = _checked_lines(requests)
    ensure_room(sum(map(len, lines)))
    new = NewJob(
        id=jobs.new_job_id(),
        task="generation",
        model=None,
        params={},
        format={"type": "jsonl", REQUESTS: len(lines)},
        on_error="skip",
        completion_window="24h",
        expires_in=_WINDOW,
        dialect=DIALECT,
        endpoint=ENDPOINT,
        announced_items=len(lines),
        announced_tokens=tokens,
        inputs_bytes=sum(map(len, lines)),
    )
    submitted = spooled(new, said, lines)
    job = submitted.job
    if submitted.is_new:
        # Ring only once the row is committed: a worker that answered sooner would find nothing.
        services().doorbell.ring(INGEST, job.id)
        fields = {"action": "job_created", "job_id": job.id, "task": job.task, "requests": len(lines)}
        logger.info("job %s submitted as a message batch", job.id, extra=fields)
    return job


def _checked_lines(requests: Sequence[Any]) -> tuple[list[bytes], int]:
    """Requests as lines for the spool, and about how many tokens; InvalidRequest with all problems of their shape."""
    if not 1 <= len(requests) <= MAX_REQUESTS:
        message = f"`requests` has {len(requests):,} entries; 1 to {MAX_REQUESTS:,} are accepted"
        raise InvalidRequest(message, param="requests", code="too_many_requests" if requests else "empty_batch")
    problems: list[dict[str, Any]] = []
    first_with_id: dict[str, int] = {}
    tokens = 0
    for place, entry in enumerate(requests):
        try:
            read = read_line(entry)
        except Refused as refused:
            problems += [_placed(place, problem) for problem in refused.problems]
            continue
        # What cannot be served will be an `errored` result, and is not queued.
        tokens += 0 if read.refusal else estimated_tokens(read.body)
        custom_id = read.custom_id or ""
        if (first := first_with_id.setdefault(custom_id, place)) != place:
            message = f"custom_id {custom_id!r} was used by requests.{first} already"
            hint = "give every request its own"
            problems.append(_placed(place, Problem("duplicate_custom_id", message, hint, param="custom_id")))
    if problems:
        raise _refusal(problems)
    return [msgspec.json.encode(entry) + b"\n" for entry in requests], tokens


def _placed(place: int, problem: Problem) -> dict[str, Any]:
    path = f"requests.{place}" + (f".{problem.param}" if problem.param else "")
    message = f"{problem.message}; {problem.hint}" if problem.hint else problem.message
    return {"param": path, "code": problem.code, "message": message}


def _refusal(problems: list[dict[str, Any]]) -> InvalidRequest:
    codes = {each["code"] for each in problems}
    return InvalidRequest(
        summary([f"{each['param']}: {each['message']}" for each in problems[:_LISTED]], len(problems)),
        param=problems[0]["param"],
        code=codes.pop() if len(codes) == 1 else "invalid_request",
        details=problems[:_LISTED],
    )


@bp.get("", operation_id="list_message_batches", responses={200: MessageBatchList, **documented(400, 401, 503)})
def index(query: BatchesQuery) -> Response:
    """List message batches"""
    is_backward = query.before_id is not None
    cursor = _cursor("before_id", query.before_id) or _cursor("after_id", query.after_id)
    with services().sessions() as session:
        order: Literal["asc", "desc"] = "asc" if is_backward else "desc"
        page = jobs.listing(session, tenant_id(), cursor, query.limit, order, dialect=DIALECT)
    rows = page.rows[::-1] if is_backward else page.rows
    data = [_object(job) for job in rows]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return answer({"data": data, "has_more": page.has_more, "first_id": first, "last_id": last})


def _cursor(name: str, id: str | None) -> str | None:
    if id is None:
        return None
    if not is_id(id, wire.PREFIX):
        raise InvalidRequest(f"{name}={id[:80]!r} is not the id of a message batch", param=name, code="unknown_cursor")
    return renamed(id, jobs.PREFIX)


@bp.get(
    "/<message_batch_id>",
    operation_id="get_message_batch",
    responses={200: MessageBatchObject, **documented(401, 404, 503)},
)
def show(path: BatchPath) -> Response:
    """Look at a message batch"""
    with services().sessions() as session:
        return answer(_object(_batch(session, path.message_batch_id)))


@bp.post(
    "/<message_batch_id>/cancel",
    operation_id="cancel_message_batch",
    responses={200: MessageBatchObject, **documented(401, 404, 409, 503)},
)
def cancel(path: BatchPath) -> Response:
    """Cancel a message batch

    What is finished stays. Canceling again changes nothing; a batch that has ended otherwise is a conflict.
    """
    with services().sessions.begin() as session:
        found = _batch(session, path.message_batch_id)
        job = jobs.cancel(session, tenant_id(), found.id)
    if not wire.has_ended(job.status):
        services().doorbell.ring(FINALIZE, job.id)
        logger.info("job %s is being cancelled", job.id, extra={"action": "job_cancelling", "job_id": job.id})
    return answer(_object(job))


@bp.delete(
    "/<message_batch_id>",
    operation_id="delete_message_batch",
    responses={200: MessageBatchDeleted, **documented(401, 404, 409, 503)},
)
def delete(path: BatchPath) -> Response:
    """Delete a message batch

    With its requests and results. Only a batch that has ended can be deleted.
    """
    with services().sessions.begin() as session:
        found = _ended(_batch(session, path.message_batch_id), "cancel it, and wait until it has, before deleting it")
        jobs.delete(session, tenant_id(), found.id)
        auth.note(session, Act.JOB_DELETED, found.id)
    logger.info("job %s deleted", found.id, extra={"action": "job_deleted", "job_id": found.id})
    return answer(MessageBatchDeleted(id=path.message_batch_id))


@bp.get(
    "/<message_batch_id>/results",
    operation_id="get_message_batch_results",
    responses={200: _RESULTS, **documented(401, 404, 409, 503)},
)
def read_results(path: BatchPath) -> Response:
    """Read the results of a message batch

    Streamed. Only of a batch that has ended; `/v1/jobs/{job_id}/results` shows the same while it runs.
    """
    with services().sessions() as session:
        job = _ended(_batch(session, path.message_batch_id), "its results are there once it has")
    encode = msgspec.json.encode
    found = results.rows(services().sessions, job.id)
    lines = (
        json_line(encode(value)) for value in itertools.chain((result_line(row, job.id) for row in found), _unread(job))
    )
    response = streamed(lines, f"{path.message_batch_id}_results.jsonl")
    response.content_type = "application/jsonl"
    return response


def _unread(job: Job) -> Iterator[dict[str, Any]]:
    """Requests that the batch ended without having read: they are still in the spool, in order."""
    if job.inputs_key is None or _requests(job) <= job.total:
        return
    with services().store.open(job.inputs_key) as inputs:
        for line in itertools.islice(inputs, job.total, None):
            yield {"custom_id": msgspec.json.decode(line)["custom_id"], "result": wire.unread_result(job.status)}


def _requests(job: Job) -> int:
    """How many requests the batch has. One that repeats a part of another knows it only once that part is read."""
    if job.selection is not None and wire.has_ended(job.status):
        return job.total
    return int(job.format.get(REQUESTS, job.total))


def _batch(session: Session, id: str) -> Job:
    """The batch, or NotFound: unknown ones look the same as those of others, and as jobs of other dialects."""
    try:
        return jobs.get(session, tenant_id(), renamed(id, jobs.PREFIX) if is_id(id, wire.PREFIX) else "", DIALECT)
    except NotFound as exc:
        raise NotFound("message batch", id) from exc


def _ended(job: Job, advice: str) -> Job:
    if not wire.has_ended(job.status):
        id = renamed(job.id, wire.PREFIX)
        raise Conflict(f"message batch {id} is {wire.processing_status(job.status)}; {advice}", "batch_not_ended")
    return job


def _object(job: Job) -> dict[str, Any]:
    id = renamed(job.id, wire.PREFIX)
    return wire.message_batch(job, id, _requests(job), f"{request.host_url}v1/messages/batches/{id}/results")
