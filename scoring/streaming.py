"""Corpus scores of more items than memory holds, with intervals: an item's row is added to sums and forgotten. Pure.

Resampling with replacement needs all items at hand. The Poisson bootstrap (Chamandy et al. 2012, "Estimating
uncertainty for massive data streams") draws instead how often each item is in a resample, independently of all
others, from a Poisson distribution of mean 1: one pass is enough, and what is kept are the sums of every resample.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, factorial
from typing import Any

import numpy as np

from scoring.bootstrap import SAMPLES, SEED, Difference, Interval, compare, interval
from scoring.metrics import ROUGE, Floats, best_rouge, mean, rouge_signature

# Rows that are weighed at once: a window of weights takes 4 MB.
WINDOW = 500
# Sentence scores are of this one in every task: unlike BLEU it is meant for sentences, and it knows every script.
SENTENCE_METRIC = "chrf"
WIDTHS = {"bleu": 10, "chrf": 18, **dict.fromkeys(ROUGE, 2)}
# sacreBLEU remembers the last 65,536 texts it has cut into words, whatever their length.
_REMEMBERED_CHARS = 2**20

Stats = dict[str, list[float]]


def metrics_of(task: str) -> tuple[str, ...]:
    """What outputs of a task are scored by.

    >>> metrics_of("translation")
    ('bleu', 'chrf')
    """
    return ("bleu", "chrf") if task == "translation" else (*ROUGE, "chrf")


@dataclass(frozen=True, slots=True)
class Score:
    """A corpus score from 0 to 100 with its 95 % interval."""

    score: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Compared:
    """The scores of two sets of outputs for the same items, and the difference between them."""

    a: float
    b: float
    difference: Difference


class Scorer:
    """Takes outputs one by one and keeps sums. `tokenizer` is the one for BLEU."""

    def __init__(self, metrics: Sequence[str], tokenizer: str = "13a") -> None:
        self._metrics = metrics
        self._sums = _Sums(sum(WIDTHS[name] for name in metrics))
        self._rouge = [name for name in metrics if name in ROUGE]
        # Its own, for they remember how many references they have seen.
        self._sacre = {name: _sacre(name, tokenizer) for name in metrics if name not in ROUGE}
        self._counts: set[int] = set()
        self._chars = 0

    def add(self, output: str, references: Sequence[str]) -> Stats:
        """Score an output; by metric the numbers whose sums make the corpus score."""
        rouge = best_rouge(output, references, self._rouge) if self._rouge else {}
        stats: Stats = {
            name: [rouge[name], 1.0] if name in rouge else self._sacre_stats(name, output, references)
            for name in self._metrics
        }
        self._sums.add([number for name in self._metrics for number in stats[name]])
        self._counts.add(len(references))
        return stats

    def scores(self) -> dict[str, Score]:
        """Of everything added so far, which must be something."""
        total, drawn = self._sums.total, self._sums.resampled()
        found = {}
        for name, part in _parts(self._metrics):
            resamples = np.array([corpus_score(name, row) for row in drawn[:, part]])
            found[name] = Score(corpus_score(name, total[part]), interval(resamples))
        return found

    def signatures(self) -> dict[str, str]:
        """What names each metric exactly, with how many references there were."""
        return {name: self._signature(name) for name in self._metrics}

    def _signature(self, name: str) -> str:
        if name in ROUGE:
            return rouge_signature(name)
        metric = self._sacre[name]
        # sacreBLEU's way to say that it varies.
        metric.num_refs = next(iter(self._counts)) if len(self._counts) == 1 else -1
        return f"{name}|{metric.get_signature()}"

    def _sacre_stats(self, name: str, output: str, references: Sequence[str]) -> list[float]:
        metric = self._sacre[name]
        [row] = metric._extract_corpus_statistics([output], [[reference] for reference in references])
        if name == "bleu":
            self._chars += len(output) + sum(map(len, references))
            if self._chars > _REMEMBERED_CHARS:
                _forget_texts(metric.tokenizer)
                self._chars = 0
        return list(row)


class Pairs:
    """Two sets of outputs for the same items, by the stats that a Scorer made of each; resamples are shared."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self._metrics = metrics
        self._width = sum(WIDTHS[name] for name in metrics)
        self._sums = _Sums(2 * self._width)

    def add(self, a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]]) -> None:
        self._sums.add([number for stats in (a, b) for name in self._metrics for number in stats[name]])

    def compared(self) -> dict[str, Compared]:
        """Of everything added so far, which must be something."""
        total, drawn = self._sums.total, self._sums.resampled()
        found = {}
        for name, part in _parts(self._metrics):
            other = slice(part.start + self._width, part.stop + self._width)
            a, b = corpus_score(name, total[part]), corpus_score(name, total[other])
            a_drawn, b_drawn = (
                np.array([corpus_score(name, row) for row in drawn[:, place]]) for place in (part, other)
            )
            found[name] = Compared(a, b, compare(a, a_drawn, b, b_drawn))
        return found


