"""When to strike: at shares of the work, drawn from a seed, so that it is the same on a slow machine."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Strike:
    """`share` of the items are settled, then `delay` seconds pass, then `fault` happens."""

    share: float
    delay: float
    fault: str


def strikes(seed: int, faults: Sequence[str], count: int, longest_delay: float = 1.0) -> list[Strike]:
    """`count` strikes in order, every fault about as often as the others.

    >>> [strike.fault for strike in strikes(1, ["a", "b"], 4)] == [strike.fault for strike in strikes(1, ["a", "b"], 4)]
    True
    """
    chance = random.Random(seed)
    names = [faults[place % len(faults)] for place in range(count)]
    chance.shuffle(names)
    shares = sorted(chance.uniform(0.01, 0.95) for _ in range(count))
    return [Strike(share, chance.uniform(0, longest_delay), name) for share, name in zip(shares, names, strict=True)]
