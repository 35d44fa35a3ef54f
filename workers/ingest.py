"""From a job's file to items and chunks: streamed, checked to the last line, in bounded memory."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError

from db import intake, rates, steps
from db.chunks import add_chunks, open_models
from db.doorbell import FINALIZE, INGEST, WORK, Doorbell
from db.errors import LeaseLost
from db.inputs import Problem
from db.session import Sessions
from db.states import JobStatus, Outcome
from db.steps import StepLease
from db.store import FileStore
from models.registry import Registry, UnknownModel
from models.spec import ModelSpec
from workers.arrangement import arrange
from workers.drafts import Drafter, Effective
from workers.formats import Bounds, Format, Line, Unreadable, read
from workers.planning import (
    UNMEASURED_CHUNK_TOKENS,
    chunk_budget,
)

logger = logging.getLogger(__name__)

# A window is read, sorted and written at once: what bounds memory, and the reach of the sorting and of the search
# for equal inputs. Windows of 50,000 took 60 MiB more and were no faster; 10,000 are still several of the largest
# chunks, and dozens of a real model's.
WINDOW_ITEMS = 10_000
WINDOW_CHARS = 16 * 2**20
MAX_LISTED_PROBLEMS = 100
# What a problem and a cell take in memory beside their text, in characters.
PROBLEM_CHARS, CELL_CHARS = 500, 10
# An ingest that failed this often, for no reason outside of it, fails its job instead of being tried for ever.
MAX_ATTEMPTS = 3


class ProcessStopping(Exception):
    """The process is being stopped; the step is left for another one."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What the job row says about its input."""

    job_id: str
    task: str
    model: str
    params: dict[str, Any]
    format: Format
    on_error: str
    dry_run: bool
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
    ) -> None:
        self._sessions, self._store, self._registry = sessions, store, registry
        self._doorbell, self._bounds, self._owner, self._should_stop = doorbell, bounds, owner, should_stop

    def run(self, job_id: str) -> bool:
        """Validate and store one job's input; False when the step is not due or somebody else is at it.

        A stopping process gives the step up between two windows; another one starts it over.
        """
        with self._sessions.begin() as session:
            lease = steps.take(session, job_id, "ingest", self._owner)
        if lease is None:
            return False
        try:
            models = self._ingest(lease)
        except LeaseLost as exc:
            # Cancelled or deleted meanwhile, or a frozen process that another one stood in for.
            logger.info("ingest of %s given up: %s", job_id, exc, extra={"action": "ingest_lost", "job_id": job_id})
            self._leave(lease)
            self._doorbell.ring(FINALIZE, job_id)
            return True
        except ProcessStopping:
            self._leave(lease)
            self._doorbell.ring(INGEST, job_id)
            return False
        except (OperationalError, InterfaceError, TimeoutError, OSError):
            # The database or the store is away: tried again once the lease has run out, as often as it takes.
            raise
        except Exception:
            if lease.attempt < MAX_ATTEMPTS:
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
            intake.conclude(session, lease, intake.Verdict(JobStatus.FAILED, errors))

    def _leave(self, lease: StepLease) -> None:
        with self._sessions.begin() as session:
            steps.leave(session, lease)

    def _ingest(self, lease: StepLease) -> list[str]:
        source = self._source(lease.job_id)
        self._clear(lease)
        try:
            spec = self._registry().get(source.model)
        except UnknownModel as exc:
            self._refuse(lease, Problem("model_not_found", str(exc), "add it to the registry or use another one"))
            return []
        run = _Run(self._sessions, lease, source, spec)
        columns: list[str] | None = None
        try:
            with self._store.open(source.store_key) as file:
                reading = read(file, source.format, source.task, self._bounds)
                for window in _windows(reading.lines):
                    run.write(window)
                    # Let go of it before the next one is read, or there are two in memory.
                    del window
                    if self._should_stop():
                        raise ProcessStopping
                columns = reading.columns
        except Unreadable as exc:
            run.end(exc.problem)
        except FileNotFoundError:
            run.end(Problem("file_not_found", "the input file's bytes are gone", "upload it again and submit again"))
        return self._conclude(lease, source, run, columns)

    def _conclude(self, lease: StepLease, source: _Source, run: "_Run", columns: list[str] | None) -> list[str]:
        if run.count == 0 and not run.problems.total:
            run.end(Problem("empty_file", "the input has no lines", "send at least one input"))
        errors = run.problems.as_json()
        refused = run.is_unreadable or (errors is not None and source.on_error == "fail")
        if refused or source.dry_run:
            self._clear(lease)
        if source.dry_run and not refused:
            verdict = intake.Verdict(JobStatus.FINALIZING, errors, run.estimate(), columns)
        elif refused:
            verdict = intake.Verdict(JobStatus.FAILED, errors, columns=columns)
        else:
            status = JobStatus.IN_PROGRESS if run.queued else JobStatus.FINALIZING
            verdict = intake.Verdict(status, errors, columns=columns)
        with self._sessions.begin() as session:
            intake.conclude(session, lease, verdict)
            models = open_models(session, lease.job_id) if verdict.status is JobStatus.IN_PROGRESS else []
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
        return models

    def _source(self, job_id: str) -> _Source:
        with self._sessions() as session:
            row = session.execute(
                text("""
                    SELECT job.id, job.task, job.model, job.params, job.format, job.on_error, job.dry_run,
                        coalesce(job.inputs_key, file.store_key) AS store_key,
                        CASE WHEN job.inputs_key IS NULL THEN 'line-' ELSE 'input-' END AS id_prefix
                    FROM jobs job LEFT JOIN files file ON file.id = job.input_file_id WHERE job.id = :job
                """),
                {"job": job_id},
            ).one()
        return _Source(
            row.id,
            row.task,
            row.model,
            row.params,
            Format.of(row.format),
            row.on_error,
            row.dry_run,
            row.store_key,
            row.id_prefix,
        )

    def _clear(self, lease: StepLease) -> None:
        done = False
        while not done:
            with self._sessions.begin() as session:
                done = intake.clear(session, lease)


