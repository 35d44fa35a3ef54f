"""Decoding parameters: which exist, what each may be, and which engine honours it.

A parameter that cannot be honoured is a problem, never ignored. Some rules are worth knowing:

- Sampling (`temperature` above 0) and beam search (`num_beams` above 1) exclude each other. Asking for both is a
  problem; a request that asks for one of them switches the other off where that came from the model's defaults.
- `top_p` and `top_k` need sampling, `length_penalty` needs beams: alone they would change nothing.
- `seed` is accepted with deterministic decoding everywhere, because there it is honoured trivially, and
  with sampling only by engines whose samples depend on nothing but seed and input.
- `n` outputs are as many samples, or the `n` best of a beam search that has so many beams; decoded greedily, they
  would all be the same.
- `json_schema` and `top_logprobs` exclude beam search, and a schema also what forbids tokens that it may demand
  (`min_new_tokens`, `no_repeat_ngram_size`); where those come from the model's defaults, they give way.
- Embedding models decode nothing, so that no parameter has a meaning for them.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from models.schemas import NotASchema, canonical
from models.spec import EngineKind, ModelSpec, Task

MAX_STOPS = 4
MAX_STOP_CHARS = 64
LANGUAGES = ("source_lang", "target_lang")


@dataclass(frozen=True, slots=True)
class ParamProblem:
    """One thing wrong with the parameters: which, what is wrong, what to do."""

    param: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}"


@dataclass(frozen=True, slots=True)
class Number:
    """A whole (`is_int`) or real number between two bounds; `is_open` leaves the lower bound itself out."""

    low: int
    high: int
    is_int: bool = True
    is_open: bool = False

    @property
    def expected(self) -> str:
        kind = "a whole number" if self.is_int else "a number"
        return (
            f"{kind} {'above' if self.is_open else 'from'} {self.low} {'and up ' if self.is_open else ''}to {self.high}"
        )

    def accepts(self, value: object) -> bool:
        # JSON's true is Python's True, and that is an int too.
        if isinstance(value, bool) or not isinstance(value, int if self.is_int else (int, float)):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (self.low < value if self.is_open else self.low <= value) and value <= self.high


NUMBERS: Mapping[str, Number] = {
    "num_beams": Number(1, 16),
    "max_new_tokens": Number(1, 32768),
    "min_new_tokens": Number(0, 32768),
    "temperature": Number(0, 2, is_int=False),
    "top_p": Number(0, 1, is_int=False, is_open=True),
    "top_k": Number(0, 10000),
    "repetition_penalty": Number(0, 10, is_int=False, is_open=True),
    "no_repeat_ngram_size": Number(0, 100),
    "length_penalty": Number(-10, 10, is_int=False),
    "seed": Number(0, 2**63 - 1),
    "n": Number(1, 16),
    "top_logprobs": Number(0, 20),
}
PARAMETERS: tuple[str, ...] = (*NUMBERS, "stop", "json_schema", *LANGUAGES)
# What only a free text can have: odds worth knowing, a shape.
GENERATION_ONLY = frozenset({"top_logprobs", "json_schema"})

# What needs every step's odds, which only transformers lets us see and change. The echo engine decodes nothing, so
# that nothing else is ignored by it; its samples are all the same.
_NEEDS_ODDS = frozenset({"top_logprobs", "json_schema"})
HONOURED: Mapping[EngineKind, frozenset[str]] = {
    EngineKind.CTRANSLATE2: frozenset(PARAMETERS) - _NEEDS_ODDS,
    EngineKind.TRANSFORMERS: frozenset(PARAMETERS),
    EngineKind.ECHO: frozenset(PARAMETERS) - _NEEDS_ODDS,
}
# CTranslate2 has one generator per process and thread, so that a sample depends on what ran before it.
SEEDS_SAMPLES: frozenset[EngineKind] = frozenset({EngineKind.TRANSFORMERS, EngineKind.ECHO})


def check(raw: Mapping[str, object], spec: ModelSpec) -> tuple[dict[str, object], list[ParamProblem]]:
    """The effective parameters of a request for `spec`, and everything that is wrong with it.

    The dict holds `spec.defaults` under the request, with languages filled in where only one is possible; it is
    ready to be stored as JSON, and only to be used when there are no problems. A null is the same as leaving the
    parameter out.
    """
    given, problems = _each(raw, spec)
    clean = dict(_yielding_defaults(given, spec)) | given
    named = {problem.param for problem in problems}
    # With temperature or num_beams itself in doubt, advice on what goes with them would only confuse.
    rules = (_lengths,) if named & {"temperature", "num_beams"} else _RULES
    problems += [problem for rule in rules for problem in rule(clean, given, spec)]
    _fill_languages(clean, spec, problems, named)
    return clean, problems


def impossible(raw: Mapping[str, object]) -> ParamProblem | None:
    """The first parameter that no model whatever could honour: unknown, or of a value it never has.

    >>> str(impossible({"temperature": "hot"}))
    "temperature is 'hot'; it must be a number from 0 to 2"
    """
    return next((found for name, value in raw.items() if (found := _impossible(name, value))), None)


def _impossible(name: str, value: object) -> ParamProblem | None:
    if name not in PARAMETERS:
        return _unknown(name)
    if name in NUMBERS:
        return _number_problem(name, value)
    if name == "stop":
        return _stop_problem(value)
    if name == "json_schema":
        return _schema_problem(value)
    return None if isinstance(value, str) else ParamProblem(name, f"{name} is {_shown(value)}", "it must be a string")


def copies(clean: Mapping[str, object]) -> int:
    """How often an input is decoded for its `n` outputs: once for each sample, once for the best of a search."""
    n = clean.get("n", 1)
    return n if isinstance(n, int) and not _above(clean.get("num_beams"), 1) else 1


def check_defaults(spec: ModelSpec) -> list[ParamProblem]:
    """What is wrong with the defaults of a registry entry. Languages may stay open there."""
    given, problems = _each(spec.defaults, spec)
    return problems + [problem for rule in _RULES for problem in rule(given, given, spec)]


def _each(raw: Mapping[str, object], spec: ModelSpec) -> tuple[dict[str, object], list[ParamProblem]]:
    good: dict[str, object] = {}
    problems = []
    for name, value in raw.items():
        if value is None and name in PARAMETERS:
            continue
        problem = _problem(name, value, spec)
        if problem is None:
            good[name] = _stored(name, value)
        else:
            problems.append(problem)
    return good, problems


def _stored(name: str, value: object) -> object:
    """A value that was found right, in the one form that it is stored in."""
    if name == "stop" and isinstance(value, str):
        return [value]
    return canonical(value) if name == "json_schema" else value


def _problem(name: str, value: object, spec: ModelSpec) -> ParamProblem | None:
    if name not in PARAMETERS:
        return _unknown(name)
    if spec.task is Task.EMBEDDING or (name in GENERATION_ONLY and spec.task is not Task.GENERATION):
        message = f"{name} has no meaning for model {spec.name}, which does {spec.task}"
        return ParamProblem(name, message, "leave it out")
    if name not in HONOURED[spec.engine]:
        return ParamProblem(
            name,
            f"the {spec.engine} engine of model {spec.name} does not support {name}",
            "leave it out or use a model with the transformers engine",
        )
    if name in LANGUAGES:
        return _language_problem(name, value, spec)
    return _impossible(name, value)


def _unknown(name: str) -> ParamProblem:
    near = difflib.get_close_matches(name, PARAMETERS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the parameters are {', '.join(PARAMETERS)}"
    return ParamProblem(name, f"{name[:64]} is not a decoding parameter", hint)


def _number_problem(name: str, value: object) -> ParamProblem | None:
    rule = NUMBERS[name]
    if rule.accepts(value):
        return None
    return ParamProblem(name, f"{name} is {_shown(value)}", f"it must be {rule.expected}")


def _stop_problem(value: object) -> ParamProblem | None:
    stops = [value] if isinstance(value, str) else value
    if (
        isinstance(stops, (list, tuple))
        and len(stops) <= MAX_STOPS
        and all(isinstance(stop, str) and 1 <= len(stop) <= MAX_STOP_CHARS and "\0" not in stop for stop in stops)
    ):
        return None
    hint = f"it must be a list of at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters, none of them NUL"
    return ParamProblem("stop", f"stop is {_shown(value)}", hint)


def _schema_problem(value: object) -> ParamProblem | None:
    try:
        canonical(value)
    except NotASchema as exc:
        return ParamProblem("json_schema", f"json_schema is {_shown(value)}", str(exc))
    return None


def _language_problem(name: str, value: object, spec: ModelSpec) -> ParamProblem | None:
    known = spec.source_languages if name == "source_lang" else spec.target_languages
    if spec.task is not Task.TRANSLATION or not known:
        reason = f"does {spec.task}" if spec.task is not Task.TRANSLATION else "declares no languages"
        return ParamProblem(name, f"{name} has no meaning for model {spec.name}, which {reason}", "leave it out")
    if value in known:
        return None
    near = difflib.get_close_matches(str(value).lower(), known, n=1, cutoff=0.4)
    hint = (f"did you mean {near[0]}? " if near else "") + f"it must be one of: {_some(known)}"
    return ParamProblem(name, f"{name} {_shown(value)} is not a language of model {spec.name}", hint)


def _yielding_defaults(given: Mapping[str, object], spec: ModelSpec) -> Mapping[str, object]:
    """The model's defaults, less those that the request contradicts by asking for the other way of decoding."""
    defaults = {name: _stored(name, value) for name, value in spec.defaults.items()}
    dropped: set[str] = set()
    if _above(given.get("temperature"), 0):
        dropped |= {"num_beams", "length_penalty"}
    if _above(given.get("num_beams"), 1):
        dropped |= {"temperature", "top_p", "top_k", "n", "top_logprobs"}
    if given.get("num_beams") == 1:
        dropped |= {"length_penalty"}
    if given.get("temperature") == 0:
        dropped |= {"top_p", "top_k", "n"}
    if "top_logprobs" in given or "json_schema" in given:
        dropped |= {"num_beams", "length_penalty"}
    if "json_schema" in given:
        dropped |= {"min_new_tokens", "no_repeat_ngram_size"}
    if "max_new_tokens" in given and _above(defaults.get("min_new_tokens"), given["max_new_tokens"]):
        dropped |= {"min_new_tokens"}
    kept = {name: value for name, value in defaults.items() if name not in dropped}
    if "n" in kept and "n" not in given and not _are_unlike({**kept, **given}):
        del kept["n"]
    return kept


