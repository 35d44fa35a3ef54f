"""Scores of items that come one by one: equal to those of all at once, with intervals as wide."""

import random
import tracemalloc

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from scoring import bootstrap, streaming
from scoring.metrics import METRICS, best_rouge, metrics
from scoring.streaming import WINDOW, Pairs, Scorer, metrics_of, sentence_score
from scoring.subsequence import longest_common
from scoring.tokenizers import tokenizer_for

WORDS = ["the", "a", "cats", "dog", "houses", "tree", "sees", "liked", "old", "small", "green", "river", "."]
COUNT = 3 * WINDOW // 2


def corpus(count: int = COUNT) -> list[list[str]]:
    chance = random.Random(1)
    return [[" ".join(chance.choices(WORDS, k=9)) for _ in range(chance.choice([1, 2]))] for _ in range(count)]


def spoilt(references: list[list[str]], share: float, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(w if chance.random() > share else "wrong" for w in accepted[0].split()) for accepted in references]


REFERENCES = corpus()
OUTPUTS, OTHERS = spoilt(REFERENCES, 0.3, 2), spoilt(REFERENCES, 0.33, 3)


def scorer(outputs: list[str], names: tuple[str, ...] = METRICS) -> Scorer:
    made = Scorer(names)
    for output, accepted in zip(outputs, REFERENCES, strict=False):
        made.add(output, accepted)
    return made


@pytest.mark.parametrize("task", ["translation", "summarization", "generation"])
def test_scores_and_signatures_are_those_of_all_items_at_once(task: str) -> None:
    names = metrics_of(task)
    found = scorer(OUTPUTS, names)

    whole = metrics(OUTPUTS, REFERENCES, names=names)

    scores, signatures = found.scores(), found.signatures()
    assert list(scores) == list(names)
    for name, metric in whole.items():
        assert scores[name].score == pytest.approx(metric.score)
        assert signatures[name].endswith(metric.signature)


def test_intervals_are_about_those_of_the_usual_bootstrap() -> None:
    found = scorer(OUTPUTS).scores()

    for name, metric in metrics(OUTPUTS, REFERENCES).items():
        usual = bootstrap.interval(bootstrap.resampled(metric))
        width = usual.high - usual.low
        assert found[name].interval.low == pytest.approx(usual.low, abs=width / 8)
        assert found[name].interval.high == pytest.approx(usual.high, abs=width / 8)


def test_differences_are_about_those_of_the_paired_bootstrap() -> None:
    one, other = Scorer(METRICS), Scorer(METRICS)
    pairs = Pairs(METRICS)
    for output, second, accepted in zip(OUTPUTS, OTHERS, REFERENCES, strict=True):
        pairs.add(one.add(output, accepted), other.add(second, accepted))

    compared = pairs.compared()

    ours, theirs = (metrics(outputs, REFERENCES) for outputs in (OUTPUTS, OTHERS))
    for name in METRICS:
        usual = bootstrap.compare(
            ours[name].score,
            bootstrap.resampled(ours[name]),
            theirs[name].score,
            bootstrap.resampled(theirs[name]),
        )
        found, width = compared[name], usual.interval.high - usual.interval.low
        assert (found.a, found.b) == pytest.approx((ours[name].score, theirs[name].score))
        assert found.difference.difference == pytest.approx(usual.difference)
        assert found.difference.interval.low == pytest.approx(usual.interval.low, abs=width / 8)
        assert found.difference.interval.high == pytest.approx(usual.interval.high, abs=width / 8)
        assert found.difference.p_value == pytest.approx(usual.p_value, abs=0.04)


def test_what_is_compared_with_itself_does_not_differ() -> None:
    one, pairs = Scorer(("chrf",)), Pairs(("chrf",))
    for output, accepted in zip(OUTPUTS, REFERENCES, strict=True):
        stats = one.add(output, accepted)
        pairs.add(stats, stats)

    found = pairs.compared()["chrf"].difference

    assert (found.difference, found.p_value, found.is_clear) == (0, 1, False)


def test_the_same_outputs_have_the_same_intervals() -> None:
    assert scorer(OUTPUTS).scores() == scorer(OUTPUTS).scores()


@pytest.mark.parametrize("name", METRICS)
def test_a_single_item_is_its_own_interval(name: str) -> None:
    """Most resamples have drawn nothing of it: those are none."""
    one = Scorer((name,))
    one.add("the old cat sees a house", ["the old cat sees the houses"])

    found = one.scores()[name]

    assert found.interval.low == pytest.approx(found.score) and found.interval.high == pytest.approx(found.score)


def test_signatures_say_how_many_references_there_are() -> None:
    both, one = Scorer(("bleu",)), Scorer(("bleu",))
    for accepted in (["a b"], ["a b", "a c"]):
        both.add("a b", accepted)
        one.add("a b", ["a b"])

    assert "|nrefs:var|" in both.signatures()["bleu"]
    assert "|nrefs:1|" in one.signatures()["bleu"]


def test_the_score_of_a_short_sentence_counts_the_orders_it_has() -> None:
    stats = Scorer(("bleu", "chrf")).add("a b", ["a b"])

    assert [sentence_score(name, stats[name]) for name in stats] == pytest.approx([100, 100])


def test_weights_are_drawn_from_a_poisson_distribution() -> None:
    counts = streaming._COUNTS

    assert counts.mean() == pytest.approx(1, abs=1e-3) and counts.var() == pytest.approx(1, abs=1e-3)
    assert np.mean(counts == 0) == pytest.approx(np.exp(-1), abs=1e-4)


def test_rouge_l_is_that_of_rouge_score() -> None:
    usual = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for output, accepted in zip(OUTPUTS[:100], REFERENCES[:100], strict=True):
        found = usual.score(accepted[0], output)
        expected = {kind: score.fmeasure for kind, score in found.items()}
        assert best_rouge(output, accepted[:1]) == pytest.approx(expected)


def test_texts_as_long_as_books_are_scored_in_little_memory() -> None:
    chance = random.Random(1)
    long = " ".join(chance.choices(WORDS, k=6_000))
    tracemalloc.start()

    stats = Scorer(METRICS).add(long, [long])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert stats["rougeL"] == [1, 1]
    # The usual table of the longest common subsequence alone would have 36 million cells.
    assert peak < 200 * 2**20


def test_a_text_far_longer_than_its_reference_takes_no_more_memory() -> None:
    long, short = [f"w{number}" for number in range(20_000)], ["w7", "w9"]
    tracemalloc.start()

    found = longest_common(long, short), longest_common(short, long)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert found == (2, 2)
    assert peak < 2**20


def test_the_longest_common_subsequence_is_found() -> None:
    assert longest_common([], ["a"]) == longest_common(["a"], []) == longest_common(["a"], ["b"]) == 0
    assert longest_common(list("abcbdab"), list("bdcaba")) == 4


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [("zh", "zh"), ("zho_Hans", "zh"), ("zh-TW", "zh"), ("tha", "char"), ("deu", "13a"), ("", "13a"), (None, "13a")],
)
def test_a_language_has_its_tokenizer_by_any_of_its_codes(language: str | None, tokenizer: str) -> None:
    assert tokenizer_for([language]) == tokenizer


@pytest.mark.parametrize("language", ["ja", "jpn_Jpan", "ko"])
def test_without_its_dictionary_a_language_goes_by_characters(language: str) -> None:
    assert tokenizer_for([language]) in ("char", "ja-mecab", "ko-mecab")
    assert len(Scorer(("bleu",), tokenizer_for([language])).add("日本語", ["日本"])["bleu"]) == 10
