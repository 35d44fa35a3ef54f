"""One request served at once: a job of one item that goes before all others, and a wait for its answer."""

import logging
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api import creation
from api.choice import model_for
from api.errors import InvalidRequest, TimedOut, summary
from api.services import services, tenant_id
from db import interactive, jobs
from db.doorbell import FINALIZE, WORK
from db.errors import Conflict
from db.inputs import Input, Problem
from db.lines import ResultRow
from db.models import Job
from db.outlook import outlook, surroundings
from dialects.aliases import in_their_words
from dialects.openai.endpoints import task_of
from models.params import HONOURED, PARAMETERS, ParamProblem
from models.params import check as check_params
from models.spec import ModelSpec, Task
from telemetry import traces

logger = logging.getLogger(__name__)

# Beyond the wait: the time by which a job ends by itself whose API process died while it waited.
_GRACE = timedelta(seconds=30)


def run_one(dialect: str, endpoint: str, read: Input) -> tuple[str, ResultRow]:
    """The id of the job that was made of the request, and the outcome of its only item, be it a failure.

    Raises InvalidRequest for what can be told without running it, UnknownModel, NoSeat when too many wait already,
    and TimedOut - the job is cancelled then - when there is no outcome within the configured wait.
    """
    if read.refusal:
        raise refusal(read.refusal)
    task = Task.GENERATION if dialect == "anthropic" else task_of(endpoint)
    spec = model_for(task, read.model)
    params = _params(read, spec)
    with services().seats.taken():
        job = _submit(dialect, endpoint, read, spec, params)
        # Only once the row is committed: a worker that answered sooner would find nothing.
        services().doorbell.ring(WORK, spec.name)
        return job.id, _outcome(job)


def refusal(problems: Sequence[Problem]) -> InvalidRequest:
    """Everything that is wrong with a request, under the names its sender knows."""
    first = problems[0]
    sentences = [f"{each.message}; {each.hint}" if each.hint else each.message for each in problems]
    details = [
        {"message": sentence, "param": each.param, "code": each.code}
        for sentence, each in zip(sentences, problems, strict=True)
    ]
    return InvalidRequest(
        summary(sentences), param=first.param, code=first.code, details=details if len(details) > 1 else None
    )


def _params(read: Input, spec: ModelSpec) -> dict[str, object]:
    params, found = check_params(read.wanted({}), spec)
    if not found:
        return params
    raise refusal([in_their_words(each, read.aliases, _code(each, spec)) for each in found])


def _code(found: ParamProblem, spec: ModelSpec) -> str:
    is_known = found.param in PARAMETERS
    return "unsupported_parameter" if is_known and found.param not in HONOURED[spec.engine] else "invalid_value"


def _submit(dialect: str, endpoint: str, read: Input, spec: ModelSpec, params: dict[str, object]) -> Job:
    new = jobs.NewJob(
        id=jobs.new_job_id(),
        task=spec.task.value,
        model=spec.name,
        params=read.params,
        format={"type": "jsonl"},
        dialect=dialect,
        endpoint=endpoint,
        traceparent=traces.current(),
        expires_in=timedelta(seconds=services().settings.sync_wait_seconds) + _GRACE,
    )
    read.answered_by(spec.name)
    with services().sessions.begin() as session:
        job = interactive.submit(session, tenant_id(), new, read.body, params)
        creation.note_new(session, job)
        return job


def _outcome(job: Job) -> ResultRow:
    found: list[ResultRow] = []

    def is_done() -> bool:
        # A connection is held for the look only, never for the wait.
        try:
            with services().sessions() as session:
                row = interactive.answer(session, job.id)
        except (OperationalError, PoolTimeout) as exc:
            # The request is in the ledger and is served when that is back; sent again, it would be run twice.
            logger.warning("cannot look for an answer: %s", exc, extra={"action": "look_failed", "job_id": job.id})
            return False
        found.extend([] if row is None else [row])
        return row is not None

    if not services().listener.wait(job.id, is_done, services().settings.sync_wait_seconds):
        reason = _why(job)
        # The answer may have come in this very moment; then the job cannot be cancelled any more.
        if _cancel(job.id) or not is_done():
            raise _timed_out(reason)
    return found[0]


def _why(job: Job) -> str:
    """What a request that got no answer was waiting for."""
    with services().sessions() as session:
        now = jobs.get(session, job.tenant_id, job.id)
        waiting = outlook(now, surroundings(session, [now])).waiting_for
    return "it was still running" if waiting is None else waiting.message


def _cancel(job_id: str) -> bool:
    """Nobody waits for it any more; False when it has ended."""
    try:
        with services().sessions.begin() as session:
            jobs.cancel(session, tenant_id(), job_id)
    except Conflict:
        return False
    services().doorbell.ring(FINALIZE, job_id)
    return True


def _timed_out(reason: str) -> TimedOut:
    seconds = services().settings.sync_wait_seconds
    return TimedOut(
        f"there was no answer within {seconds:g} seconds ({reason}), and the request was cancelled; "
        "a batch waits for as long as you let it",
        should_retry=False,
    )