Rule = Callable[[Mapping[str, object], Mapping[str, object], ModelSpec], list[ParamProblem]]


def _beams_or_sampling(clean: Mapping[str, object], given: Mapping[str, object], spec: ModelSpec) -> list[ParamProblem]:
    if not (_above(clean.get("temperature"), 0) and _above(clean.get("num_beams"), 1)):
        return []
    return [
        ParamProblem(
            "temperature",
            f"temperature {clean['temperature']} asks for sampling and num_beams {clean['num_beams']} for beam search",
            "choose one: temperature 0 or num_beams 1",
        )
    ]


def _sampling_only(clean: Mapping[str, object], given: Mapping[str, object], spec: ModelSpec) -> list[ParamProblem]:
    if _above(clean.get("temperature"), 0):
        return []
    switched_on = [name for name, off in (("top_p", 1), ("top_k", 0)) if given.get(name, off) != off]
    return [
        ParamProblem(name, f"{name} changes nothing without sampling", "set temperature above 0 or leave it out")
        for name in switched_on
    ]


def _beams_only(clean: Mapping[str, object], given: Mapping[str, object], spec: ModelSpec) -> list[ParamProblem]:
    if given.get("length_penalty", 1) == 1 or _above(clean.get("num_beams"), 1):
        return []
    hint = "set num_beams to 2 or more or leave it out"
    return [ParamProblem("length_penalty", "length_penalty changes nothing without beam search", hint)]


