"""From a job's file to items and chunks: streamed, checked to the last line, in bounded memory."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import faults, intake, quotas, rates, steps
from db.chunks import add_chunks, open_models
from db.doorbell import DELIVER, FINALIZE, INGEST, WORK, Doorbell
from db.errors import LeaseLost, QuotaExceeded
from db.inputs import Problem
from db.outages import outage
from db.quotas import Limits
from db.session import Sessions
from db.states import JobStatus, Outcome
from db.steps import StepLease
from db.store import FileStore
from dialects.reading import reader
from models.params import copies
from models.registry import Registry, UnknownModel
from workers import metrics, observation, preview
from workers.arrangement import arrange
from workers.drafts import Drafter
from workers.effective import MODEL_NOT_FOUND, Setups
from workers.formats import Bounds, Format, Line, Unreadable, read
from workers.planning import UNMEASURED_CHUNK_TOKENS, chunk_budget
from workers.room import DiskNearlyFull
from workers.seen import Seen
from workers.selection import ParentDeleted, selected

logger = logging.getLogger(__name__)

# A window is read, sorted and written at once: what bounds memory, and the reach of the sorting. Windows of 50,000 took
# 60 MiB more and were no faster; 10,000 are still several of the largest chunks, and dozens of a real model's.
WINDOW_ITEMS = 10_000
WINDOW_CHARS = 16 * 2**20
MAX_LISTED_PROBLEMS = 100
# What a problem and a cell take in memory beside their text, in characters.
PROBLEM_CHARS, CELL_CHARS = 500, 10
# An ingest that failed this often, for no reason outside of it, fails its job instead of being tried for ever.
MAX_ATTEMPTS = 3
# Of a file with more bad lines than this, more than half of all, the rest is not read: it is not what it is said to be.
# Every line that is skipped costs two rows, and 100 kB of gzip can hold ten million.
MAX_INVALID = 50_000
_NO_LIMITS = Limits()


class ProcessStopping(Exception):
    """The process is being stopped; the step is left for another one."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What the job row says about its input."""

    job_id: str
    tenant_id: str
    dialect: str
    endpoint: str | None
    task: str
    model: str | None
    params: dict[str, Any]
    format: Format
    on_error: str
    dry_run: bool
    parent_id: str | None
    selection: str | None
    store_key: str
    id_prefix: str


@dataclass(slots=True)
class _Problems:
    """All problems counted, the first ones kept."""

    total: int = 0
    listed: list[Problem] = field(default_factory=list)

    def add(self, problems: Sequence[Problem]) -> None:
        self.total += len(problems)
        self.listed += problems[: MAX_LISTED_PROBLEMS - len(self.listed)]

    def add_last(self, problem: Problem) -> None:
        """The one that ended it all is kept, however many came before."""
        self.total += 1
        self.listed = [*self.listed[: MAX_LISTED_PROBLEMS - 1], problem]

    def as_json(self) -> dict[str, Any] | None:
        if not self.total:
            return None
        return {"total": self.total, "data": [problem.as_json() for problem in self.listed]}


