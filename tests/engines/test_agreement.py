"""CTranslate2 and transformers are two implementations of one promise, and say the same."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.registry import EngineKind
from tests.engines.conftest import CAUSAL, SEQ2SEQ, SETTINGS, VARIANTS, Bench, generated, languages, outputs
from workers.engines.base import Message, Params, Prompt
from workers.engines.tokens import load_tokenizer

TEXTS = [
    "the quick brown fox",
    "we translate text by the file; every line is kept in order",
    "short",
    "Numbers like 1, 23 and 456",
    "how much wood would a woodchuck chuck " * 30,
    "a </s> b <pad> c",
    "Émile sleeps   in the sun",
]


def test_the_starter_translates_alike_in_full_precision(bench: Bench, sentences: list[str]) -> None:
    params = Params(max_new_tokens=64)

    fast = outputs(bench.open("starter"), sentences[:50], params)
    reference = outputs(bench.open("starter", EngineKind.TRANSFORMERS), sentences[:50], params)

    assert fast == reference


def test_the_starter_translates_alike_with_beams(bench: Bench, sentences: list[str]) -> None:
    params = Params(max_new_tokens=64, num_beams=4)

    fast = outputs(bench.open("starter"), sentences[:50], params)
    reference = outputs(bench.open("starter", EngineKind.TRANSFORMERS), sentences[:50], params)

    # The two give up on a search at slightly different moments.
    assert sum(one == other for one, other in zip(fast, reference, strict=True)) >= 48


def test_int8_changes_few_translations(bench: Bench, sentences: list[str]) -> None:
    params = Params(max_new_tokens=64)

    quantized = outputs(bench.open("starter", quantization="int8"), sentences[:200], params)
    full = outputs(bench.open("starter"), sentences[:200], params)

    assert sum(one == other for one, other in zip(quantized, full, strict=True)) >= 0.85 * 200


@pytest.mark.parametrize("kind", [*SEQ2SEQ, *VARIANTS, *CAUSAL])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="greedy"),
        pytest.param({"max_new_tokens": 5}, id="short"),
        pytest.param({"min_new_tokens": 8}, id="at least"),
        pytest.param({"stop": ("e",)}, id="stop"),
    ],
)
def test_every_architecture_decodes_alike(bench: Bench, kind: str, changes: dict[str, object]) -> None:
    params = replace(Params(max_new_tokens=20, **languages(bench.spec(kind))), **changes)
    fast, reference = bench.open(kind), bench.open(kind, EngineKind.TRANSFORMERS)

    encoded = [engine.encode([Prompt(text) for text in TEXTS], params) for engine in (fast, reference)]
    made = [generated(engine, each, params) for engine, each in zip((fast, reference), encoded, strict=True)]

    assert [each.dropped for each in encoded[0]] == [each.dropped for each in encoded[1]]
    assert fast.decode(made[0], params) == reference.decode(made[1], params)
    assert [each.finish_reason for each in made[0]] == [each.finish_reason for each in made[1]]
    assert [len(each.tokens) for each in made[0]] == [len(each.tokens) for each in made[1]]


@pytest.mark.parametrize("kind", [*SEQ2SEQ, *VARIANTS, *CAUSAL])
@pytest.mark.parametrize("beams", [1, 4])
def test_every_architecture_scores_alike(bench: Bench, kind: str, beams: int) -> None:
    """Scores show what greedy outputs hide: logits that are scaled wrongly have the same best token."""
    params = Params(max_new_tokens=12, num_beams=beams, **languages(bench.spec(kind)))
    fast, reference = (
        bench.open(kind, engine, options={**SETTINGS, "scores": True})
        for engine in (EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS)
    )

    made, wanted = (
        generated(engine, engine.encode([Prompt(text) for text in TEXTS], params), params)
        for engine in (fast, reference)
    )

    # For transformers, Marian's padding is among what could have been said.
    tolerance = 1e-2 if kind.startswith("marian") else 1e-3
    # Where beams of a model that knows nothing are as good as another, the engines may end with different ones.
    texts = zip(fast.decode(made, params), reference.decode(wanted, params), strict=True)
    same = [pair for pair, (one, other) in zip(zip(made, wanted, strict=True), texts, strict=True) if one == other]
    assert len(same) == len(TEXTS) if beams == 1 else len(same) > len(TEXTS) / 2
    for ours, theirs in same:
        assert ours.score == pytest.approx(theirs.score, abs=tolerance)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize(
    "changes", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}], ids=["penalty", "ngram"]
)
def test_penalties_count_the_output_alone_in_both_engines(bench: Bench, kind: str, changes: dict[str, object]) -> None:
    params = replace(Params(max_new_tokens=12), **changes)

    assert outputs(bench.open(kind), TEXTS, params) == outputs(bench.open(kind, EngineKind.TRANSFORMERS), TEXTS, params)


@pytest.mark.parametrize("kind", CAUSAL)
def test_chats_go_through_the_models_template(bench: Bench, kind: str) -> None:
    params = Params(max_new_tokens=12)
    chat = Prompt(messages=(Message("system", "be short"), Message("user", "the quick brown fox")))
    spelled = (
        "<|im_start|>system\nbe short<|im_end|>\n"
        "<|im_start|>user\nthe quick brown fox<|im_end|>\n<|im_start|>assistant\n"
    )
    fast, reference = bench.open(kind), bench.open(kind, EngineKind.TRANSFORMERS)

    tokenizer = load_tokenizer(bench.spec(kind), Path(str(bench.spec(kind).source)))
    expected = tokenizer(spelled, add_special_tokens=False)["input_ids"]
    assert list(reference.encode([chat], params)[0].tokens) == expected
    assert len(fast.encode([chat], params)[0].tokens) == len(expected)
    assert fast.encode([chat], params) != fast.encode([Prompt("the quick brown fox")], params)
    assert outputs(fast, [chat], params) == outputs(reference, [chat], params)


@pytest.mark.parametrize("prefix", ["", ">>fra<< "])
def test_marian_pieces_are_those_of_the_reference_tokenizer(bench: Bench, prefix: str, sentences: list[str]) -> None:
    texts = [*sentences[:300], "", " ", "日本語 und 🙂", "tab\tline\nend", ">>xyz<< x", ">>fra<< x"]
    params = Params(target_lang="deu")
    fast = bench.open("marian", prefix=prefix)
    reference = bench.open("marian", EngineKind.TRANSFORMERS, prefix=prefix)

    pieces = [list(each.tokens) for each in fast.encode([Prompt(text) for text in texts], params)]
    ids = [list(each.tokens) for each in reference.encode([Prompt(text) for text in texts], params)]

    tokenizer = load_tokenizer(bench.spec("marian"), Path(str(bench.spec("marian").source)))
    limit = fast.limits.max_input
    theirs = [tokenizer(prefix + text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    assert pieces == [tokenizer.convert_ids_to_tokens(each) for each in ids]
    # A language code in a user's text is text here; the reference takes the first one of all for the code.
    different = [text for text, ours, expected in zip(texts, ids, theirs, strict=True) if ours != expected]
    assert different == ([] if prefix else [">>xyz<< x", ">>fra<< x"])


def test_a_target_language_changes_the_output(bench: Bench) -> None:
    for kind, one, other in (("marian", "deu", "fra"), ("m2m100", "de", "fr")):
        params = Params(max_new_tokens=12, source_lang="en", target_lang=one)
        for engine in (EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS):
            opened = bench.open(kind, engine)
            assert outputs(opened, TEXTS, params) != outputs(opened, TEXTS, replace(params, target_lang=other))
