"""Ways to do the same work, timed in turns."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.service import BenchmarkFailed

# Enough for every thread to have loaded what it needs, and over soon for the slowest way.
WARM_UP_LINES = 64


def nothing_to_check() -> None:
    """For a way whose outputs are all there is to check."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way from texts to texts. `places` are the lines that it is given: all, or a sample of them.

    `check` is called after each turn, outside of the time that counts, and raises BenchmarkFailed.
    """

    name: str
    places: Sequence[int]
    run: Callable[[list[str]], list[str]]
    check: Callable[[], None] = nothing_to_check


@dataclass(slots=True)
class Timed:
    """What a way took, a number a round, and what it said in the last one."""

    places: Sequence[int]
    seconds: list[float] = field(default_factory=list)
    outputs: dict[int, str] = field(default_factory=dict)

    @property
    def rates(self) -> list[float]:
        """Lines a second, a number a round."""
        return [len(self.places) / each for each in self.seconds]

    @property
    def rate(self) -> float:
        """Lines a second of the median round."""
        return len(self.places) / statistics.median(self.seconds)


def take_turns(
    ways: Sequence[Way], lines: Sequence[str], rounds: int, say: Callable[[str], None], warm_up: int = WARM_UP_LINES
) -> dict[str, Timed]:
    """Every way once a round, after a warm-up of each; a round begins with another way than the one before.

    So whatever else the machine does meets all of them. BenchmarkFailed when a line has no output.
    """
    found = {way.name: Timed(way.places) for way in ways}
    for way in ways:
        say(f"warming up: {way.name}")
        _outputs(way, [lines[place] for place in way.places[:warm_up]])
        way.check()
    for turn in range(rounds):
        for way in rotated(ways, turn):
            given = [lines[place] for place in way.places]
            began = time.perf_counter()
            outputs = _outputs(way, given)
            took = time.perf_counter() - began
            way.check()
            say(f"round {turn + 1} of {rounds}: {way.name} {took:.2f} s, {len(given) / took:,.0f} lines/s")
            found[way.name].seconds.append(took)
            found[way.name].outputs = dict(zip(way.places, outputs, strict=True))
    return found


def rotated(ways: Sequence[Way], turn: int) -> list[Way]:
    """The same ways, beginning with another one each turn."""
    start = turn % len(ways) if ways else 0
    return [*ways[start:], *ways[:start]]


def _outputs(way: Way, given: list[str]) -> list[str]:
    outputs = way.run(given)
    if len(outputs) != len(given):
        raise BenchmarkFailed(f"{way.name}: {len(outputs)} outputs for {len(given)} lines")
    return outputs


def spread(lengths: Sequence[int], count: int) -> list[int]:
    """So many places, evenly over the lengths, in the order of the lines: a sample is as long as the whole.

    >>> spread([9, 1, 5, 3, 7], 3)
    [0, 1, 2]
    >>> spread([1, 2], 5)
    [0, 1]
    """
    count = min(count, len(lengths))
    ordered = sorted(range(len(lengths)), key=lambda place: lengths[place])
    # The middle of each of as many equal parts.
    return sorted(ordered[(2 * part + 1) * len(ordered) // (2 * count)] for part in range(count))
