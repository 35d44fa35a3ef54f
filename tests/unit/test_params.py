"""Decoding parameters: types, ranges, combinations, and what the model's defaults do."""

import json
import math
from pathlib import Path

import pytest

from models.params import NUMBERS, PARAMETERS, check
from models.spec import EngineKind, ModelSpec, Task


def spec(**changes: object) -> ModelSpec:
    usual = {"name": "m", "task": Task.TRANSLATION, "source": Path("/m"), "source_languages": ("en",)}
    return ModelSpec(**{**usual, "target_languages": ("de", "fr"), **changes})


ONE = spec(target_languages=("de",))


@pytest.mark.parametrize(
    ("raw", "param", "said"),
    [
        pytest.param({"num_beam": 4}, "num_beam", "did you mean num_beams?", id="unknown"),
        pytest.param({"xyzzy": 4}, "xyzzy", "the parameters are num_beams", id="unknown and far"),
        pytest.param({"num_beams": True}, "num_beams", "a whole number from 1 to 16", id="a bool is no number"),
        pytest.param({"num_beams": 2.0}, "num_beams", "a whole number", id="a float is not whole"),
        pytest.param({"num_beams": "2"}, "num_beams", "num_beams is '2'", id="text"),
        pytest.param({"num_beams": 0}, "num_beams", "from 1 to 16", id="too low"),
        pytest.param({"num_beams": 17}, "num_beams", "from 1 to 16", id="too high"),
        pytest.param({"temperature": math.nan}, "temperature", "temperature is nan", id="not a number"),
        pytest.param({"temperature": math.inf}, "temperature", "a number from 0 to 2", id="infinite"),
        pytest.param({"temperature": -0.1}, "temperature", "a number from 0 to 2", id="negative"),
        pytest.param({"top_p": 0, "temperature": 1}, "top_p", "above 0", id="open bound"),
        pytest.param({"repetition_penalty": 0}, "repetition_penalty", "above 0", id="penalty"),
        pytest.param({"seed": -1}, "seed", "from 0 to 9223372036854775807", id="seed"),
        pytest.param({"seed": 10**400}, "seed", "...", id="a huge number is not repeated in full"),
        pytest.param({"stop": ["a"] * 5}, "stop", "at most 4 strings", id="too many stops"),
        pytest.param({"stop": [""]}, "stop", "1 to 64 characters", id="empty stop"),
        pytest.param({"stop": ["x" * 65]}, "stop", "1 to 64 characters", id="long stop"),
        pytest.param({"stop": 3}, "stop", "a list", id="stop is no list"),
        pytest.param({"target_lang": "fr"}, "target_lang", "must be one of: de", id="language"),
        pytest.param({"target_lang": "De"}, "target_lang", "did you mean de?", id="near language"),
        pytest.param({"target_lang": 3}, "target_lang", "is not a language", id="language is no text"),
        pytest.param({"temperature": 1, "num_beams": 2}, "temperature", "choose one", id="sampling and beams"),
        pytest.param({"top_p": 0.5}, "top_p", "set temperature above 0", id="top_p without sampling"),
        pytest.param({"top_k": 5}, "top_k", "set temperature above 0", id="top_k without sampling"),
        pytest.param({"length_penalty": 2.0}, "length_penalty", "num_beams to 2", id="length_penalty without beams"),
        pytest.param({"temperature": 1, "seed": 3}, "seed", "transformers engine", id="seeded sampling"),
        pytest.param({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens", "more than", id="least over most"),
    ],
)
def test_a_problem_names_the_parameter_and_what_to_do(raw: dict[str, object], param: str, said: str) -> None:
    _, problems = check(raw, ONE)

    assert [problem.param for problem in problems] == [param]
    assert said in str(problems[0])


@pytest.mark.parametrize("name", NUMBERS)
def test_both_bounds_of_every_number_are_allowed(name: str) -> None:
    rule = NUMBERS[name]

    assert rule.accepts(rule.high)
    assert rule.accepts(rule.low) is not rule.is_open
    assert not rule.accepts(rule.high + 1)
    assert not rule.accepts(rule.low - 1)


def test_every_problem_is_reported_at_once() -> None:
    _, problems = check({"num_beams": 0, "target_lang": "xx", "stop": 1, "nope": 2}, ONE)

    assert [problem.param for problem in problems] == ["num_beams", "target_lang", "stop", "nope"]


def test_the_defaults_of_the_model_lie_under_the_request() -> None:
    clean, problems = check({"max_new_tokens": 9}, spec(defaults={"num_beams": 4, "max_new_tokens": 100}))

    assert [problem.param for problem in problems] == ["target_lang"]
    assert clean == {"num_beams": 4, "max_new_tokens": 9, "source_lang": "en"}


def test_null_means_the_default() -> None:
    clean, problems = check({"num_beams": None, "target_lang": None, "stop": None}, ONE)

    assert problems == []
    assert clean == {"source_lang": "en", "target_lang": "de"}


@pytest.mark.parametrize(
    ("defaults", "raw", "expected"),
    [
        pytest.param({"num_beams": 4, "length_penalty": 2.0}, {"temperature": 1}, {"temperature": 1}, id="sampling"),
        pytest.param({"temperature": 0.7, "top_p": 0.9}, {"num_beams": 2}, {"num_beams": 2}, id="beams"),
        pytest.param({"num_beams": 4, "length_penalty": 2.0}, {"num_beams": 1}, {"num_beams": 1}, id="greedy"),
        pytest.param({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0}, {"temperature": 0}, id="deterministic"),
        pytest.param({"min_new_tokens": 56}, {"max_new_tokens": 20}, {"max_new_tokens": 20}, id="shorter"),
        pytest.param({"temperature": 0.7}, {"top_k": 5}, {"temperature": 0.7, "top_k": 5}, id="together"),
    ],
)
def test_defaults_give_way_to_the_other_way_of_decoding(
    defaults: dict[str, object], raw: dict[str, object], expected: dict[str, object]
) -> None:
    model = spec(defaults=defaults, task=Task.SUMMARIZATION, source_languages=(), target_languages=())

    assert check(raw, model) == (expected, [])


def test_a_model_of_many_languages_needs_to_be_told_which() -> None:
    _, problems = check({}, spec())

    assert [(problem.param, problem.hint) for problem in problems] == [("target_lang", "it must be one of: de, fr")]
    assert check({"target_lang": "fr"}, spec()) == ({"target_lang": "fr", "source_lang": "en"}, [])


@pytest.mark.parametrize("task", [Task.SUMMARIZATION, Task.GENERATION])
def test_a_language_where_there_is_none_is_a_problem(task: Task) -> None:
    _, problems = check({"target_lang": "de"}, spec(task=task, source_languages=(), target_languages=()))

    assert [problem.param for problem in problems] == ["target_lang"]


def test_more_output_than_the_entry_allows_is_a_problem() -> None:
    _, problems = check({"max_new_tokens": 200}, spec(target_languages=("de",), max_output_tokens=100))

    assert "writes at most 100 tokens" in str(problems[0])


@pytest.mark.parametrize("engine", [EngineKind.TRANSFORMERS, EngineKind.ECHO])
def test_a_seed_is_accepted_for_sampling_where_it_is_honoured(engine: EngineKind) -> None:
    assert check({"seed": 3, "temperature": 1}, spec(target_languages=("de",), engine=engine))[1] == []


def test_a_seed_is_accepted_everywhere_without_sampling() -> None:
    assert check({"seed": 3}, ONE)[1] == []


def test_one_stop_string_may_be_given_bare() -> None:
    assert check({"stop": "\n"}, ONE)[0]["stop"] == ["\n"]


def test_what_comes_out_is_json_that_checks_again_to_itself() -> None:
    raw = {"num_beams": 2, "length_penalty": 0.5, "stop": ["a", "b"], "max_new_tokens": 5, "repetition_penalty": 1.1}

    clean, problems = check(raw, ONE)

    assert problems == []
    assert check(json.loads(json.dumps(clean)), ONE) == (clean, [])


def test_every_parameter_is_one_that_engines_take() -> None:
    from workers.engines.base import Params

    assert set(PARAMETERS) == set(Params.__dataclass_fields__)