class Ingest:
    """The ingest step. One instance serves a process; `run` may be called from several threads."""

    def __init__(
        self,
        sessions: Sessions,
        store: FileStore,
        registry: Callable[[], Registry],
        doorbell: Doorbell,
        bounds: Bounds,
        owner: str,
        should_stop: Callable[[], bool] = lambda: False,
        window_items: int = WINDOW_ITEMS,
        has_room: Callable[[], bool] = lambda: True,
        limits: Limits = _NO_LIMITS,
    ) -> None:
        self._sessions, self._store, self._registry = sessions, store, registry
        self._doorbell, self._bounds, self._owner, self._should_stop = doorbell, bounds, owner, should_stop
        self._window_items, self._has_room, self._limits = window_items, has_room, limits

    def run(self, job_id: str) -> bool:
        """Validate and store one job's input; False when the step is not due or somebody else is at it.

        A stopping process gives the step up between two windows; another one starts it over. So does one whose disk
        is nearly full, once there is room.
        """
        if not self._has_room():
            return False
        with self._sessions.begin() as session:
            lease = steps.take(session, job_id, "ingest", self._owner)
        if lease is None:
            return False
        with observation.at_step("ingest", lease):
            return self._run(lease)

    def _run(self, lease: StepLease) -> bool:
        job_id = lease.job_id
        try:
            models = self._ingest(lease)
        except LeaseLost as exc:
            # Cancelled or deleted meanwhile, or a frozen process that another one stood in for.
            logger.info("ingest of %s given up: %s", job_id, exc, extra={"action": "ingest_lost", "job_id": job_id})
            self._leave(lease)
            self._doorbell.ring(FINALIZE, job_id)
            return True
        except DiskNearlyFull as exc:
            logger.warning("job %s waits: %s", job_id, exc, extra={"action": "ingest_waits", "job_id": job_id})
            self._leave(lease)
            return False
        except ProcessStopping:
            self._leave(lease)
            self._doorbell.ring(INGEST, job_id)
            return False
        except OSError:
            # The store is away: tried again once the lease has run out, as often as it takes.
            raise
        except Exception as exc:
            # The same of the database.
            if outage(exc) is not None or lease.attempt < MAX_ATTEMPTS:
                raise
            logger.exception("ingest of %s fails again", job_id, extra={"action": "ingest_failed", "job_id": job_id})
            self._refuse(
                lease, Problem("internal_error", "the input could not be processed", "the service's log says why")
            )
            return True
        for model in models:
            self._doorbell.ring(WORK, model)
        return True

    def _refuse(self, lease: StepLease, problem: Problem) -> None:
        """Fail the job for a reason that is not in its lines."""
        self._clear(lease)
        with self._sessions.begin() as session:
            errors = {"total": 1, "data": [problem.as_json()]}
            is_awaited = intake.conclude(session, lease, intake.Verdict(JobStatus.FAILED, errors))
        metrics.JOBS.labels(JobStatus.FAILED.value).inc()
        if is_awaited:
            self._doorbell.ring(DELIVER)

    def _leave(self, lease: StepLease) -> None:
        with self._sessions.begin() as session:
            steps.leave(session, lease)

    def _ingest(self, lease: StepLease) -> list[str]:
        source = self._source(lease.job_id)
        self._clear(lease)
        registry = self._registry()
        try:
            if source.model is not None:
                registry.get(source.model)
        except UnknownModel as exc:
            self._refuse(lease, Problem(MODEL_NOT_FOUND, str(exc), "add it to the registry or use another one"))
            return []
        setups = Setups(registry, source.dialect, source.task, source.model, source.params)
        run = _Run(self._sessions, lease, source, setups, self._limits)
        columns = self._read(source, run)
        if run.count == 0 and not run.problems.total:
            run.end(_nothing(source))
        elif _lacks_references(source, run):
            run.end(_no_references(source))
        return self._conclude(lease, source, run, columns)

    def _read(self, source: _Source, run: "_Run") -> list[str] | None:
        """Write all of the input, or note in `run` why it cannot be read; the header of a CSV file, once seen."""
        reading = None
        try:
            with self._store.open(source.store_key) as file:
                check = reader(source.dialect, source.endpoint, source.task)
                reading = read(file, source.format, check, self._bounds)
                lines = reading.lines
                if source.selection is not None:
                    lines = selected(self._sessions, source.parent_id, lines)
                for window in _windows(lines, self._window_items):
                    run.write(window)
                    # Let go of it before the next one is read, or there are two in memory.
                    del window
                    faults.reached("in ingest")
                    if not self._has_room():
                        raise DiskNearlyFull("the disk is nearly full; the input is read again once there is room")
                    if self._should_stop():
                        raise ProcessStopping
        except Unreadable as exc:
            run.end(exc.problem)
        except QuotaExceeded as exc:
            run.end(Problem("quota_exceeded", str(exc), "GET /v1/quota tells what there is; then submit it again"))
        except FileNotFoundError:
            run.end(Problem("file_not_found", "the input file's bytes are gone", "upload it again and submit again"))
        except ParentDeleted:
            message = "the job whose unfinished items were to run was deleted"
            run.end(Problem("parent_deleted", message, "submit what is to run as a job of its own"))
        return reading.columns if reading else None

    def _conclude(self, lease: StepLease, source: _Source, run: "_Run", columns: list[str] | None) -> list[str]:
        errors = run.problems.as_json()
        refused = run.is_unreadable or (errors is not None and source.on_error == "fail")
        if refused or source.dry_run:
            self._clear(lease)
        if refused:
            status = JobStatus.FAILED
        else:
            status = JobStatus.IN_PROGRESS if run.queued and not source.dry_run else JobStatus.FINALIZING
        estimate = run.estimate(columns) if source.dry_run else None
        header = None if run.is_unreadable else columns
        verdict = intake.Verdict(status, errors, estimate, header, run.model)
        with self._sessions.begin() as session:
            is_awaited = intake.conclude(session, lease, verdict)
            models = open_models(session, lease.job_id) if verdict.status is JobStatus.IN_PROGRESS else []
        if refused:
            metrics.JOBS.labels(status.value).inc()
        elif not source.dry_run:
            observation.count(metrics.NO_MODEL, Outcome.FAILED, run.invalid)
            observation.count(metrics.NO_MODEL, Outcome.SUCCEEDED, run.count - run.queued - run.invalid)
        logger.info(
            "job %s is %s: %d items, %d problems",
            lease.job_id,
            verdict.status,
            run.count,
            run.problems.total,
            extra={"action": "job_validated", "job_id": lease.job_id, "status": verdict.status.value},
        )
        if verdict.status is JobStatus.FINALIZING:
            self._doorbell.ring(FINALIZE, lease.job_id)
        if is_awaited:
            self._doorbell.ring(DELIVER)
        return models

    def _source(self, job_id: str) -> _Source:
        with self._sessions() as session:
            row = session.execute(
                text("""
                    SELECT job.id, job.tenant_id, job.dialect, job.endpoint, job.task, job.model, job.params,
                        job.format, job.on_error, job.dry_run, job.parent_id, job.selection,
                        coalesce(job.inputs_key, file.store_key) AS store_key,
                        CASE WHEN job.inputs_key IS NULL THEN 'line-' ELSE 'input-' END AS id_prefix
                    FROM jobs job LEFT JOIN files file ON file.id = job.input_file_id WHERE job.id = :job
                """),
                {"job": job_id},
            ).one()
        return _Source(
            row.id,
            row.tenant_id,
            row.dialect,
            row.endpoint,
            row.task,
            row.model,
            row.params,
            Format.of(row.format),
            row.on_error,
            row.dry_run,
            row.parent_id,
            row.selection,
            row.store_key,
            row.id_prefix,
        )

    def _clear(self, lease: StepLease) -> None:
        done = False
        while not done:
            with self._sessions.begin() as session:
                done = intake.clear(session, lease)


