"""Whether a difference may be chance: paired bootstrap resampling (Koehn 2004). Pure.

The resamples are those of sacreBLEU's `PairedTest`, whose intervals of BLEU and chrF these are; here for any metric
that is a function of summed rows, and with an interval of the difference itself. The p-value counts both tails, which
goes with that interval; sacreBLEU folds the differences before it centres them, counts one tail and tells about half.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scoring.metrics import Floats, Metric

SAMPLES = 1000
SEED = 12345


@dataclass(frozen=True, slots=True)
class Interval:
    """Where 95 of 100 resamples lie."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one model scores above another, and how likely as much is without a difference between them."""

    difference: float
    interval: Interval
    p_value: float

    @property
    def is_clear(self) -> bool:
        return self.p_value < 0.05 and not self.interval.low <= 0 <= self.interval.high


def resampled(metric: Metric, samples: int = SAMPLES, seed: int = SEED) -> Floats:
    """The metric's score in each resample. Equal seeds draw equal items, so that scores of two models are paired."""
    return scores_of(metric.rows, metric.score_of, samples, seed)


def scores_of(rows: Floats, score_of: Callable[[Floats], float], samples: int, seed: int) -> Floats:
    chance = np.random.default_rng(seed)
    count = len(rows)
    # One resample at a time: all places at once would take gigabytes for a large file.
    drawn = (np.bincount(chance.choice(count, size=count, replace=True), minlength=count) for _ in range(samples))
    return np.array([score_of(times @ rows) for times in drawn])


def interval(scores: Floats) -> Interval:
    """The middle 95 % of resampled scores."""
    ordered = np.sort(scores)
    out = len(ordered) // 40
    return Interval(float(ordered[out]), float(ordered[len(ordered) - out - 1]))


def compare(one: float, one_scores: Floats, other: float, other_scores: Floats) -> Difference:
    """`one` minus `other`: real scores, and those of the same resamples."""
    differences = one_scores - other_scores
    real = one - other
    # As if there were no difference: the spread about their own mean. One is added because the real corpus is one
    # of the ways the draw could have come out. With `>`, as sacreBLEU has it, equal outputs would differ for certain.
    as_far = int(np.sum(np.abs(differences - differences.mean()) >= abs(real)))
    return Difference(real, interval(differences), (as_far + 1) / (len(differences) + 1))
