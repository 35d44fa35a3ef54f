"""Figures of today beside those that were kept: which are worse by more than noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.tables import markdown


@dataclass(frozen=True, slots=True)
class Judged:
    """How a figure is judged: `band` is the share by which it may be worse before it counts.

    One that belongs to a machine (`is_own`: seconds, rows a second) is only judged on the machine it was kept on; a
    ratio of two ways of one run is judged anywhere.
    """

    band: float
    is_lower_better: bool = False
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure as it was kept and as it is; `ratio` above one is better, whichever way the figure goes."""

    name: str
    kept: float
    now: float
    ratio: float
    band: float
    is_judged: bool

    @property
    def is_worse(self) -> bool:
        return self.is_judged and self.ratio < 1 - self.band


class NothingToCompare(ValueError):
    """The two runs have no figure in common."""


def compare(
    now: Mapping[str, float], kept: Mapping[str, float], rules: Mapping[str, Judged], is_same_machine: bool
) -> list[Compared]:
    """Every figure that both have and a rule names. NothingToCompare where there is none, for that is no success.

    >>> [one] = compare({"a": 9.0}, {"a": 10.0}, {"a": Judged(0.05)}, is_same_machine=False)
    >>> round(one.ratio, 2), one.is_worse
    (0.9, True)
    """
    names = [name for name in rules if name in now and name in kept]
    if not names:
        raise NothingToCompare("no figure of this run was kept before; keep these with --keep")
    found = []
    for name in names:
        rule = rules[name]
        better, other = (kept[name], now[name]) if rule.is_lower_better else (now[name], kept[name])
        ratio = better / other if other else float(better >= other)
        is_judged = is_same_machine or not rule.is_own
        found.append(Compared(name, kept[name], now[name], ratio, rule.band, is_judged))
    return found


def table(compared: Sequence[Compared]) -> str:
    """One row a figure, with a mark where it is worse by more than its band."""
    rows = [
        [one.name, f"{one.kept:,.4g}", f"{one.now:,.4g}", f"{one.ratio:.2f}", f"{one.band:.0%}", _mark(one)]
        for one in compared
    ]
    return markdown(["", "kept", "now", "now : kept, above 1 is better", "noise", ""], rows)


def _mark(one: Compared) -> str:
    if not one.is_judged:
        return "another machine, not judged"
    return "WORSE" if one.is_worse else "ok"