def _windows(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """Lines in lists of bounded size. Blank ones count, so that writing a window keeps the lease however many come."""
    window: list[Line] = []
    read = chars = 0
    try:
        for line in lines:
            read += 1
            if not line.is_nothing:
                window.append(line)
                chars += _chars(line)
            if read >= WINDOW_ITEMS or chars >= WINDOW_CHARS:
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
    chars = len(line.raw) + len(line.problems) * PROBLEM_CHARS
    if line.extra:
        chars += sum(map(len, line.extra)) + len(line.extra) * CELL_CHARS
    if line.input is None:
        return chars
    if line.input.params:
        chars += len(msgspec.json.encode(line.input.params))
    body = line.input.body
    if "messages" in body:
        return chars + sum(len(turn["content"]) for turn in body["messages"])
    return chars + len(body.get("text", ""))


class _Run:
    """One pass over the input: numbers, checks and writes its lines window by window."""

    def __init__(self, sessions: Sessions, lease: StepLease, source: _Source, spec: ModelSpec) -> None:
        self._sessions, self._lease, self._source = sessions, lease, source
        self._drafter = Drafter(Effective(source.params, spec), source.id_prefix)
        self.count = self.queued = self._invalid = self._tokens = 0
        self.problems = _Problems()
        self.is_unreadable = self._has_ids = False
        with sessions() as session:
            self._rate = rates.measured(session, source.model)

    def end(self, problem: Problem) -> None:
        """Note a problem after which the job cannot run, whatever `on_error` says."""
        self.is_unreadable = True
        self.problems.add([problem])

    def estimate(self) -> dict[str, Any]:
        """What the job would cost. Seconds are of one worker at the measured rate; None when nothing was measured."""
        rate = self._rate
        seconds = None
        if rate is not None:
            seconds = round(self._tokens * (1 + rate.output_per_input) / rate.tokens_per_second, 1)
        return {
            "items": self.count - self._invalid,
            "invalid_items": self._invalid,
            "input_tokens": self._tokens,
            "seconds": seconds,
        }

    def write(self, window: list[Line]) -> None:
        job_id = self._source.job_id
        with self._sessions.begin() as session:
            steps.hold(session, self._lease, JobStatus.VALIDATING)
            # Without any id of the user's there are only our own, which cannot clash.
            self._has_ids = self._has_ids or any(line.custom_id is not None for line in window)
            ids = [self._drafter.id_of(line) for line in window] if self._has_ids and self.count else []
            known = intake.known_ids(session, job_id, ids) if ids else {}
            drafts, problems = self._drafter.drafts(window, self.count, known)
            chunks, items = arrange(drafts, self._source.model, self._budget())
            chunk_ids = add_chunks(session, job_id, chunks) if chunks else []
            intake.add_items(session, job_id, items, chunk_ids)
            settled = [draft.settled for draft in drafts if draft.settled]
            queued, tokens = sum(chunk.items for chunk in chunks), sum(chunk.tokens for chunk in chunks)
            intake.count_in(session, job_id, queued, tokens, settled)
        self.problems.add(problems)
        self._invalid += sum(result.outcome is Outcome.FAILED for result in settled)
        self.count += len(drafts)
        self.queued += queued
        self._tokens += tokens

    def _budget(self) -> int:
        if self._rate is None:
            return UNMEASURED_CHUNK_TOKENS
        return chunk_budget(self._rate.tokens_per_second, self._rate.output_per_input)
