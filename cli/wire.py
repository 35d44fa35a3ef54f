"""The API's JSON objects as values. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})

JSON = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Counts:
    total: int = 0
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0

    @property
    def finished(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.expired


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a job's input."""

    line: int | None
    column: int | None
    code: str
    message: str
    hint: str | None

    def __str__(self) -> str:
        place = f"line {self.line}" + (f", column {self.column}" if self.column else "") if self.line else "input"
        return f"{place}: {self.message} ({self.code})" + (f" - {self.hint}" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Estimate:
    items: int | None
    input_tokens: int | None
    seconds: float | None
    invalid_items: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """A metric of a job's outputs, from 0 to 100, with its 95 % interval."""

    metric: str
    score: float
    low: float
    high: float
    signature: str


@dataclass(frozen=True, slots=True)
class Scores:
    """What a job's outputs scored against their references."""

    metrics: tuple[Score, ...]
    scored: int
    unscored: int
    scored_in_part: int
    length_ratio: float | None
    copied_whole: float | None
    copied_words: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two jobs, and the 95 % interval of the difference."""

    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    is_clear: bool


@dataclass(frozen=True, slots=True)
class DifferingLine:
    """What two jobs made of one line; scores are chrF."""

    custom_id: str
    difference: float
    source: str
    references: tuple[str, ...]
    a: str
    b: str
    a_score: float
    b_score: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two jobs side by side, over the lines that both have scored."""

    metrics: tuple[Difference, ...]
    common: int
    only_a: int
    only_b: int
    a_better: tuple[DifferingLine, ...]
    b_better: tuple[DifferingLine, ...]
    raw: JSON


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the server showed it; `raw` is the whole object, for --json."""

    id: str
    status: str
    task: str
    model: str | None
    paused: bool
    counts: Counts
    items_per_second: float | None
    tokens_per_second: float | None
    eta_seconds: float | None
    eta_low_seconds: float | None
    eta_high_seconds: float | None
    waiting_for: str | None
    waiting_code: str | None
    problems: tuple[Problem, ...]
    problems_total: int
    estimate: Estimate | None
    input_tokens: int
    output_tokens: int
    device_seconds: float
    same_items: int
    cached_items: int
    saved_tokens: int
    truncated_inputs: int
    cut_outputs: int
    created_at: float | None
    scores: "Scores | None"
    report_file_id: str | None
    raw: JSON

    @property
    def is_final(self) -> bool:
        return self.status in TERMINAL

    @property
    def name(self) -> str:
        """What its owner calls it, in its metadata; empty if nothing."""
        metadata = _object(self.raw.get("metadata"))
        return _text(metadata.get("name")) or _text(metadata.get("title")) or ""

    @property
    def priority(self) -> int:
        return _whole(self.raw.get("priority")) or 0

    @property
    def began_at(self) -> float | None:
        return _number(self.raw.get("in_progress_at"))

    @property
    def ended_at(self) -> float | None:
        ends = (_number(self.raw.get(f"{status}_at")) for status in sorted(TERMINAL))
        return next((end for end in ends if end is not None), None)

    @property
    def waits(self) -> bool:
        """Accepted, and nothing of it runs."""
        return self.status == "in_progress" and not self.paused and self.waiting_for is not None

    @property
    def outputs_per_input(self) -> int:
        """What the job asks for; an input of its own may ask for another number."""
        return _whole(_object(self.raw.get("params")).get("n")) or 1

    @property
    def has_nothing(self) -> bool:
        """Failed before any item: its input was refused, so that there are no results, not even failures."""
        return self.status == "failed" and self.counts.finished == 0

    @property
    def went_well(self) -> bool:
        """Completed, and every item succeeded."""
        return self.status == "completed" and self.counts.succeeded == self.counts.total


@dataclass(frozen=True, slots=True)
class Record:
    """How good estimates were: `inside` of them held, and the middle one was `median_error` of the real time off."""

    estimates: int
    inside: float
    median_error: float


@dataclass(frozen=True, slots=True)
class Running:
    """What is on a worker's device, since when in Unix seconds."""

    model: str
    items: int
    since: float | None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process, by its own last words. Without models it reads inputs and writes results."""

    id: str
    device: str
    is_alive: bool
    busy: float | None
    memory_bytes: int | None
    device_memory_bytes: int | None
    models: tuple[str, ...]
    running: Running | None
    leased_chunks: int
    leased_items: int
    raw: JSON


@dataclass(frozen=True, slots=True)
class Queue:
    """What there is for a model to do, of everybody; `tokens_per_second` is of one worker."""

    model: str
    items: int
    running_items: int
    paused_items: int
    leased_chunks: int
    oldest_at: float | None
    workers: int
    tokens_per_second: float | None
    clear_seconds: float | None
    raw: JSON

    @property
    def is_idle(self) -> bool:
        return not (self.items or self.running_items or self.paused_items)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service can do its work; `missing` and `unwell` say what is wrong, check by check.

    With something missing it serves nobody; what is only unwell makes jobs wait.
    """

    is_ready: bool
    missing: tuple[str, ...]
    unwell: tuple[str, ...]
    raw: JSON


@dataclass(frozen=True, slots=True)
class StoredFile:
    id: str
    filename: str
    bytes: int
    purpose: str
    created_at: float | None
    raw: JSON


@dataclass(frozen=True, slots=True)
class Result:
    """One line of a job's results."""

    index: int
    seq: int
    custom_id: str | None
    status: str
    text: str | None
    error_code: str | None
    error_message: str | None


def job(content: JSON) -> Job:
    """Fields the server does not send read as absent, so that an older server still shows what it has."""
    errors, usage = _object(content.get("errors")), _object(content.get("usage"))
    waiting, notices = _object(content.get("waiting_for")), _object(content.get("notices"))
    found = errors.get("data")
    problems = tuple(problem(_object(one)) for one in found) if isinstance(found, list) else ()
    return Job(
        id=str(content["id"]),
        status=str(content["status"]),
        task=_text(content.get("task")) or "?",
        model=_text(content.get("model")),
        paused=bool(content.get("paused")),
        counts=counts(_object(content.get("counts"))),
        items_per_second=_number(content.get("items_per_second")),
        tokens_per_second=_number(content.get("tokens_per_second")),
        eta_seconds=_number(content.get("eta_seconds")),
        eta_low_seconds=_number(content.get("eta_low_seconds")),
        eta_high_seconds=_number(content.get("eta_high_seconds")),
        waiting_for=_text(waiting.get("message")) or _text(waiting.get("code")),
        waiting_code=_text(waiting.get("code")),
        problems=problems,
        problems_total=_whole(errors.get("total")) or len(problems),
        estimate=estimate(content.get("estimate")),
        input_tokens=_whole(usage.get("input_tokens")) or 0,
        output_tokens=_whole(usage.get("output_tokens")) or 0,
        device_seconds=_number(usage.get("device_seconds")) or 0.0,
        same_items=_whole(usage.get("same_items")) or 0,
        cached_items=_whole(usage.get("cached_items")) or 0,
        saved_tokens=(_whole(usage.get("saved_input_tokens")) or 0) + (_whole(usage.get("saved_output_tokens")) or 0),
        truncated_inputs=_whole(notices.get("truncated_inputs")) or 0,
        cut_outputs=_whole(notices.get("cut_outputs")) or 0,
        created_at=_number(content.get("created_at")),
        scores=scores(content.get("scores")),
        report_file_id=_text(content.get("report_file_id")),
        raw=content,
    )


def worker(content: JSON) -> Worker:
    leases, running = _object(content.get("leases")), content.get("running")
    return Worker(
        id=str(content["id"]),
        device=_text(content.get("device")) or "?",
        is_alive=bool(content.get("alive")),
        busy=_number(content.get("busy")),
        memory_bytes=_whole(content.get("memory_bytes")),
        device_memory_bytes=_whole(content.get("device_memory_bytes")),
        models=tuple(str(each.get("id")) for each in objects(content.get("models"))),
        running=_running(running) if isinstance(running, dict) else None,
        leased_chunks=_whole(leases.get("chunks")) or 0,
        leased_items=_whole(leases.get("items")) or 0,
        raw=content,
    )


def _running(content: JSON) -> Running:
    return Running(_text(content.get("model")) or "?", _whole(content.get("items")) or 0, _number(content.get("since")))


def queue(content: JSON) -> Queue:
    names = ("items", "running_items", "paused_items", "leased_chunks", "workers")
    items, running, paused, leased, workers = (_whole(content.get(name)) or 0 for name in names)
    return Queue(
        model=str(content["id"]),
        items=items,
        running_items=running,
        paused_items=paused,
        leased_chunks=leased,
        oldest_at=_number(content.get("oldest_at")),
        workers=workers,
        tokens_per_second=_number(content.get("tokens_per_second")),
        clear_seconds=_number(content.get("clear_seconds")),
        raw=content,
    )


def readiness(content: JSON) -> Readiness:
    checks = {name: _object(check) for name, check in _object(content.get("checks")).items()}
    failed = {name: check for name, check in checks.items() if not check.get("ok")}
    missing = tuple(_said(name, check) for name, check in failed.items() if check.get("required"))
    unwell = tuple(_said(name, check) for name, check in failed.items() if not check.get("required"))
    return Readiness(content.get("status") == "ready", missing, unwell, content)


def version(content: JSON) -> str | None:
    """Of an OpenAPI document."""
    return _text(_object(content.get("info")).get("version"))


def _said(name: str, check: JSON) -> str:
    return f"{name}: {_text(check.get('message')) or 'does not work'}"


def scores(content: object) -> Scores | None:
    if not isinstance(content, dict):
        return None
    metrics = tuple(_score(name, each) for name, each in _metrics(content))
    names = ("scored", "unscored", "scored_in_part")
    scored, unscored, in_part = (_whole(content.get(name)) or 0 for name in names)
    shares = (_number(content.get(name)) for name in ("length_ratio", "copied_whole", "copied_words"))
    return Scores(metrics, scored, unscored, in_part, *shares)


def comparison(content: JSON) -> Comparison:
    metrics = tuple(_difference(name, each) for name, each in _metrics(content))
    common, only_a, only_b = (_whole(content.get(name)) or 0 for name in ("common", "only_a", "only_b"))
    lines = _object(content.get("lines"))
    a_better, b_better = (_differing(lines.get(name)) for name in ("a_better", "b_better"))
    return Comparison(metrics, common, only_a, only_b, a_better, b_better, content)


def _score(metric: str, content: JSON) -> Score:
    score, low, high = (_number(content.get(name)) or 0.0 for name in ("score", "low", "high"))
    return Score(metric, score, low, high, _text(content.get("signature")) or "")


def _difference(metric: str, content: JSON) -> Difference:
    a, b, difference = (_number(content.get(name)) or 0.0 for name in ("a", "b", "difference"))
    low, high, p_value = (_number(content.get(name)) or 0.0 for name in ("low", "high", "p_value"))
    return Difference(metric, a, b, difference, low, high, p_value, bool(content.get("is_clear")))


def _metrics(content: JSON) -> list[tuple[str, JSON]]:
    """Always in the same order, whatever the server's."""
    metrics = _object(content.get("metrics"))
    return [(name, _object(metrics[name])) for name in sorted(metrics, key=lambda name: (len(name), name))]


def _differing(found: object) -> tuple[DifferingLine, ...]:
    lines = [_object(each) for each in found] if isinstance(found, list) else []
    return tuple(map(_differing_line, lines))


def _differing_line(line: JSON) -> DifferingLine:
    a, b, references = _object(line.get("a")), _object(line.get("b")), line.get("references")
    return DifferingLine(
        custom_id=_text(line.get("custom_id")) or "",
        difference=_number(line.get("difference")) or 0.0,
        source=_text(line.get("source")) or "",
        references=tuple(map(str, references)) if isinstance(references, list) else (),
        a=_text(a.get("output")) or "",
        b=_text(b.get("output")) or "",
        a_score=_number(a.get("score")) or 0.0,
        b_score=_number(b.get("score")) or 0.0,
    )


def record(content: JSON, model: str | None) -> Record | None:
    """Of the model, else of all together; None if nothing that was estimated has ended."""
    own = next((each for each in objects(content.get("data")) if each.get("model") == model), None)
    found = own or _object(content.get("all"))
    inside, error = _number(found.get("inside")), _number(found.get("median_error"))
    if inside is None or error is None:
        return None
    return Record(_whole(found.get("estimates")) or 0, inside, error)


def objects(value: object) -> list[JSON]:
    """The objects of a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def counts(content: JSON) -> Counts:
    return Counts(**{field.name: _whole(content.get(field.name)) or 0 for field in fields(Counts)})


def problem(content: JSON) -> Problem:
    return Problem(
        line=_whole(content.get("line")),
        column=_whole(content.get("column")),
        code=_text(content.get("code")) or "error",
        message=_text(content.get("message")) or "not accepted",
        hint=_text(content.get("hint")),
    )


def estimate(content: object) -> Estimate | None:
    if not isinstance(content, dict):
        return None
    return Estimate(
        _whole(content.get("items")),
        _whole(content.get("input_tokens")),
        _number(content.get("seconds")),
        _whole(content.get("invalid_items")) or 0,
    )


def stored_file(content: JSON) -> StoredFile:
    return StoredFile(
        id=str(content["id"]),
        filename=_text(content.get("filename")) or "",
        bytes=_whole(content.get("bytes")) or 0,
        purpose=_text(content.get("purpose")) or "",
        created_at=_number(content.get("created_at")),
        raw=content,
    )


def result(content: JSON) -> Result:
    output, error = _object(content.get("output")), _object(content.get("error"))
    return Result(
        index=_whole(content["index"]) or 0,
        seq=_whole(content.get("seq")) or 0,
        custom_id=_text(content.get("custom_id")),
        status=str(content["status"]),
        text=_text(output.get("text")),
        error_code=_text(error.get("code")),
        error_message=_text(error.get("message")),
    )


def _object(value: object) -> JSON:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def input_text(line: str) -> str:
    """The input in a JSONL result line that was asked for with its input; empty if it has no text."""
    content = _object(json.loads(line)).get("input")
    return _text(_object(content).get("text")) or "" if not isinstance(content, str) else content
