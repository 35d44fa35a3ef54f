"""What a client may say about a job it submits, and the checks that need no database."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from api.errors import InvalidRequest, summary
from api.strict import Strict
from db.inputs import Problem, Refused, check, check_text, estimated_tokens
from models.params import LANGUAGES, ParamProblem, copies
from models.params import check as check_params
from models.spec import ModelSpec, Tier

TaskName = Literal["translation", "summarization", "generation"]
FormatName = Literal["jsonl", "csv", "txt"]
TierName = Literal["best", "balanced", "fast"]

MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
MAX_LISTED_PROBLEMS = 100
_WINDOW = re.compile(r"([1-9]\d{0,8})(s|m|h|d)\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
MAX_WINDOW = timedelta(days=365)


_COLUMNS = ("text_column", "id_column", "reference_column")


class JobFormat(Strict):
    """How to read the file."""

    model_config = ConfigDict(strict=True)

    type: FormatName
    text_column: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="CSV: the column with the text (default `text`; without a header a number from 1). "
        "JSONL: the key with the text, for objects of your own shape.",
    )
    id_column: str | None = Field(
        None, min_length=1, max_length=256, description="The column or key with an id of your own for every input."
    )
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="CSV only; default a comma.")
    has_header: bool | None = Field(None, description="CSV only; default true.")
    reference_column: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="The column or key with what the output should be, to score it by. An empty cell is none.",
    )
    csv_formulas: Literal["escape", "keep", "round_trip"] | None = Field(
        None,
        description="CSV only: what becomes of cells that a spreadsheet would run as a formula, as they begin with"
        " = + - @ TAB or the like. `escape` (the default) puts a ' before them in what is written, `keep` leaves them"
        " as they are. `round_trip` is for files that came from here: it takes the ' away when the file is read, too.",
    )

    @model_validator(mode="after")
    def _fits_type(self) -> "JobFormat":
        for name in ("delimiter", "has_header", "csv_formulas"):
            if getattr(self, name) is not None and self.type != "csv":
                raise ValueError(f"has `{name}`, which is for csv, not {self.type}")
        for name in _COLUMNS:
            if getattr(self, name) is not None and self.type == "txt":
                raise ValueError(f"has `{name}`, but lines of txt are nothing but text")
        if self.delimiter is not None and self.delimiter in '"\r\n\0 ':
            raise ValueError(f"has {self.delimiter!r} as `delimiter`, which cannot be one")
        if self.has_header is False:
            self._check_numbers()
        return self

    def _check_numbers(self) -> None:
        for name in _COLUMNS:
            column = getattr(self, name)
            if column is not None and not re.fullmatch(r"[1-9]\d{0,4}", column):
                raise ValueError(f'has no header, so `{name}` must be a number from 1, like "2"')

    def stored(self) -> dict[str, Any]:
        """As the job's row keeps it, with defaults filled in."""
        named = {"type": self.type, **{name: getattr(self, name) for name in _COLUMNS}}
        if self.type != "csv":
            return {name: value for name, value in named.items() if value is not None}
        has_header = self.has_header is not False
        default = "text" if has_header else "1"
        return {
            "type": "csv",
            "text_column": self.text_column or default,
            "id_column": self.id_column,
            "delimiter": self.delimiter or ",",
            "has_header": has_header,
        } | {name: value for name in ("reference_column", "csv_formulas") if (value := getattr(self, name)) is not None}


def _as_object(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


_INPUTS_SCHEMA = {
    "description": "The inputs themselves: strings, or objects with `text` (or, for generation, `messages`), an "
    "optional `custom_id` of your own, `params` that override the job's, and a `reference` to score the output by.",
    "anyOf": [
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "properties": {
                            "custom_id": {"type": "string", "maxLength": 256},
                            "text": {"type": "string"},
                            "messages": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["role", "content"],
                                    "properties": {
                                        "role": {"type": "string", "enum": ["system", "user", "assistant"]},
                                        "content": {"type": "string"},
                                    },
                                },
                            },
                            "params": {"type": "object"},
                            "reference": {
                                "anyOf": [
                                    {"type": "string"},
                                    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 16},
                                ]
                            },
                        },
                    },
                ]
            },
        },
        {"type": "null"},
    ],
}
_PARAMS_SCHEMA = {
    "type": "object",
    "description": "Decoding parameters; what is left out is up to the model. One that the model's engine cannot "
    "honour is an error.",
    "properties": {
        "num_beams": {"type": "integer", "minimum": 1},
        "max_new_tokens": {"type": "integer", "minimum": 1},
        "min_new_tokens": {"type": "integer", "minimum": 0},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "maximum": 1},
        "top_k": {"type": "integer", "minimum": 0},
        "repetition_penalty": {"type": "number"},
        "no_repeat_ngram_size": {"type": "integer", "minimum": 0},
        "length_penalty": {"type": "number"},
        "stop": {"type": "array", "items": {"type": "string"}},
        "seed": {"type": "integer"},
        "n": {
            "type": "integer",
            "minimum": 1,
            "maximum": 16,
            "description": "How many outputs an input gets, as `choices` in its result: samples, with `temperature` "
            "above 0, or the best of a search that has at least so many `num_beams`.",
        },
        "source_lang": {"type": "string"},
        "target_lang": {"type": "string"},
    },
}