def _seeded_sampling(clean: Mapping[str, object], given: Mapping[str, object], spec: ModelSpec) -> list[ParamProblem]:
    if "seed" not in clean or not _above(clean.get("temperature"), 0) or spec.engine in SEEDS_SAMPLES:
        return []
    return [
        ParamProblem(
            "seed",
            f"the {spec.engine} engine of model {spec.name} cannot repeat a sample by its seed",
            "leave seed out, set temperature to 0, or use a model with the transformers engine",
        )
    ]


def _copies(clean: Mapping[str, object], given: Mapping[str, object], spec: ModelSpec) -> list[ParamProblem]:
    if _are_unlike(clean):
        return []
    n, beams = clean["n"], clean.get("num_beams", 1)
    if _above(beams, 1):
        hint = f"set num_beams to {n} or more, or n to {beams} or less"
        return [ParamProblem("n", f"a search with num_beams {beams} has no {n} best outputs", hint)]
    message = f"without sampling or a search, all {n} outputs would be the same"
    return [ParamProblem("n", message, f"set temperature above 0, or num_beams to {n} or more, or leave n out")]


def _are_unlike(clean: Mapping[str, object]) -> bool:
    """Whether there are `n` outputs that differ: samples, or the best of at least so many beams."""
    n = clean.get("n", 1)
    return not _above(n, 1) or _above(clean.get("temperature"), 0) or not _above(n, clean.get("num_beams", 1))


