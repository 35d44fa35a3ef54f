"""The `n` best of a beam search: as many as asked for, best first, each with its score, alike in both engines."""

from dataclasses import replace

import pytest

from models.registry import EngineKind
from tests.engines.conftest import CAUSAL, SEQ2SEQ, SETTINGS, Bench, generated, languages
from workers.engines.base import Engine, Generation, Params, Prompt
from workers.engines.load import decoding_params

TEXTS = [
    "the quick brown fox",
    "we translate text by the file; every line is kept in order",
    "short",
    "Numbers like 1, 23 and 456",
    "Émile sleeps   in the sun",
]
ENGINES = [EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS]


def scoring(bench: Bench, kind: str, engine: EngineKind) -> Engine:
    settings = SETTINGS if engine is EngineKind.CTRANSLATE2 else {"batch_tokens": 512}
    return bench.open(kind, engine, options={**settings, "scores": True})


def searched(engine: Engine, texts: list[str], params: Params) -> list[Generation]:
    return generated(engine, engine.encode([Prompt(text) for text in texts], params), params)


def told(engine: Engine, made: Generation, params: Params) -> list[tuple[str, float | None, str]]:
    """Text, score and reason of each output."""
    texts = engine.decode(made.all, params)
    return [(text, each.score, each.finish_reason) for text, each in zip(texts, made.all, strict=True)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [*SEQ2SEQ, *CAUSAL])
def test_there_are_as_many_as_asked_for_and_they_differ(bench: Bench, kind: str, engine: EngineKind) -> None:
    params = Params(max_new_tokens=12, num_beams=4, n=3, **languages(bench.spec(kind)))

    made = searched(scoring(bench, kind, engine), TEXTS, params)

    for index, each in enumerate(made):
        assert [other.index for other in each.all] == [index] * 3
        assert len({other.tokens for other in each.all}) == 3
        assert all(other.others == () for other in each.others)
        scores = [other.score for other in each.all if other.score is not None]
        assert len(scores) == 3 and max(scores) <= 0
        # Without a length penalty of its own, a search ranks by just this.
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["marian", "llama"])
def test_the_best_of_several_is_the_one_that_comes_alone(bench: Bench, kind: str, engine: EngineKind) -> None:
    params = Params(max_new_tokens=12, num_beams=4, n=4, **languages(bench.spec(kind)))
    opened = scoring(bench, kind, engine)

    several, alone = searched(opened, TEXTS, params), searched(opened, TEXTS, replace(params, n=1))

    assert [each.tokens for each in several] == [each.tokens for each in alone]
    assert all(each.others == () for each in alone)


@pytest.mark.parametrize("changes", [{}, {"length_penalty": 0.6}, {"stop": ("e",)}], ids=["plain", "penalty", "stop"])
def test_both_engines_find_the_same_in_the_same_order(bench: Bench, changes: dict[str, object]) -> None:
    params = replace(Params(max_new_tokens=20, num_beams=4, n=4, **languages(bench.spec("marian"))), **changes)
    fast, reference = (scoring(bench, "marian", engine) for engine in ENGINES)

    for one, other in zip(searched(fast, TEXTS, params), searched(reference, TEXTS, params), strict=True):
        mine, theirs = told(fast, one, params), told(reference, other, params)
        assert [(text, reason) for text, _, reason in mine] == [(text, reason) for text, _, reason in theirs]
        # Padding is forbidden; its odds, large in a model that has learned nothing, are left out by CTranslate2 alone.
        assert [score for _, score, _ in mine] == pytest.approx([score for _, score, _ in theirs], abs=1e-2)


def test_both_engines_find_nearly_the_same_translations(bench: Bench, sentences: list[str]) -> None:
    params = Params(max_new_tokens=64, num_beams=4, n=4)
    fast, reference = (scoring(bench, "starter", engine) for engine in ENGINES)

    common, apart = 0, 0.0
    for one, other in zip(
        searched(fast, sentences[:25], params), searched(reference, sentences[:25], params), strict=True
    ):
        mine, theirs = (
            {text: score or 0.0 for text, score, _ in told(engine, made, params)}
            for engine, made in ((fast, one), (reference, other))
        )
        common += len(mine.keys() & theirs.keys())
        apart = max(apart, *(abs(mine[text] - theirs[text]) for text in mine.keys() & theirs.keys()))

    # The two give up on a search at slightly different moments.
    assert common >= 95
    assert apart < 2e-3


def test_an_engine_is_asked_for_several_of_a_search_alone() -> None:
    assert decoding_params({"num_beams": 4, "n": 3}).n == 3
    assert decoding_params({"temperature": 1, "n": 3}).n == 1
    assert decoding_params({"temperature": 1, "n": 1}).n == 1
