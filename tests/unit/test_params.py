"""Decoding parameters: types, ranges, combinations, and what the model's defaults do."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from models.params import LANGUAGES, NUMBERS, PARAMETERS, check, copies
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


TEXT = spec(
    task=Task.GENERATION,
    engine=EngineKind.TRANSFORMERS,
    source_languages=(),
    target_languages=(),
    max_output_tokens=500,
)
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("raw", "param", "said"),
    [
        pytest.param({"n": 0}, "n", "from 1 to 16", id="no copies"),
        pytest.param({"n": 17, "temperature": 1}, "n", "from 1 to 16", id="too many copies"),
        pytest.param({"n": 2}, "n", "would be the same; set temperature", id="copies without sampling"),
        pytest.param({"n": 3, "num_beams": 2}, "n", "num_beams 2 has no 3 best outputs; set", id="too few beams"),
        pytest.param({"top_logprobs": 21}, "top_logprobs", "from 0 to 20", id="too many odds"),
        pytest.param({"top_logprobs": True}, "top_logprobs", "whole number", id="a bool is no number of odds"),
        pytest.param({"top_logprobs": 2, "num_beams": 2}, "top_logprobs", "beam search", id="odds of beams"),
        pytest.param({"json_schema": SCHEMA, "num_beams": 2}, "json_schema", "beam search", id="a schema for beams"),
        pytest.param({"json_schema": SCHEMA, "min_new_tokens": 5}, "min_new_tokens", "json_schema", id="at least"),
        pytest.param(
            {"json_schema": SCHEMA, "no_repeat_ngram_size": 2}, "no_repeat_ngram_size", "json_schema", id="no repeats"
        ),
        pytest.param({"json_schema": "nonsense"}, "json_schema", "a JSON object, or its text", id="no JSON"),
        pytest.param({"json_schema": "[]"}, "json_schema", "a JSON object, or its text", id="JSON, but a list"),
        pytest.param({"json_schema": True}, "json_schema", "a JSON object, or its text", id="a bool is no schema"),
        pytest.param({"json_schema": {"a": math.nan}}, "json_schema", "made of JSON values", id="not a number inside"),
        pytest.param({"json_schema": '{"a":NaN}'}, "json_schema", "made of JSON values", id="not a number in text"),
        pytest.param({"json_schema": '{"a":' * 9000}, "json_schema", "a JSON object", id="bottomless"),
        pytest.param({"json_schema": {"a": "x" * 65536}}, "json_schema", "65,536 bytes", id="a huge schema"),
        pytest.param({"json_schema": "x" * 65537}, "json_schema", "65,536 bytes", id="a huge text"),
        pytest.param({"json_schema": {"a": "é" * 12000}}, "json_schema", "65,536 bytes", id="huge once escaped"),
    ],
)
def test_what_only_generation_takes_is_checked(raw: dict[str, object], param: str, said: str) -> None:
    _, problems = check(raw, TEXT)

    assert [problem.param for problem in problems] == [param]
    assert said in str(problems[0])


@pytest.mark.parametrize("given", [SCHEMA, json.dumps(SCHEMA), json.dumps(SCHEMA, indent=4)])
def test_a_schema_is_stored_as_one_text_with_its_order(given: object) -> None:
    clean, problems = check({"json_schema": given}, TEXT)

    assert problems == []
    assert clean == {"json_schema": json.dumps(SCHEMA, separators=(",", ":"))}
    assert check(clean, TEXT) == (clean, [])


@pytest.mark.parametrize("task", [Task.TRANSLATION, Task.SUMMARIZATION, Task.GENERATION])
@pytest.mark.parametrize(
    ("raw", "times"),
    [
        pytest.param({}, 1, id="one output"),
        pytest.param({"n": 1}, 1, id="one output, said"),
        pytest.param({"n": 3, "temperature": 1}, 3, id="samples"),
        pytest.param({"n": 3, "num_beams": 4}, 1, id="the best of a search"),
        pytest.param({"n": 4, "num_beams": 4}, 1, id="all of a search"),
    ],
)
def test_several_outputs_are_samples_or_the_best_of_a_search(task: Task, raw: dict[str, object], times: int) -> None:
    clean, problems = check(raw, spec(task=task, source_languages=(), target_languages=()))

    assert problems == []
    assert clean == raw
    assert copies(clean) == times


@pytest.mark.parametrize("name", ["top_logprobs", "json_schema"])
@pytest.mark.parametrize("task", [Task.TRANSLATION, Task.SUMMARIZATION])
def test_only_generation_takes_odds_and_schemas(name: str, task: Task) -> None:
    model = spec(task=task, engine=EngineKind.TRANSFORMERS, source_languages=(), target_languages=())

    _, problems = check({name: SCHEMA if name == "json_schema" else 1}, model)

    assert [(problem.param, problem.hint) for problem in problems] == [(name, "leave it out")]
    assert f"which does {task}" in str(problems[0])


@pytest.mark.parametrize("engine", [EngineKind.CTRANSLATE2, EngineKind.ECHO])
def test_an_engine_that_does_not_see_the_odds_refuses_to_tell_or_bend_them(engine: EngineKind) -> None:
    model = spec(task=Task.GENERATION, engine=engine, source_languages=(), target_languages=())

    _, problems = check({"top_logprobs": 1, "json_schema": SCHEMA, "n": 2, "temperature": 1}, model)

    assert [problem.param for problem in problems] == ["top_logprobs", "json_schema"]
    assert "a model with the transformers engine" in str(problems[0])


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_embedding_model_takes_no_parameter(name: str) -> None:
    model = spec(task=Task.EMBEDDING, engine=EngineKind.TRANSFORMERS, source_languages=(), target_languages=())

    _, problems = check({name: 1}, model)

    assert [problem.param for problem in problems] == [name]
    assert "has no meaning for model m, which does embedding" in str(problems[0])
    assert check({}, model) == ({}, [])


@pytest.mark.parametrize(
    ("defaults", "raw", "expected"),
    [
        pytest.param({"num_beams": 4, "length_penalty": 2.0}, {"top_logprobs": 1}, {"top_logprobs": 1}, id="odds"),
        pytest.param(
            {"num_beams": 4, "min_new_tokens": 5, "no_repeat_ngram_size": 3},
            {"json_schema": "{}"},
            {"json_schema": "{}"},
            id="schema",
        ),
        pytest.param({"n": 3, "temperature": 1.0}, {"temperature": 0}, {"temperature": 0}, id="one copy"),
        pytest.param({"n": 3, "temperature": 1.0}, {"num_beams": 2}, {"num_beams": 2}, id="beams"),
        pytest.param({"temperature": 0.7}, {"n": 3}, {"temperature": 0.7, "n": 3}, id="sampled by default"),
        pytest.param({"num_beams": 4}, {"n": 3}, {"num_beams": 4, "n": 3}, id="searched by default"),
        pytest.param({"num_beams": 4, "n": 3}, {}, {"num_beams": 4, "n": 3}, id="the best by default"),
        pytest.param({"num_beams": 4, "n": 3}, {"num_beams": 1}, {"num_beams": 1}, id="greedy"),
        pytest.param({"num_beams": 4, "n": 3}, {"json_schema": "{}"}, {"json_schema": "{}"}, id="no search"),
        pytest.param({"num_beams": 4, "n": 3}, {"temperature": 1.0}, {"temperature": 1.0, "n": 3}, id="samples"),
        pytest.param({"json_schema": {"a": 1}}, {}, {"json_schema": '{"a":1}'}, id="a schema by default"),
    ],
)
def test_defaults_give_way_to_copies_odds_and_schemas(
    defaults: dict[str, object], raw: dict[str, object], expected: dict[str, object]
) -> None:
    assert check(raw, replace(TEXT, defaults=defaults)) == (expected, [])


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


PAIRED = spec(
    source_languages=("en", "de", "fr"),
    target_languages=("de", "en", "fr"),
    language_pairs=(("en", "de"), ("de", "en"), ("en", "fr"), ("fr", "en")),
)


@pytest.mark.parametrize(
    ("said", "filled_in"),
    [
        pytest.param(("en", "de"), ("en", "de"), id="both"),
        pytest.param((None, "de"), ("en", "de"), id="one source for the target"),
        pytest.param(("fr", None), ("fr", "en"), id="one target for the source"),
    ],
)
def test_of_a_pair_of_languages_only_what_is_open_needs_to_be_said(
    said: tuple[str | None, str | None], filled_in: tuple[str, str]
) -> None:
    given = {name: each for name, each in zip(LANGUAGES, said, strict=True) if each}

    assert check(given, PAIRED) == (dict(zip(LANGUAGES, filled_in, strict=True)), [])


def test_a_pair_that_a_model_was_not_made_for_is_a_problem() -> None:
    _, [problem] = check({"source_lang": "de", "target_lang": "fr"}, PAIRED)

    assert problem.param == "source_lang"
    assert "does not translate from 'de' to 'fr'; to 'fr', source_lang must be one of: en" in str(problem)


def test_of_several_pairs_the_open_side_has_to_be_said() -> None:
    assert [(each.param, each.hint) for each in check({"target_lang": "en"}, PAIRED)[1]] == [
        ("source_lang", "it must be one of: de, fr")
    ]
    assert [(each.param, each.hint) for each in check({"source_lang": "en"}, PAIRED)[1]] == [
        ("target_lang", "it must be one of: de, fr")
    ]
    assert [each.param for each in check({}, PAIRED)[1]] == ["source_lang", "target_lang"]


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
