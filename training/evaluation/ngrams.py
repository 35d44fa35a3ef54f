"""What a count of neighbouring tokens alone can foretell: a 3-gram model with modified Kneser-Ney smoothing.

Chen and Goodman 1999, interpolated, three discounts for each order: the baseline a causal model has to be better than.
Counts are sorted arrays, so that tens of millions of tokens fit into memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# What KenLM falls back to where there are too few counts to estimate them.
USUAL = (0.5, 1.0, 1.5)
# Three ids go into one number of 63 bits.
MOST_TOKENS = 2**21 - 1


@dataclass(frozen=True, slots=True)
class _Order:
    """N-grams as numbers with their counts, and by context the sum of its counts and what the discounts set free."""

    keys: Ints
    counts: Ints
    discounts: Floats
    contexts: Ints
    totals: Floats
    freed: Floats

    def probability(self, keys: Ints, contexts: Ints, lower: Floats) -> Floats:
        at, is_known = _found(self.keys, keys)
        counts = np.where(is_known, self.counts[at], 0)
        context, is_context = _found(self.contexts, contexts)
        kept = np.maximum(counts - self.discounts[np.minimum(counts, 3)], 0)
        return np.where(is_context, (kept + self.freed[context] * lower) / self.totals[context], lower)


class KneserNey:
    """Trained once on rows of token ids below `vocabulary`; every row begins anew."""

    def __init__(self, rows: Sequence[Sequence[int]], vocabulary: int) -> None:
        if not any(rows):
            raise ValueError("no tokens to count")
        # One more than there are tokens, for the place before the first.
        self._vocabulary, self._base = vocabulary, vocabulary + 1
        if not 0 < vocabulary <= MOST_TOKENS:
            raise ValueError(f"a vocabulary of {vocabulary} tokens; it must be 1 to {MOST_TOKENS}")
        first, second, third = self._columns(rows)
        base = self._base
        triples, counts = _counted((first * base + second) * base + third)
        pairs, continuations = _counted(triples % (base * base))
        singles, endings = _counted(pairs % base)
        self._orders = (
            _order(singles, endings, np.zeros_like(singles)),
            _order(pairs, continuations, pairs // base),
            _order(triples, counts, triples // base),
        )

    def log_probabilities(self, row: Sequence[int]) -> Floats:
        """Of each token of the row after those before it, natural."""
        if not row:
            return np.zeros(0)
        first, second, third = self._columns([row])
        base, lower = self._base, np.full(len(row), 1 / self._vocabulary)
        keys = (third, second * base + third, (first * base + second) * base + third)
        contexts = (np.zeros_like(third), second, first * base + second)
        for order, key, context in zip(self._orders, keys, contexts, strict=True):
            lower = order.probability(key, context, lower)
        found: Floats = np.log(lower)
        return found

    def _columns(self, rows: Sequence[Sequence[int]]) -> tuple[Ints, Ints, Ints]:
        start = self._vocabulary
        padded = [np.array([start, start, *row], dtype=np.int64) for row in rows if row]
        first, second, third = (
            np.concatenate([row[shift : len(row) - 2 + shift] for row in padded]) for shift in range(3)
        )
        if third.min() < 0 or third.max() >= self._vocabulary:
            raise ValueError(f"token ids must be from 0 to {self._vocabulary - 1}")
        return first, second, third


def _order(keys: Ints, counts: Ints, contexts: Ints) -> _Order:
    discounts = np.array([0, *_discounts(counts)])
    known, place = np.unique(contexts, return_inverse=True)
    totals = _sums(place, counts.astype(np.float64))
    freed = _sums(place, np.minimum(discounts[np.minimum(counts, 3)], counts))
    return _Order(keys, counts, discounts, known, totals, freed)


def _discounts(counts: Ints) -> tuple[float, float, float]:
    """From how many n-grams occur once, twice, three and four times."""
    once, twice, thrice, four = (int(np.sum(counts == times)) for times in (1, 2, 3, 4))
    if not (once and twice and thrice and four):
        return USUAL
    share = once / (once + 2 * twice)
    found = (1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / thrice)
    return found if all(0 < each < most for each, most in zip(found, (1, 2, 3), strict=True)) else USUAL


def _sums(place: npt.NDArray[np.intp], weights: Floats) -> Floats:
    return np.bincount(place, weights=weights).astype(np.float64)


def _counted(keys: Ints) -> tuple[Ints, Ints]:
    found, counts = np.unique(keys, return_counts=True)
    return found, counts.astype(np.int64)


def _found(known: Ints, wanted: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return at, known[at] == wanted