def _is_duration(window: str) -> str:
    duration(window)
    return window


def _fits(metadata: dict[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not 1 <= len(key) <= MAX_METADATA_KEY:
            raise ValueError(f"has a key that is not 1 to {MAX_METADATA_KEY} characters long")
        if len(value) > MAX_METADATA_VALUE:
            raise ValueError(f"has a value longer than {MAX_METADATA_VALUE} characters, at {key!r}")
        for problem in (*check_text(key, "a key"), *check_text(value, f"the value of {key!r}")):
            raise ValueError(f"is not usable: {problem.message}")
    return metadata


Window = Annotated[str, AfterValidator(_is_duration)]
Metadata = Annotated[dict[str, str], Field(max_length=MAX_METADATA), AfterValidator(_fits)]
Params = Annotated[dict[str, Any], WithJsonSchema(_PARAMS_SCHEMA)]


class JobRequest(Strict):
    """A job to run: a task, inputs or a file of them, and how to decode."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "example": {
                "task": "translation",
                "inputs": ["The train is late.", {"custom_id": "b", "text": "Where is the library?"}],
                "params": {"target_lang": "de"},
            }
        },
    )

    task: TaskName
    model: str | None = Field(
        None,
        max_length=200,
        description="A name from GET /v1/models, or with `tier` a family's; default: the task's default.",
    )
    tier: TierName | None = Field(
        None, description="This one of the model's family instead of the model: how good, at what cost."
    )
    inputs: Annotated[list[Any] | None, WithJsonSchema(_INPUTS_SCHEMA)] = None
    input_file_id: str | None = Field(None, max_length=100, description="Instead of `inputs`: an uploaded file.")
    format: Annotated[
        JobFormat | None, BeforeValidator(_as_object, json_schema_input_type=FormatName | JobFormat | None)
    ] = Field(
        None,
        description="How to read the file; may be just the name of the type. Default: told by the file's name.",
        json_schema_extra={"example": {"type": "csv", "text_column": "sentence", "id_column": "id"}},
    )
    params: Params = Field(default_factory=dict)
    long_input: Literal["error", "truncate"] = Field(
        "error", description="What happens to an input longer than the model takes; a cut is told in the result."
    )
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="Whether an invalid input stops the job before it starts, or fails alone."
    )
    priority: int = Field(0, ge=-100, le=100, description="Higher goes first.")
    completion_window: Window | None = Field(
        None,
        description="`30m`, `24h`, `7d`: what is not finished by then expires; null: never.",
        json_schema_extra={"example": "24h"},
    )
    metadata: Metadata | None = Field(None, description="Up to 16 pairs of your own.")
    dry_run: bool = Field(False, description="Check the inputs and estimate the work, but run nothing.")
    cache: bool = Field(
        False,
        description="Take results that the same model gave for the same input with the same parameters in your earlier"
        " jobs with `cache`, as long as those are there, and let later ones take this job's. Samples are never taken.",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> "JobRequest":
        if (self.inputs is None) == (self.input_file_id is None):
            raise ValueError("needs exactly one of `inputs` and `input_file_id`")
        if self.inputs is not None and self.format is not None:
            raise ValueError("has `format`, which is for `input_file_id`; `inputs` need none")
        return self

    @property
    def wanted_tier(self) -> Tier | None:
        return None if self.tier is None else Tier(self.tier)

    @property
    def given_params(self) -> dict[str, Any]:
        return given(self.params)

    @property
    def window(self) -> timedelta | None:
        return None if self.completion_window is None else duration(self.completion_window)


def given(params: Mapping[str, Any]) -> dict[str, Any]:
    """A null is the same as leaving the parameter out."""
    return {name: value for name, value in params.items() if value is not None}


def duration(window: str) -> timedelta:
    """
    >>> duration("90m")
    datetime.timedelta(seconds=5400)
    """
    match = _WINDOW.match(window)
    length = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    if length is None or length > MAX_WINDOW:
        raise ValueError(f"is {window[:20]!r}; write a duration of up to 365 days like 30m, 24h or 7d")
    return length


def guessed_format(filename: str) -> JobFormat:
    """The format a file's name tells, or InvalidRequest.

    >>> guessed_format("a.TSV.gz").stored()["delimiter"]
    '\\t'
    """
    name = filename.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        return JobFormat(type="jsonl")
    if name.endswith(".csv"):
        return JobFormat(type="csv")
    if name.endswith((".tsv", ".tab")):
        return JobFormat(type="csv", delimiter="\t")
    if name.endswith((".txt", ".text")):
        return JobFormat(type="txt")
    raise InvalidRequest(
        f"the name {filename[:80]!r} does not tell the file's format; say `format`: jsonl, csv or txt",
        param="format",
        code="missing_format",
    )


def check_job_params(params: Mapping[str, Any], spec: ModelSpec, format_type: str) -> None:
    """Refuse decoding parameters the model cannot honour. Inputs of JSONL may still bring a language of their own."""
    _, problems = check_params(params, spec)
    if format_type == "jsonl":
        problems = [each for each in problems if each.param not in LANGUAGES or each.param in params]
    elif not problems and params.get("n", 1) > 1:
        hint = "submit JSONL or inline inputs"
        problems = [ParamProblem("n", f"results in {format_type} have one line an input, so `n` must be 1", hint)]
    if problems:
        found = [_listed(problem, f"params.{problem.param}") for problem in problems]
        raise InvalidRequest(
            summary([str(problem) for problem in problems]),
            param=found[0]["param"],
            code="invalid_params",
            details=found,
        )


def checked_lines(request: JobRequest, spec: ModelSpec, max_inputs: int) -> tuple[list[bytes], int]:
    """Inline inputs as JSONL lines for the spool, and about how many tokens; InvalidRequest with every problem found.

    With `on_error: skip` bad inputs go along as they are, for ingest to fail them one by one.
    """
    values = request.inputs or []
    if not 1 <= len(values) <= max_inputs:
        raise InvalidRequest(
            f"`inputs` has {len(values):,} entries; 1 to {max_inputs:,} are accepted, upload a file for more",
            param="inputs",
            code="too_many_inputs" if values else "empty_inputs",
        )
    checker = _Inputs(request, spec)
    lines = [checker.line(place, value) for place, value in enumerate(values)]
    if checker.problems and request.on_error == "fail":
        raise checker.refusal()
    return lines, checker.tokens


class _Inputs:
    """One pass over inline inputs."""

    def __init__(self, request: JobRequest, spec: ModelSpec) -> None:
        self._request, self._spec = request, spec
        self._params_known: dict[bytes, list[ParamProblem]] = {}
        self._first_with_id: dict[str, int] = {}
        self.problems: list[dict[str, Any]] = []
        self.tokens = 0

    def line(self, place: int, value: object) -> bytes:
        encode = msgspec.json.encode
        try:
            found = check(value, self._request.task)
        except Refused as refused:
            self._note(place, refused.problems)
            return encode(value) + b"\n"
        # Ingest gives an input without an id of its own this one.
        custom_id = found.custom_id or f"input-{place + 1}"
        first = self._first_with_id.setdefault(custom_id, place)
        if first != place:
            message = f"custom_id {custom_id!r} was used by inputs.{first} already"
            self._note(place, [Problem("duplicate_custom_id", message, "give every input its own", param="custom_id")])
        problems = self._params_problems(found.params)
        for problem in problems:
            self._note_param(place, problem, is_own=bool(found.params))
        if not problems:
            self.tokens += estimated_tokens(found.body) * copies({**self._request.given_params, **found.params})
        own = {"custom_id": found.custom_id} if found.custom_id is not None else {}
        params = {"params": found.params} if found.params else {}
        reference = {"reference": found.reference} if found.reference else {}
        return encode({**own, **found.body, **params, **reference}) + b"\n"

    def refusal(self) -> InvalidRequest:
        sentences = [f"{each['param']}: {each['message']}" for each in self.problems]
        codes = {each["code"] for each in self.problems}
        return InvalidRequest(
            summary(sentences),
            param=self.problems[0]["param"],
            code=codes.pop() if len(codes) == 1 else "invalid_inputs",
            details=self.problems[:MAX_LISTED_PROBLEMS],
        )

    def _note(self, place: int, problems: list[Problem]) -> None:
        for problem in problems:
            path = f"inputs.{place}" + (f".{problem.param}" if problem.param else "")
            self.problems.append({**problem.as_json(), "param": path, "line": place + 1})

    def _note_param(self, place: int, problem: ParamProblem, is_own: bool) -> None:
        """What the job's own parameters lack is said once, not once an input."""
        if is_own:
            self.problems.append({**_listed(problem, f"inputs.{place}.params.{problem.param}"), "line": place + 1})
        elif (shared := _listed(problem, f"params.{problem.param}")) not in self.problems:
            self.problems.append(shared)

    def _params_problems(self, params: Mapping[str, Any]) -> list[ParamProblem]:
        key = msgspec.json.encode(params, order="deterministic")
        if key not in self._params_known:
            _, problems = check_params({**self._request.given_params, **params}, self._spec)
            self._params_known[key] = problems
        return self._params_known[key]


def _listed(problem: ParamProblem, path: str) -> dict[str, Any]:
    found = Problem("invalid_params", problem.message, problem.hint, param=path)
    return found.as_json()
