"""Outputs held to a JSON Schema: what is complete satisfies it, whatever the model would rather say."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema_rs
import pytest

from models.registry import EngineKind
from tests.engines.conftest import CAUSAL, Bench, generated
from workers.engines.base import BadParam, Engine, Params, Prompt
from workers.engines.load import open_engine

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["good", "bad", None]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "v": {"type": "boolean"},
                "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
            },
            "required": ["v", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS = {
    "flat": PERSON,
    "nested": {
        "type": "object",
        "properties": {"people": {"type": "array", "items": PERSON, "minItems": 1, "maxItems": 2}},
        "required": ["people"],
        "additionalProperties": False,
    },
    "recursive": TREE,
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "format": {"type": "string", "format": "date"},
    "choice": {"anyOf": [{"const": "yes"}, {"const": "no"}, {"type": "integer", "minimum": 1, "maximum": 9}]},
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False, "minItems": 2},
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"enum": [1, 2, 3]}},
        "additionalProperties": False,
    },
}
PROMPTS = [Prompt(text) for text in ("fox", "the quick brown fox jumps over", "we", "Numbers like 1, 23", "x " * 20)]


def held(schema: object, **changes: object) -> Params:
    usual = {"max_new_tokens": 120, "temperature": 1.0, "seed": 5, "json_schema": json.dumps(schema)}
    return Params(**{**usual, **changes})


def made(engine: Engine, prompts: list[Prompt], params: Params) -> tuple[list[str], list[str]]:
    """Texts and finish reasons."""
    generations = generated(engine, engine.encode(prompts, params), params)
    return engine.decode(generations, params), [each.finish_reason for each in generations]


@pytest.fixture(scope="module")
def engine(bench: Bench) -> Engine:
    # With room for a whole document, and with tokens that its tokenizer does not know.
    return bench.open("llama-wide", EngineKind.TRANSFORMERS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_complete_satisfies_the_schema(engine: Engine, name: str) -> None:
    schema = SCHEMAS[name]
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    complete = 0
    for seed in range(3):
        for text, reason in zip(*made(engine, PROMPTS, held(schema, seed=seed)), strict=True):
            if reason == "stop":
                validator.validate(json.loads(text))
                complete += 1

    assert complete >= 10


@pytest.mark.parametrize("kind", [*CAUSAL, "llama-pieces"])
def test_every_architecture_can_be_held_to_a_schema(bench: Bench, kind: str) -> None:
    engine = bench.open(kind, EngineKind.TRANSFORMERS)

    texts, reasons = made(engine, PROMPTS, held(SCHEMAS["choice"], max_new_tokens=20))

    assert reasons == ["stop"] * len(PROMPTS)
    assert all(json.loads(text) in ("yes", "no", *range(1, 10)) for text in texts)


def test_outputs_of_one_batch_end_at_different_times(engine: Engine) -> None:
    params = held(TREE)
    generations = generated(engine, engine.encode(PROMPTS * 3, params), params)
    texts = engine.decode(generations, params)
    # The same prompt with the same seed says the same thing; so compare the first of each.
    lengths = {len(each.tokens) for each in generations}

    assert len(lengths) > 1
    assert texts[:5] == texts[5:10] == texts[10:]
    for text, each in zip(texts, generations, strict=True):
        if each.finish_reason == "stop":
            jsonschema_rs.validate(TREE, json.loads(text))


@pytest.mark.parametrize(
    "changes", [{"temperature": 0.0, "seed": None}, {"temperature": 1.2}], ids=["greedy", "seeded"]
)
@pytest.mark.parametrize("name", ["flat", "recursive", "optional"])
def test_a_batch_says_what_each_alone_would(engine: Engine, name: str, changes: dict[str, object]) -> None:
    params = held(SCHEMAS[name], **changes)

    together = made(engine, PROMPTS, params)
    alone = [made(engine, [prompt], params) for prompt in PROMPTS]

    assert together == ([texts[0] for texts, _ in alone], [reasons[0] for _, reasons in alone])


def test_what_is_cut_says_so(engine: Engine) -> None:
    texts, reasons = made(engine, PROMPTS, held(PERSON, max_new_tokens=4))

    assert reasons == ["length"] * len(PROMPTS)
    assert all(text.startswith("{") for text in texts)
    assert not any(_parses(text) for text in texts)


def test_an_output_may_end_only_when_it_is_complete(engine: Engine) -> None:
    """These models end after a few tokens if they may."""
    free, _ = made(engine, PROMPTS, Params(max_new_tokens=120, temperature=1.0, seed=5))
    texts, reasons = made(engine, PROMPTS, held(PERSON))

    assert not any(_parses(text) for text in free)
    assert reasons.count("stop") >= 3
    assert all(_parses(text) for text, reason in zip(texts, reasons, strict=True) if reason == "stop")


def test_properties_come_in_the_order_of_the_schema(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {name: {"type": "boolean"} for name in ("z", "a", "m")},
        "required": ["a", "m", "z"],
        "additionalProperties": False,
    }

    [text], _ = made(engine, PROMPTS[:1], held(schema))

    assert list(json.loads(text)) == ["z", "a", "m"]


def test_tokens_that_mean_nothing_are_never_chosen(engine: Engine) -> None:
    params = held({"type": "string"}, temperature=2.0, max_new_tokens=300)
    encoded = engine.encode(PROMPTS, params)
    free = generated(engine, encoded, replace(params, json_schema=None))

    assert any(int(token) >= 400 for each in free for token in each.tokens)
    assert not any(int(token) >= 400 for each in generated(engine, encoded, params) for token in each.tokens)


def test_whitespace_cannot_go_on_for_ever(engine: Engine) -> None:
    texts, _ = made(engine, PROMPTS, held(SCHEMAS["nested"]))

    outside_strings = [part for text in texts for part in text.split('"')[::2]]
    assert not any("  " in part or "\n" in part for part in outside_strings)


def test_any_object_will_do_where_the_schema_says_no_more(engine: Engine) -> None:
    for text, reason in zip(*made(engine, PROMPTS, held({"type": "object"})), strict=True):
        assert text.startswith("{")
        assert reason == "length" or isinstance(json.loads(text), dict)


def test_a_stop_string_ends_a_row_and_leaves_the_others_held(engine: Engine) -> None:
    params = held(PERSON, stop=('"age"',))

    texts, reasons = made(engine, PROMPTS, params)

    assert all('"age"' not in text for text in texts)
    assert texts == [text.split('"age"')[0] for text in made(engine, PROMPTS, replace(params, stop=()))[0]]
    assert "stop" in reasons


def test_penalties_do_not_break_the_schema(engine: Engine) -> None:
    texts, reasons = made(engine, PROMPTS, held(PERSON, repetition_penalty=2.0, top_p=0.5, top_k=3))

    assert "stop" in reasons
    for text, reason in zip(texts, reasons, strict=True):
        if reason == "stop":
            jsonschema_rs.validate(PERSON, json.loads(text))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        pytest.param({"type": "nonsense"}, "nonsense", id="no such type"),
        pytest.param({"type": "array", "uniqueItems": True}, "uniqueItems", id="a keyword that cannot be honoured"),
        pytest.param({"type": "string", "format": "klingon"}, "klingon", id="an unknown format"),
        pytest.param({"type": "string", "pattern": "(?=a)"}, "look-around", id="look-around"),
        pytest.param({"$ref": "https://example.org/schema"}, "example.org", id="a schema elsewhere"),
        pytest.param({"allOf": [{"type": "string"}, {"type": "null"}]}, "Unsatisfiable", id="a contradiction"),
        pytest.param(
            {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}},
            "uniqueItems",
            id="leniency asked for",
        ),
    ],
)
def test_a_schema_that_cannot_be_honoured_is_refused_before_anything_runs(
    engine: Engine, schema: object, said: str
) -> None:
    for _ in range(2):
        with pytest.raises(BadParam, match=said) as caught:
            engine.encode([Prompt("x")], held(schema))
        assert caught.value.param == "json_schema"
        assert "\n" not in str(caught.value)


def test_a_schema_that_gets_out_of_hand_fails_its_items_and_says_why(engine: Engine) -> None:
    wide = {f"p{number}": {"type": "string"} for number in range(1500)}
    params = held({"type": "object", "properties": wide, "additionalProperties": False})
    encoded = engine.encode(PROMPTS, params)

    with pytest.raises(ValueError, match="json_schema became too complex"):
        list(engine.generate(encoded, params, lambda: False))

    assert made(engine, PROMPTS, held(SCHEMAS["choice"]))[1] == ["stop"] * len(PROMPTS)


def test_a_vocabulary_that_makes_llguidance_panic_is_a_plain_refusal(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bench.spec("llama-wide").source, folder)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    longest = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    content["added_tokens"].append({"id": 400, "content": "=" * 2000, **longest})
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    spec = replace(bench.spec("llama-wide", EngineKind.TRANSFORMERS), source=folder)
    engine = open_engine(spec, tmp_path, "cpu")

    with pytest.raises(BadParam, match="cannot be held to a json_schema: llguidance failed"):
        engine.encode(PROMPTS, held(PERSON))
    assert len(made(engine, PROMPTS, Params(max_new_tokens=4))[0]) == len(PROMPTS)
    engine.close()


def test_a_tokenizer_that_cannot_be_followed_is_said_to_be_one(bench: Bench) -> None:
    with pytest.raises(BadParam, match="model t5 cannot be held to a json_schema"):
        bench.open("t5", EngineKind.TRANSFORMERS).encode([Prompt("x")], held(PERSON))


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
