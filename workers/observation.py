"""What is told of a piece of work once it is through: to the counters, to its trace, and to the log while it runs."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from db.recording import NewResult, Recorded
from db.states import JobStatus, Outcome, leftover
from db.steps import Step, StepLease
from telemetry import logs, traces
from telemetry.traces import Attributes, Moment
from workers import metrics
from workers.work import Work


@contextmanager
def at_chunk(work: Work) -> Iterator[None]:
    """The thread works on the chunk: its lines say so."""
    claim = work.claim
    ids = {"job_id": claim.job_id, "chunk_id": claim.chunk_id, "attempt": claim.attempt}
    trace = traces.trace_id(claim.traceparent)
    with logs.about(**ids, **({"trace_id": trace} if trace else {})):
        yield


def claimed(work: Work) -> None:
    metrics.STAGE.labels("queue_wait", work.claim.model).observe(work.claim.waited_seconds)
    if work.claim.attempt > 1:
        metrics.RETRIES.labels(work.claim.model).inc()


def recorded(work: Work, results: Sequence[NewResult], done: Recorded | None) -> None:
    """The chunk's results are in the ledger, or (None) its lease was lost."""
    model = work.claim.model
    outcome = "lost" if done is None else "handed_back" if done.handed_back else "recorded"
    metrics.CHUNKS.labels(model, outcome).inc()
    for moment in work.moments:
        metrics.STAGE.labels(moment.name, model).observe(moment.seconds)
    if done is not None:
        _count_items(model, results, work.claim.items - len(results) - done.handed_back, done.status)
    _trace(work, outcome)


def _count_items(model: str, results: Sequence[NewResult], left: int, status: JobStatus) -> None:
    succeeded = [result for result in results if result.outcome is Outcome.SUCCEEDED]
    count(model, Outcome.SUCCEEDED, len(succeeded))
    count(model, Outcome.FAILED, len(results) - len(succeeded))
    if left:
        count(model, leftover(status), left)
    for source, items in Counter(result.reuse for result in succeeded if result.reuse is not None).items():
        metrics.REUSED.labels(model, source.value).inc(items)
    metrics.TOKENS.labels(model, "input").inc(sum(result.input_tokens for result in succeeded))
    metrics.TOKENS.labels(model, "output").inc(sum(result.output_tokens for result in succeeded))


def count(model: str, outcome: str, items: int) -> None:
    """Items have their final outcome. Nothing is counted of none, so that no label appears for what never was."""
    if items:
        metrics.ITEMS.labels(model, str(outcome)).inc(items)


def _trace(work: Work, outcome: str) -> None:
    if not traces.is_on():
        return
    claim = work.claim
    attributes: Attributes = {
        "bushel.job_id": claim.job_id,
        "bushel.chunk_id": claim.chunk_id,
        "bushel.attempt": claim.attempt,
        "bushel.model": claim.model,
        "bushel.items": claim.items,
        "bushel.input_tokens": work.consumed,
        "bushel.output_tokens": work.produced,
        "bushel.outcome": outcome,
    }
    whole = Moment("chunk", work.claimed_at, traces.now() - work.claimed_at, attributes)
    traces.tell(whole, claim.traceparent, work.moments)


@contextmanager
def at_step(step: Step, lease: StepLease) -> Iterator[None]:
    """The thread is at a step of a job; what it raises counts as a failure of it."""
    attributes: Attributes = {"bushel.job_id": lease.job_id, "bushel.attempt": lease.attempt}
    began = time.perf_counter()
    with logs.about(job_id=lease.job_id, step=step), traces.span(step, lease.traceparent, attributes):
        try:
            yield
        except BaseException:
            metrics.STEP_FAILURES.labels(step).inc()
            raise
        finally:
            metrics.STEP.labels(step).observe(time.perf_counter() - began)
