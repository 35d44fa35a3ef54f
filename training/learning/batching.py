"""Which pairs are trained on together. Pure: lengths in, lists of places out."""

import random
from collections.abc import Sequence


def batches(lengths: Sequence[tuple[int, int]], max_tokens: int, rng: random.Random) -> list[list[int]]:
    """All places, in batches of similar length whose longer side, padded, has at most `max_tokens`; in random order.

    Lengths are blurred a little before sorting, so that other neighbours meet in every epoch.

    >>> sorted(map(sorted, batches([(2, 2), (9, 9), (2, 2)], 9, random.Random(1))))
    [[0, 2], [1]]
    """
    order = sorted(range(len(lengths)), key=lambda place: sum(lengths[place]) * rng.uniform(0.9, 1.1))
    done: list[list[int]] = []
    batch: list[int] = []
    longest = 0
    for place in order:
        longer = max(longest, *lengths[place])
        if batch and longer * (len(batch) + 1) > max_tokens:
            done.append(batch)
            batch, longer = [], max(lengths[place])
        batch.append(place)
        longest = longer
    if batch:
        done.append(batch)
    rng.shuffle(done)
    return done
