"""Writing results: one fenced transaction a chunk, so that a late worker can burn electricity but never write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import cache, events, faults
from db.copying import copy_into
from db.errors import LeaseLost
from db.inputs import storable
from db.notices import announce
from db.states import Count, JobEventType, JobStatus, Outcome, Reuse, leftover
from db.usage import ADD, NOTHING, SPEND, Spent, as_values


class NewResult(msgspec.Struct, frozen=True):
    """The outcome of one item: `output` when it succeeded, `error_code` and `error_message` when not.

    `reuse` says that it was not computed, and then the tokens are none, and those that were saved by it are said. One
    with a `cache_key` is remembered for the tenant under that.
    """

    idx: int
    outcome: Outcome
    output: dict[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    error_param: str | None = None
    reuse: Reuse | None = None
    saved_input_tokens: int = 0
    saved_output_tokens: int = 0
    cache_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the transaction left behind. `finalize`: no item of the job is open any more.

    `is_idle`: items wait, and none runs. If those are twins, they have waited for this.
    """

    job_id: str
    status: JobStatus
    finalize: bool
    handed_back: int
    is_idle: bool = False


_LOCK_CHUNK = text("""
    SELECT job_id, model, items, tokens FROM chunks
    WHERE id = :chunk AND attempt = :attempt AND state = 'leased' FOR UPDATE
""")
_LOCK_ANY_CHUNK = text("SELECT job_id, model, items, tokens FROM chunks WHERE id = :chunk FOR UPDATE")
_LOCK_JOB = text(
    "SELECT status, succeeded + failed AS settled, interactive, tenant_id FROM jobs WHERE id = :job FOR UPDATE"
)
_CLOSE_CHUNK = text("""
    UPDATE chunks SET state = 'done', recipe_id = :recipe, lease_owner = NULL, lease_expires_at = NULL,
        hard_deadline = NULL, finished_at = now()
    WHERE id = :chunk AND attempt = :attempt AND state = 'leased'
""")
_HAND_BACK = text("""
    UPDATE chunks SET state = 'ready', items = :items, tokens = :tokens, lease_owner = NULL, lease_expires_at = NULL,
        hard_deadline = NULL, recipe_id = coalesce(:recipe, recipe_id)
    WHERE id = :chunk AND attempt = :attempt AND state = 'leased'
""")
# One statement for both, because another trip to the database would cost more than what it does there.
_COUNT = text(f"""
    WITH counted AS (
        UPDATE jobs SET running = running - :items, succeeded = succeeded + :succeeded, failed = failed + :failed,
            cancelled = cancelled + :cancelled, expired = expired + :expired, queued = queued + :queued,
            queued_tokens = queued_tokens + :tokens, input_tokens = input_tokens + :input_tokens,
            output_tokens = output_tokens + :output_tokens, truncated_inputs = truncated_inputs + :truncated_inputs,
            cut_outputs = cut_outputs + :cut_outputs, same_items = same_items + :same_items,
            cached_items = cached_items + :cached_items, saved_input_tokens = saved_input_tokens + :saved_input_tokens,
            saved_output_tokens = saved_output_tokens + :saved_output_tokens, progressed_at = now(), {SPEND}
        WHERE id = :job RETURNING status, queued, running, tenant_id, task
    ), added AS ({ADD})
    SELECT status, queued, running FROM counted
""")
_RESULT_COLUMNS = (
    "job_id, idx, seq, outcome, output, error_code, error_message, error_param, input_tokens, output_tokens, chunk_id,"
    " attempt"
)