def _lacks_references(source: _Source, run: "_Run") -> bool:
    """Whether a key was named that no object has. Of a CSV the header tells, and a part of a job may well have none."""
    is_named = source.format.type == "jsonl" and source.format.reference_column is not None
    return is_named and source.selection is None and not run.referenced and not run.problems.total


def _mostly_invalid(invalid: int, count: int) -> Problem:
    return Problem(
        "mostly_invalid",
        f"{invalid:,} of the first {count:,} inputs are invalid, so the rest was not read",
        "look at the problems listed before this one, and check the format that the job names",
    )


def _no_references(source: _Source) -> Problem:
    key = source.format.reference_column
    hint = "name the key that holds it with format.reference_column, or leave that out"
    return Problem("missing_reference", f"no line has a reference in {key!r}", hint, param=key)


def _nothing(source: _Source) -> Problem:
    if source.selection is not None:
        return Problem("nothing_to_retry", "every item of the job to repeat has succeeded", "there is nothing to run")
    return Problem("empty_file", "the input has no lines", "send at least one input")


def _windows(lines: Iterator[Line], most: int = WINDOW_ITEMS) -> Iterator[list[Line]]:
    """Lines in lists of bounded size. Blank ones count, so that writing a window keeps the lease however many come."""
    window: list[Line] = []
    read = chars = 0
    try:
        for line in lines:
            read += 1
            if not line.is_nothing:
                window.append(line)
                chars += _chars(line)
            if read >= most or chars >= WINDOW_CHARS:
                yield window
                window, read, chars = [], 0, 0
    except Unreadable:
        # What was read before the fault still counts: its problems are reported too.
        if window:
            yield window
        raise
    if window:
        yield window


def _chars(line: Line) -> int:
    """About what the line takes in memory: a window must stay small, whatever its lines are made of."""
    refusal = line.input.refusal if line.input else ()
    chars = len(line.raw) + (len(line.problems) + len(refusal)) * PROBLEM_CHARS
    if line.extra:
        chars += sum(map(len, line.extra)) + len(line.extra) * CELL_CHARS
    if line.input is None:
        return chars
    if line.input.params:
        chars += len(msgspec.json.encode(line.input.params))
    if line.input.reference:
        chars += sum(map(len, line.input.reference))
    body = line.input.body
    if "request" in body:
        chars += len(msgspec.json.encode(body["request"]))
    if "messages" in body:
        return chars + sum(len(turn["content"]) for turn in body["messages"])
    return chars + sum(map(len, body.get("texts", ()))) + len(body.get("text", ""))


