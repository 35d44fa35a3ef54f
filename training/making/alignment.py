"""Which target token each source token becomes, and how often: IBM model 1 (Brown et al. 1993), in numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.progress import progress

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class Translations:
    """p(target | source) of every two tokens that met in a pair; `source` is -1 where nothing said the target."""

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    probability: NDArray[np.float64]

    def best(self, most: int, least: float = 0.0) -> dict[int, list[int]]:
        """The likeliest targets of each source, the likeliest first."""
        order = np.lexsort((self.target, -self.probability, self.source))
        found: dict[int, list[int]] = {}
        rows = zip(self.source[order], self.target[order], self.probability[order], strict=True)
        for source, target, probability in rows:
            targets = found.setdefault(int(source), [])
            if len(targets) < most and probability >= least:
                targets.append(int(target))
        return found


def align(pairs: Sequence[tuple[Ids, Ids]], rounds: int = 5) -> Translations:
    """Learn it by expectation maximization. Memory goes with the sum of the pairs' length products, 40 bytes each.

    >>> found = align([([1, 2], [11, 12]), ([1, 3], [11, 13]), ([2], [12])])
    >>> {source: targets[0] for source, targets in found.best(1).items() if source > 0}
    {1: 11, 2: 12, 3: 13}
    """
    source, target, sizes = _meetings(pairs)
    width = int(target.max(initial=0)) + 1
    keys, place = np.unique((source + 1) * width + target, return_inverse=True)
    sources = keys // width
    probability = np.full(len(keys), 1.0 / width)
    # Where the sources of one target token begin: each of them explains a part of it.
    starts = np.cumsum(sizes) - sizes
    for _ in progress(range(rounds), rounds, "aligning"):
        share = probability[place]
        share /= np.repeat(np.add.reduceat(share, starts), sizes) if len(starts) else 1.0
        counts = np.bincount(place, share, len(keys))
        probability = counts / np.bincount(sources, counts)[sources]
    return Translations(sources - 1, keys % width, probability)


def _meetings(
    pairs: Sequence[tuple[Ids, Ids]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Every target token beside every source token of its pair and the empty one, target by target."""
    sources, targets, sizes = [], [], []
    for source, target in pairs:
        row = np.array([-1, *source])
        sources.append(np.tile(row, len(target)))
        targets.append(np.repeat(np.array(target, dtype=np.int64), len(row)))
        sizes.append(np.full(len(target), len(row)))
    empty = np.zeros(0, np.int64)
    return (
        np.concatenate([empty, *sources]),
        np.concatenate([empty, *targets]),
        np.concatenate([empty, *sizes]),
    )
