"""Metrics, resampling, n-grams, the frontier: what needs no model."""

import random

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from scoring.bootstrap import compare, interval, resampled
from scoring.metrics import agreement, length_ratio, metrics, streams
from training.evaluation.frontier import Point, frontier
from training.evaluation.ngrams import KneserNey

WORDS = ["the", "a", "cat", "dog", "house", "tree", "sees", "likes", "old", "small", "green", "river", "."]


def corpus(count: int, seed: int = 1) -> list[list[str]]:
    chance = random.Random(seed)
    return [[" ".join(chance.choices(WORDS, k=9)) for _ in range(chance.choice([1, 2]))] for _ in range(count)]


def spoilt(references: list[list[str]], share: float, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [
        " ".join(word if chance.random() > share else "wrong" for word in accepted[0].split())
        for accepted in references
    ]


def test_bleu_and_chrf_are_sacrebleus_own() -> None:
    references = corpus(50)
    outputs = spoilt(references, 0.3, 2)

    found = metrics(outputs, references)

    bleu, chrf = BLEU(), CHRF()
    assert found["bleu"].score == pytest.approx(bleu.corpus_score(outputs, streams(references)).score)
    assert found["chrf"].score == pytest.approx(chrf.corpus_score(outputs, streams(references)).score)
    assert found["bleu"].signature == str(bleu.get_signature())
    assert f"version:{sacrebleu.__version__}" in found["chrf"].signature


def test_rouge_is_the_mean_of_the_best_reference() -> None:
    found = metrics(["the cats sleep", "no"], [["something else", "the cat sleeps"], ["yes"]], names=["rouge1"])

    assert list(found) == ["rouge1"]
    assert found["rouge1"].score == pytest.approx(50)


def test_an_empty_output_scores_nothing() -> None:
    found = metrics([""], [["a b c d"]])

    assert {name: metric.score for name, metric in found.items()} == dict.fromkeys(found, 0.0)


def test_the_nearest_reference_counts_for_the_length() -> None:
    assert length_ratio(["aaaa", "bb"], [["12345678", "12345"], ["1"]]) == 1.0


def test_agreement_is_whole_with_oneself() -> None:
    assert agreement(["a b", "c"], ["a b", "c"]).same == 1.0
    assert agreement(["a b", "c"], ["a b", "d"]).same == 0.5
    assert agreement(["a b", "c"], ["a b", "c"]).chrf == pytest.approx(100)


def test_intervals_are_those_of_sacrebleus_paired_test() -> None:
    references = corpus(80)
    one, other = spoilt(references, 0.2, 3), spoilt(references, 0.35, 4)
    systems = [("one", one), ("other", other)]
    _, theirs = PairedTest(
        systems, {"BLEU": BLEU(), "chrF": CHRF()}, streams(references), test_type="bs", n_samples=200
    )()

    for name, key in (("bleu", "BLEU"), ("chrf", "chrF2")):
        mine = interval(resampled(metrics(other, references, names=[name])[name], 200))
        assert (mine.high - mine.low) / 2 == pytest.approx(theirs[key][1].ci, abs=1e-4)


def test_a_clear_difference_is_told_from_chance() -> None:
    references = corpus(200)
    good, bad, same = (
        metrics(outputs, references, names=["chrf"])["chrf"]
        for outputs in (spoilt(references, 0.1, 5), spoilt(references, 0.3, 6), spoilt(references, 0.1, 7))
    )
    samples = {name: resampled(each, 300) for name, each in (("good", good), ("bad", bad), ("same", same))}

    clear = compare(good.score, samples["good"], bad.score, samples["bad"])
    chance = compare(good.score, samples["good"], same.score, samples["same"])

    assert clear.is_clear and clear.difference > 0 and clear.p_value < 0.01
    assert not chance.is_clear


def test_a_model_does_not_differ_from_itself() -> None:
    references = corpus(30)
    metric = metrics(spoilt(references, 0.2, 8), references, names=["bleu"])["bleu"]
    scores = resampled(metric, 100)

    found = compare(metric.score, scores, metric.score, scores)

    assert (found.difference, found.interval.low, found.interval.high, found.p_value) == (0, 0, 0, 1)
    assert not found.is_clear


@pytest.mark.parametrize("context", [[], [1], [1, 2], [5, 5], [0, 3, 1]])
def test_ngram_probabilities_sum_to_one_after_any_context(context: list[int]) -> None:
    counted = KneserNey([[1, 2, 3, 1, 2, 4], [2, 3, 3, 0], [1, 2]], 6)

    total = sum(np.exp(counted.log_probabilities([*context, token])[-1]) for token in range(6))

    assert total == pytest.approx(1)


def test_ngrams_with_estimated_discounts_sum_to_one_too() -> None:
    chance = random.Random(9)
    rows = [chance.choices(range(40), weights=[1 / (rank + 1) for rank in range(40)], k=30) for _ in range(100)]
    counted = KneserNey(rows, 50)

    for context in ([], [0], [0, 1], [39, 39], [45]):
        total = sum(np.exp(counted.log_probabilities([*context, token])[-1]) for token in range(50))
        assert total == pytest.approx(1)


def test_ngrams_foretell_what_they_have_read() -> None:
    counted = KneserNey([[1, 2, 3, 4, 5]] * 20 + [[5, 4, 3, 2, 1]], 10)

    read, unread = counted.log_probabilities([1, 2, 3, 4, 5]), counted.log_probabilities([3, 1, 5, 2, 4])

    assert read.mean() > np.log(0.5) > unread.mean()


def test_ngrams_refuse_tokens_beyond_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="from 0 to 2"):
        KneserNey([[1, 3]], 3)


@pytest.mark.parametrize(
    ("points", "is_lower_better", "expected"),
    [
        pytest.param([("a", 1, 9), ("b", 2, 5), ("c", 1.5, 4)], False, ["a", "b"], id="beaten in both"),
        pytest.param([("a", 1, 9), ("b", 2, 9)], False, ["b"], id="equal in one"),
        pytest.param([("a", 1, 9), ("b", 2, 12), ("c", 3, 10)], True, ["a", "c"], id="lower is better"),
        pytest.param([], False, [], id="nothing"),
    ],
)
def test_the_frontier(points: list[tuple[str, float, float]], is_lower_better: bool, expected: list[str]) -> None:
    assert [each.name for each in frontier([Point(*each) for each in points], is_lower_better)] == expected
