"""From a job's file to items and chunks: streamed, checked to the last line, in bounded memory."""

import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError

from db import intake, rates, steps
from db.chunks import NewChunk, add_chunks, open_models
from db.doorbell import FINALIZE, INGEST, WORK, Doorbell
from db.errors import LeaseLost
from db.inputs import Problem
from db.recording import NewResult
from db.session import Sessions
from db.states import JobStatus, Outcome
from db.steps import StepLease
from db.store import FileStore
from models.params import check as check_params
from models.registry import Registry, UnknownModel
from models.spec import ModelSpec
from workers.formats import Format, Line, Unreadable, read
from workers.planning import (
    ITEM_OVERHEAD_TOKENS,
    MAX_CHUNK_ITEMS,
    UNMEASURED_CHUNK_TOKENS,
    chunk_budget,
    estimate_tokens,
    plan,
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
class _Draft:
    """A line on its way to become an item; `params` is None when it is settled already."""

    line: Line
    custom_id: str
    tokens: int
    params: str | None
    settled: NewResult | None


@dataclass(slots=True)
class _Problems:
    """All problems counted, the first ones kept."""

    total: int = 0
    listed: list[Problem] = field(default_factory=list)

    def add(self, problems: tuple[Problem, ...]) -> None:
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
        registry: Registry,
        doorbell: Doorbell,
        max_bytes: int,
        owner: str,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._sessions, self._store, self._registry = sessions, store, registry
        self._doorbell, self._max_bytes, self._owner, self._should_stop = doorbell, max_bytes, owner, should_stop

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
            self._refuse(lease)
            return True
        for model in models:
            self._doorbell.ring(WORK, model)
        return True

    def _refuse(self, lease: StepLease) -> None:
        problem = Problem("internal_error", "the input could not be processed", "the service's log says why")
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
        run = _Run(self._sessions, lease, source, _Effective(self._registry, source))
        columns: list[str] | None = None
        try:
            with self._store.open(source.store_key) as file:
                reading = read(file, source.format, source.task, self._max_bytes)
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
    window: list[Line] = []
    chars = 0
    try:
        for line in lines:
            window.append(line)
            chars += _chars(line)
            if len(window) >= WINDOW_ITEMS or chars >= WINDOW_CHARS:
                yield window
                window, chars = [], 0
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


class _Effective:
    """Effective decoding parameters per distinct set of item parameters, checked once each."""

    def __init__(self, registry: Registry, source: _Source) -> None:
        self._job_params = source.params
        self._known: dict[str, tuple[str, tuple[Problem, ...]]] = {}
        self.problem: Problem | None = None
        self._spec: ModelSpec | None = None
        try:
            self._spec = registry.get(source.model)
        except UnknownModel as exc:
            self.problem = Problem("model_not_found", str(exc), "add it to the registry or use another one")

    def of(self, params: dict[str, Any]) -> tuple[str, tuple[Problem, ...]]:
        """Canonical JSON of the parameters that will be used, or why they cannot be."""
        key = msgspec.json.encode(params, order="deterministic").decode() if params else "{}"
        if key not in self._known:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = self._check(params)
        return self._known[key]

    def _check(self, params: dict[str, Any]) -> tuple[str, tuple[Problem, ...]]:
        if self._spec is None:
            return "{}", ()
        clean, found = check_params(self._job_params | params, self._spec)
        problems = tuple(
            Problem("invalid_params", problem.message, problem.hint, param=problem.param) for problem in found
        )
        if problems:
            return "", problems
        return msgspec.json.encode(clean, order="deterministic").decode(), ()


class _Run:
    """One pass over the input: numbers, checks and writes its lines window by window."""

    def __init__(self, sessions: Sessions, lease: StepLease, source: _Source, effective: _Effective) -> None:
        self._sessions, self._lease, self._source, self._effective = sessions, lease, source, effective
        self.count = self.queued = self._tokens = 0
        self.problems = _Problems()
        self.is_unreadable = self._has_ids = False
        with sessions() as session:
            self._rate = rates.measured(session, source.model)
        if effective.problem:
            self.end(effective.problem)

    def end(self, problem: Problem) -> None:
        """Note a problem after which the job cannot run, whatever `on_error` says."""
        self.is_unreadable = True
        self.problems.add((problem,))

    def estimate(self) -> dict[str, Any]:
        """What the job would cost. Seconds are of one worker at the measured rate; None when nothing was measured."""
        rate = self._rate
        seconds = None
        if rate is not None:
            seconds = round(self._tokens * (1 + rate.output_per_input) / rate.tokens_per_second, 1)
        return {"items": self.count, "input_tokens": self._tokens, "seconds": seconds}

    def write(self, window: list[Line]) -> None:
        with self._sessions.begin() as session:
            steps.hold(session, self._lease, JobStatus.VALIDATING)
            # Without any id of the user's there are only our own, which cannot clash.
            self._has_ids = self._has_ids or any(line.custom_id is not None for line in window)
            ids = [self._id(line) for line in window] if self._has_ids else []
            known = intake.known_ids(session, self._source.job_id, ids) if ids and self.count else {}
            drafts = self._drafts(window, known)
            chunks, items = self._arranged(drafts)
            chunk_ids = add_chunks(session, self._source.job_id, chunks) if chunks else []
            intake.add_items(session, self._source.job_id, items, chunk_ids)
            settled = [draft.settled for draft in drafts if draft.settled]
            queued, tokens = sum(chunk.items for chunk in chunks), sum(chunk.tokens for chunk in chunks)
            intake.count_in(session, self._source.job_id, queued, tokens, settled)
        self.count += len(drafts)
        self.queued += queued
        self._tokens += tokens

    def _drafts(self, window: list[Line], known: dict[str, int]) -> list[_Draft]:
        """Lines with their ids, parameters and - for refused and blank ones - their results."""
        taken = dict(known)
        drafts: list[_Draft] = []
        for line in window:
            idx = self.count + len(drafts)
            problems = line.problems
            custom_id = self._id(line)
            if custom_id in taken:
                problems += (self._duplicate(line, custom_id, taken[custom_id]),)
                custom_id = self._unused(line, taken)
            params = ""
            if line.input and not problems:
                params, wrong = self._effective.of(line.input.params)
                if wrong:
                    problems = tuple(_at(problem, line.number) for problem in wrong)
            taken[custom_id] = line.number
            self.problems.add(problems)
            drafts.append(self._draft(idx, line, custom_id, params, problems))
        return drafts

    def _draft(self, idx: int, line: Line, custom_id: str, params: str, problems: tuple[Problem, ...]) -> _Draft:
        if problems:
            message = "; ".join(f"{problem.message} ({problem.hint})" for problem in problems)
            where = f"line {line.number}: {message}"
            refusal = NewResult(idx, Outcome.FAILED, error_code=problems[0].code, error_message=where)
            return _Draft(line, custom_id, 0, None, refusal)
        if line.blank:
            return _Draft(
                line, custom_id, 0, None, NewResult(idx, Outcome.SUCCEEDED, {"text": "", "finish_reason": "stop"})
            )
        assert line.input is not None
        return _Draft(line, custom_id, _tokens(line.input.body), params, None)

    def _id(self, line: Line) -> str:
        return line.custom_id or f"{self._source.id_prefix}{line.number}"

    def _duplicate(self, line: Line, custom_id: str, first: int) -> Problem:
        return Problem(
            "duplicate_custom_id",
            f"custom_id {custom_id!r} was used in line {first} already",
            "give every input its own",
            line=line.number,
            param="custom_id",
        )

    def _unused(self, line: Line, taken: dict[str, int]) -> str:
        """An id for a refused duplicate, so that its outcome can still be told apart."""
        wanted = f"{self._source.id_prefix}{line.number}#duplicate"
        # Random, and tried: an id of the user's, in this window or another, may look like ours.
        while (unused := f"{wanted}-{secrets.token_hex(4)}") in taken:
            pass
        return unused

    def _arranged(self, drafts: list[_Draft]) -> tuple[list[NewChunk], Iterator[intake.NewItem]]:
        """Group runnable drafts by parameters, let equal ones share one computation, sort the rest into chunks."""
        groups: dict[str, list[int]] = {}
        first_of: dict[tuple[str, str | bytes], int] = {}
        twin_of: dict[int, int] = {}
        for place, draft in enumerate(drafts):
            if draft.params is None:
                continue
            if (twin := self._first_equal(place, draft, first_of)) is not None:
                twin_of[place] = twin
            else:
                groups.setdefault(draft.params, []).append(place)
        copies: dict[int, int] = {}
        for first in twin_of.values():
            copies[first] = copies.get(first, 0) + 1
        chunks: list[NewChunk] = []
        chunk_of: dict[int, int] = {}
        for params, places in groups.items():
            lengths = [drafts[place].tokens for place in places]
            for members in plan(lengths, MAX_CHUNK_ITEMS, self._budget()):
                mine = [places[member] for member in members]
                chunk_of |= dict.fromkeys(mine, len(chunks))
                items = len(mine) + sum(copies.get(place, 0) for place in mine)
                tokens = sum(drafts[place].tokens for place in mine)
                chunks.append(NewChunk(self._source.model, msgspec.json.decode(params), items, tokens))
        chunk_of |= {place: chunk_of[first] for place, first in twin_of.items()}
        items_out = (
            intake.NewItem(
                idx=self.count + place,
                custom_id=draft.custom_id,
                line=draft.line.number,
                input=draft.line.input.body if draft.line.input else {"raw": draft.line.raw},
                extra=draft.line.extra,
                input_tokens=draft.tokens,
                chunk=chunk_of.get(place),
                same_as=self.count + twin_of[place] if place in twin_of else None,
            )
            for place, draft in enumerate(drafts)
        )
        return chunks, items_out

    def _first_equal(self, place: int, draft: _Draft, first_of: dict[tuple[str, str | bytes], int]) -> int | None:
        """The earlier draft whose output this one can share; sampled outputs are never shared."""
        assert draft.params is not None and draft.line.input is not None
        if _is_sampled(draft.params):
            return None
        first = first_of.setdefault((draft.params, _content(draft.line.input.body)), place)
        return None if first == place else first

    def _budget(self) -> int:
        if self._rate is None:
            return UNMEASURED_CHUNK_TOKENS
        return chunk_budget(self._rate.tokens_per_second, self._rate.output_per_input)


def _at(problem: Problem, line: int) -> Problem:
    return Problem(problem.code, problem.message, problem.hint, line, problem.column, problem.param)


@lru_cache(maxsize=1_024)
def _is_sampled(params: str) -> bool:
    return bool(msgspec.json.decode(params).get("temperature"))


def _content(body: dict[str, Any]) -> str | bytes:
    """What makes two inputs equal: the text itself, or the messages as bytes, which no text is equal to."""
    if "messages" in body:
        return msgspec.json.encode(body, order="deterministic")
    text: str = body["text"]
    return text


def _tokens(body: dict[str, Any]) -> int:
    if "messages" in body:
        return sum(estimate_tokens(turn["content"]) + ITEM_OVERHEAD_TOKENS for turn in body["messages"])
    return estimate_tokens(body["text"])
