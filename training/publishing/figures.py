"""What one evaluation has found of a group's models, as far as the page and the cards show it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.evaluation.report import NAMES
from training.markdown import table
from training.publishing.starters import Group


@dataclass(frozen=True, slots=True)
class Row:
    """A model's cells by the names of the columns; a floor's are of outputs that were made without a model."""

    name: str
    cells: Mapping[str, str]
    is_floor: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """A group with its report's folder; the first row is the one that others are compared with."""

    group: Group
    folder: Path
    items: int
    machine: str
    command: Sequence[str]
    rows: Sequence[Row]

    @classmethod
    def read(cls, group: Group, folder: Path) -> "Figures":
        """From the folder that an evaluation has written."""
        said = json.loads((folder / "report.json").read_text("utf-8"))
        record = json.loads((folder / "record.json").read_text("utf-8"))
        rows = [Row(each["name"], _cells(each, said)) for each in said["findings"]]
        rows += [Row(each["name"], _scores(each, said), is_floor=True) for each in said["floors"]]
        # How busy it was when the file was written says nothing of figures that were taken before.
        machine = said["machine"].partition(", load")[0]
        return cls(group, folder, said["items"], machine, record["command"], rows)

    def table(self, names: Sequence[str] | None = None) -> str:
        """Markdown; of the named models and the floors, if any are named. A column without figures is left out."""
        rows = [row for row in self.rows if names is None or row.name in names or row.is_floor]
        columns = list(dict.fromkeys(column for row in rows for column, cell in row.cells.items() if cell))
        return table(["model", *columns], [[row.name, *(row.cells.get(each, "") for each in columns)] for row in rows])


def _cells(said: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, str]:
    cells: dict[str, str] = {}
    is_judged_by_perplexity = said["baseline"] is not None
    if not is_judged_by_perplexity and said["scores"]:
        first = report["shown"][0]
        cells |= _scores(said, report)
        for other in (report["baseline"], *(floor["name"] for floor in report["floors"])):
            cells[f"{NAMES[first]} against {other}"] = _against(said["name"], other, first, report)
    if is_judged_by_perplexity and said["perplexity"] is not None:
        cells["perplexity"] = _perplexity(said["perplexity"])
        cells["3-gram model"] = _perplexity(said["baseline"])
        if (bits := said["perplexity"]["bits_per_byte"]) is not None:
            cells["bits/byte"] = f"{bits:.3f}"
    agreement = said["agreement"]
    cells["chrF to twin"] = f"{agreement['chrf']:.1f}" if agreement else ""
    speed = said["speed"]["items_per_second"]
    usual = next(each for each in report["findings"] if each["name"] == report["baseline"])
    cells["items/s"] = f"{speed:,.1f}"
    cells["times as fast"] = f"{speed / usual['speed']['items_per_second']:.2f}"
    cells["as run"] = f"{said['engine_bytes'] / 1e6:,.1f} MB"
    cells["peak memory"] = f"{said['peak_bytes'] / 1e6:,.0f} MB"
    return cells


def _scores(said: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, str]:
    return {NAMES[name]: _scored(said["scores"][name]) for name in report["shown"] if name in said["scores"]}


def _scored(said: Mapping[str, Any]) -> str:
    return f"{said['score']:.1f} ({said['interval']['low']:.1f} - {said['interval']['high']:.1f})"


def _perplexity(said: Mapping[str, Any]) -> str:
    # The report writes infinity as null.
    value = said["perplexity"]
    return "infinite" if value is None else f"{value:,.2f}"


def _against(name: str, other: str, metric: str, report: Mapping[str, Any]) -> str:
    found = [each for each in report["compared"] if (each["model"], each["other"]) == (name, other)]
    if not found:
        return ""
    said = found[0]["differences"][metric]
    low, high = said["interval"]["low"], said["interval"]["high"]
    return f"{said['difference']:+.2f} ({low:+.2f} - {high:+.2f})"