class _Run:
    """One pass over the input: numbers, checks and writes its lines window by window."""

    def __init__(self, sessions: Sessions, lease: StepLease, source: _Source, setups: Setups, limits: Limits) -> None:
        self._sessions, self._lease, self._source, self._setups = sessions, lease, source, setups
        self._limits = limits
        self._drafter = Drafter(setups, source.dialect, source.id_prefix)
        self._seen = Seen()
        self.count = self.queued = self.referenced = self.invalid = 0
        self._input_tokens = 0
        # What each model has to do, in input tokens; copies count.
        self._cost: dict[str, int] = {}
        self._rates: dict[str, rates.Rate | None] = {}
        self._first: list[dict[str, Any]] = []
        self.problems = _Problems()
        self.is_unreadable = self._has_ids = False

    @property
    def model(self) -> str | None:
        """The one model of all items, if it is one."""
        return next(iter(self._setups.models)) if len(self._setups.models) == 1 else None

    def end(self, problem: Problem) -> None:
        """Note a problem after which the job cannot run, whatever `on_error` says."""
        self.is_unreadable = True
        self.problems.add_last(problem)

    def estimate(self, columns: list[str] | None) -> dict[str, Any]:
        """What the job would cost, and how its input was understood, as far as it could be read.

        Seconds and output tokens are of measured rates, None where one was never measured.
        """
        return {
            "items": self.count - self.invalid,
            "invalid_items": self.invalid,
            "input_tokens": self._input_tokens,
            "output_tokens": self._output_tokens(),
            "seconds": self._seconds(),
            "columns": preview.columns(columns),
            "first_items": self._first,
        }

    def _output_tokens(self) -> int | None:
        tokens = 0.0
        for model, cost in self._cost.items():
            rate = self._rates[model]
            if rate is None:
                return None
            tokens += cost * rate.output_per_input
        return round(tokens)

    def _seconds(self) -> float | None:
        seconds = 0.0
        for model, tokens in self._cost.items():
            rate = self._rates[model]
            if rate is None:
                return None
            seconds += tokens * (1 + rate.output_per_input) / rate.tokens_per_second
        return round(seconds, 1)

    def write(self, window: list[Line]) -> None:
        job_id = self._source.job_id
        with self._sessions.begin() as session:
            steps.hold(session, self._lease, JobStatus.VALIDATING)
            # Without any id of the user's there are only our own, which cannot clash.
            self._has_ids = self._has_ids or any(line.custom_id is not None for line in window)
            ids = [self._drafter.id_of(line) for line in window] if self._has_ids and self.count else []
            known = intake.known_ids(session, job_id, ids) if ids else {}
            drafts, problems = self._drafter.drafts(window, self.count, known)
            chunks, items = arrange(drafts, partial(self._budget, session), self._seen)
            chunk_ids = add_chunks(session, job_id, chunks) if chunks else []
            intake.add_items(session, job_id, items, chunk_ids)
            settled = [draft.settled for draft in drafts if draft.settled]
            queued, tokens = sum(chunk.items for chunk in chunks), sum(chunk.tokens for chunk in chunks)
            referenced = sum(line.input is not None and line.input.reference is not None for line in window)
            intake.count_in(session, job_id, queued, tokens, settled, referenced)
            if not self._source.dry_run:
                # Last, because others of the tenant wait from here to the commit.
                quotas.ensure_queue_within(session, self._source.tenant_id, self._limits)
        if self._source.dry_run:
            self._first += preview.items(drafts, preview.MOST_ITEMS - len(self._first))
        self.problems.add(problems)
        self.invalid += sum(result.outcome is Outcome.FAILED for result in settled)
        self.count += len(drafts)
        self.queued += queued
        self.referenced += referenced
        for chunk in chunks:
            self._cost[chunk.model] = self._cost.get(chunk.model, 0) + chunk.tokens
            self._input_tokens += chunk.tokens // copies(chunk.params)
        if self.invalid > MAX_INVALID and self.invalid > self.count / 2:
            raise Unreadable(_mostly_invalid(self.invalid, self.count))

    def _budget(self, session: Session, model: str) -> int:
        if model not in self._rates:
            self._rates[model] = rates.measured(session, model)
        rate = self._rates[model]
        return UNMEASURED_CHUNK_TOKENS if rate is None else chunk_budget(rate.tokens_per_second, rate.output_per_input)