def record(
    session: Session,
    chunk_id: int,
    attempt: int,
    results: Sequence[NewResult],
    recipe_id: int | None = None,
    spent: Spent = NOTHING,
) -> Recorded:
    """Store the results of a leased chunk, settle the rest of its items, and count what they took.

    Items without a result go back to the queue while the job runs (the chunk becomes ready again);
    once the job is being cancelled or is out of time they end as cancelled or expired. The last
    chunk of a running job moves it to `finalizing`. Whoever waits for an interactive job hears of it
    with the commit. Raises LeaseLost, having written nothing, when
    the chunk is not leased under this attempt any more - also when this very record already
    happened and only its acknowledgement was lost.
    """
    lock = _LOCK_CHUNK if faults.is_fenced() else _LOCK_ANY_CHUNK
    chunk = session.execute(lock, {"chunk": chunk_id, "attempt": attempt}).one_or_none()
    if chunk is None:
        raise LeaseLost(f"chunk {chunk_id}", attempt)
    job = session.execute(_LOCK_JOB, {"job": chunk.job_id}).one()
    rest = chunk.items - len(results)
    assert rest >= 0, f"chunk {chunk_id} has {chunk.items} items and got {len(results)} results"
    moved = {"queued": 0, "cancelled": 0, "expired": 0}
    tokens = chunk.tokens * rest // chunk.items
    running = JobStatus(job.status) is JobStatus.IN_PROGRESS
    moved[(Count.QUEUED if running else leftover(JobStatus(job.status))).value] = rest
    mine = {"chunk": chunk_id, "attempt": attempt, "recipe": recipe_id}
    if rest and running:
        session.execute(_HAND_BACK, mine | {"items": rest, "tokens": tokens})
    else:
        session.execute(_CLOSE_CHUNK, mine)
    insert_results(session, chunk.job_id, results, job.settled, chunk_id, attempt)
    # Before the day's row of usage, after which nothing is locked.
    cache.remember(session, job.tenant_id, chunk.job_id, _remembered(results))
    outputs = [result.output for result in results if result.output is not None]
    after = session.execute(
        _COUNT,
        {
            "job": chunk.job_id,
            "model": chunk.model,
            "items": chunk.items,
            "tokens": tokens if running else 0,
            "succeeded": sum(result.outcome is Outcome.SUCCEEDED for result in results),
            "failed": sum(result.outcome is Outcome.FAILED for result in results),
            "input_tokens": sum(result.input_tokens for result in results),
            "output_tokens": sum(result.output_tokens for result in results),
            "truncated_inputs": sum("truncated_tokens" in output for output in outputs),
            "cut_outputs": sum(output.get("finish_reason") == "length" for output in outputs),
            **_saved(results),
            **moved,
            **as_values(spent),
        },
    ).one()
    nothing_open = after.queued == 0 and after.running == 0
    status = JobStatus(after.status)
    if nothing_open and status is JobStatus.IN_PROGRESS:
        status = _begin_finalizing(session, chunk.job_id)
        if not job.interactive:
            events.note(session, chunk.job_id, JobEventType.FINALIZING)
    if job.interactive and results:
        # Only there somebody waits for a result and not for the end: notices make commits wait for each other.
        announce(session, chunk.job_id)
    faults.reached("between insert and commit")
    is_idle = status is JobStatus.IN_PROGRESS and after.running == 0 and after.queued > 0
    return Recorded(chunk.job_id, status, nothing_open, rest if running else 0, is_idle)


def _remembered(results: Sequence[NewResult]) -> dict[bytes, int]:
    """Which items are remembered, by key."""
    return {result.cache_key: result.idx for result in results if result.cache_key is not None}


def _saved(results: Sequence[NewResult]) -> dict[str, int]:
    reused = [result for result in results if result.reuse is not None and result.outcome is Outcome.SUCCEEDED]
    return {
        "same_items": sum(result.reuse is Reuse.SAME for result in reused),
        "cached_items": sum(result.reuse is Reuse.CACHED for result in reused),
        "saved_input_tokens": sum(result.saved_input_tokens for result in reused),
        "saved_output_tokens": sum(result.saved_output_tokens for result in reused),
    }


def _begin_finalizing(session: Session, job_id: str) -> JobStatus:
    """The caller holds the job's row lock and saw it in progress, so the row count is certain."""
    session.execute(
        text("""
            UPDATE jobs SET status = 'finalizing', version = version + 1, finalizing_at = now()
            WHERE id = :job AND status = 'in_progress'
        """),
        {"job": job_id},
    )
    return JobStatus.FINALIZING


def insert_results(
    session: Session, job_id: str, results: Sequence[NewResult], settled: int, chunk_id: int | None, attempt: int
) -> None:
    """COPY results in. `settled` is how many the job has already; the caller holds the job's row lock."""
    if not results:
        return
    with copy_into(session, "results", _RESULT_COLUMNS) as copy:
        for seq, result in enumerate(results, start=settled + 1):
            copy.write_row(
                (
                    job_id,
                    result.idx,
                    seq,
                    result.outcome.value,
                    None if result.output is None else _stored(result.output),
                    result.error_code,
                    None if result.error_message is None else storable(result.error_message),
                    None if result.error_param is None else storable(result.error_param),
                    result.input_tokens,
                    result.output_tokens,
                    chunk_id,
                    attempt,
                )
            )


def _stored(output: dict[str, Any]) -> str:
    """As JSON. A model may write a NUL, and bytes that are no text; its item must not fail for that."""
    try:
        encoded = msgspec.json.encode(output).decode()
    except UnicodeEncodeError:
        encoded = ""
    if encoded and "\\u0000" not in encoded:
        return encoded
    return msgspec.json.encode(_cleaned(output)).decode()


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {name: _cleaned(member) for name, member in value.items()}
    return [_cleaned(member) for member in value] if isinstance(value, list) else value