def corpus_score(name: str, total: Floats) -> float:
    """The metric of summed stats, from 0 to 100."""
    if name in ROUGE:
        return mean(total)
    return float(_calculator(name)._compute_score_from_stats(total.tolist()).score)


def sentence_score(name: str, stats: Sequence[float]) -> float:
    """The metric of one item's stats, from 0 to 100. Of BLEU without the orders a short text cannot have."""
    if name != "bleu":
        return corpus_score(name, np.array(stats))
    from sacrebleu.metrics.bleu import BLEU

    whole = [int(number) for number in stats]
    found = BLEU.compute_bleu(whole[2:6], whole[6:], whole[0], whole[1], effective_order=True)
    return float(found.score)


class _Sums:
    """Sums of rows of `width` numbers, as they are and in every resample."""

    def __init__(self, width: int) -> None:
        self.total = np.zeros(width)
        # A one is put before every row: it counts what a resample has drawn.
        self._drawn = np.zeros((SAMPLES, width + 1))
        self._window = np.ones((WINDOW, width + 1))
        self._filled = 0
        self._chance = np.random.default_rng(SEED)

    def add(self, row: Sequence[float]) -> None:
        self._window[self._filled, 1:] = row
        self._filled += 1
        if self._filled == WINDOW:
            self._flush()

    def resampled(self) -> Floats:
        """The sums of each resample; without those, of a few items, that have drawn none of them."""
        self._flush()
        return self._drawn[self._drawn[:, 0] > 0, 1:]

    def _flush(self) -> None:
        # Always for a whole window, so that equal places have equal weights however much follows.
        if not self._filled:
            return
        weights = _COUNTS[self._chance.integers(0, len(_COUNTS), (SAMPLES, WINDOW), dtype=np.uint16)]
        rows = self._window[: self._filled]
        self.total += rows[:, 1:].sum(0)
        self._drawn += weights[:, : self._filled] @ rows
        self._filled = 0


def _poisson(values: int) -> Floats:
    """As a table of so many equally likely values, which is fourteen times as fast as drawing from the real one."""
    upto = np.cumsum([exp(-1) / factorial(count) for count in range(9)])
    return np.searchsorted(upto, (np.arange(values) + 0.5) / values).astype(np.float64)


_COUNTS = _poisson(2**16)


def _parts(metrics: Iterable[str]) -> list[tuple[str, slice]]:
    """Where in a row the numbers of each metric stand."""
    found, start = [], 0
    for name in metrics:
        found.append((name, slice(start, start + WIDTHS[name])))
        start += WIDTHS[name]
    return found


@cache
def _calculator(name: str) -> Any:
    """For sums alone, where nothing is left to cut into words."""
    return _sacre(name, "none")


def _sacre(name: str, tokenizer: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU(tokenize=tokenizer, force=True) if name == "bleu" else CHRF()


def _forget_texts(tokenizer: Any) -> None:
    from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

    for kind in (type(tokenizer), TokenizerRegexp):
        if hasattr(kind.__call__, "cache_clear"):
            kind.__call__.cache_clear()