def _odds_or_beams(clean: Mapping[str, object], given: Mapping[str, object], spec: ModelSpec) -> list[ParamProblem]:
    if not _above(clean.get("num_beams"), 1):
        return []
    return [
        ParamProblem(name, f"{name} is not possible with beam search", f"set num_beams to 1 or leave {name} out")
        for name in ("top_logprobs", "json_schema")
        if name in clean
    ]


def _schema_alone(clean: Mapping[str, object], given: Mapping[str, object], spec: ModelSpec) -> list[ParamProblem]:
    if "json_schema" not in clean:
        return []
    return [
        ParamProblem(name, f"{name} could forbid the very tokens that json_schema demands", "leave one of them out")
        for name in ("min_new_tokens", "no_repeat_ngram_size")
        if _above(clean.get(name), 0)
    ]


def _lengths(clean: Mapping[str, object], given: Mapping[str, object], spec: ModelSpec) -> list[ParamProblem]:
    least, most = clean.get("min_new_tokens", 0), clean.get("max_new_tokens")
    limit = spec.max_output_tokens
    if limit is not None and _above(most, limit):
        message = f"max_new_tokens is {most}, but model {spec.name} writes at most {limit} tokens"
        return [ParamProblem("max_new_tokens", message, f"set it to {limit} or less")]
    if most is not None and _above(least, most):
        message = f"min_new_tokens is {least}, which is more than max_new_tokens, {most}"
        return [ParamProblem("min_new_tokens", message, "lower it or raise max_new_tokens")]
    return []


_RULES: tuple[Rule, ...] = (
    _beams_or_sampling,
    _sampling_only,
    _beams_only,
    _seeded_sampling,
    _copies,
    _odds_or_beams,
    _schema_alone,
    _lengths,
)


def _fill_languages(clean: dict[str, object], spec: ModelSpec, problems: list[ParamProblem], named: set[str]) -> None:
    if spec.task is not Task.TRANSLATION:
        return
    sides: Sequence[Sequence[str]] = (spec.source_languages, spec.target_languages)
    if spec.language_pairs and not named.intersection(LANGUAGES):
        said = tuple(clean.get(name) for name in LANGUAGES)
        able = [
            pair
            for pair in spec.language_pairs
            if all(have in (None, want) for have, want in zip(said, pair, strict=True))
        ]
        if not able:
            problems.append(_untaught(said, spec))
            return
        sides = [list(dict.fromkeys(side)) for side in zip(*able, strict=True)]
    for name, known in zip(LANGUAGES, sides, strict=True):
        if len(known) == 1:
            clean.setdefault(name, known[0])
        elif known and name not in clean and name not in named:
            problems.append(ParamProblem(name, f"model {spec.name} needs {name}", f"it must be one of: {_some(known)}"))


def _untaught(said: tuple[object, ...], spec: ModelSpec) -> ParamProblem:
    """A direction between two languages of the model that it was not made for."""
    source, target = said
    into = [have for have, other in spec.language_pairs if other == target]
    message = f"model {spec.name} does not translate from {_shown(source)} to {_shown(target)}"
    return ParamProblem("source_lang", message, f"to {_shown(target)}, source_lang must be one of: {_some(into)}")


def _some(languages: Sequence[str]) -> str:
    return ", ".join(languages[:12]) + (f" and {len(languages) - 12} more" if len(languages) > 12 else "")


def _above(value: object, bound: object) -> bool:
    return isinstance(value, (int, float)) and isinstance(bound, (int, float)) and value > bound


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
