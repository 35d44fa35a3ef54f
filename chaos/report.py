"""The table: what was done to the service, and what it cost."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.tables import markdown


@dataclass
class Row:
    """One scenario. `problems` empty: met. `skipped` says why it was not run."""

    name: str
    faults: int = 0
    items: int = 0
    lost: int = 0
    doubled: int = 0
    unexpected: int = 0
    redone: int = 0
    redone_allowed: int | None = None
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: str | None = None

    @property
    def verdict(self) -> str:
        if self.skipped is not None:
            return "SKIPPED"
        return "NOT MET" if self.problems else "met"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


def table(rows: Sequence[Row]) -> str:
    header = ["scenario", "faults", "items", "lost", "doubled", "wrong", "redone", "allowed", "median s", "worst s"]
    return markdown([*header, "took s", "verdict"], [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    seconds = [each for some in row.recoveries.values() for each in some]
    median, worst = (f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}") if seconds else ("", "")
    allowed = "" if row.redone_allowed is None else f"{row.redone_allowed:,}"
    numbers = (row.faults, row.items, row.lost, row.doubled, row.unexpected, row.redone)
    return [row.name, *(f"{number:,}" for number in numbers), allowed, median, worst, f"{row.seconds:.0f}", row.verdict]


def recovery_table(rows: Sequence[Row]) -> str:
    """Time to recover by fault, over all scenarios."""
    by_fault: dict[str, list[float]] = {}
    for row in rows:
        for fault, seconds in row.recoveries.items():
            by_fault.setdefault(fault, []).extend(seconds)
    cells = [
        [fault, str(len(seconds)), f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"]
        for fault, seconds in sorted(by_fault.items())
    ]
    return markdown(["time to recover from", "times", "median s", "worst s"], cells) if cells else ""


def remarks(rows: Sequence[Row]) -> list[str]:
    said = [f"{row.name}: SKIPPED: {row.skipped}" for row in rows if row.skipped is not None]
    said += [f"{row.name}: NOT MET: {problem}" for row in rows for problem in row.problems]
    return said + [f"{row.name}: {note}" for row in rows for note in row.notes]
