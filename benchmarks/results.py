"""Results that are kept: a JSON file for each benchmark, read again by who compares with them."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine

FOLDER = Path(__file__).resolve().parent / "results"
PACKAGES = ("ctranslate2", "torch", "transformers", "sentencepiece", "sacrebleu", "celery", "psycopg", "gunicorn")


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of a benchmark found.

    `figures` are the medians and ratios worth comparing, by a name that says what and at which size; `rounds` is
    everything measured, as the benchmark likes to write it.
    """

    name: str
    date: str
    method: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    figures: Mapping[str, float]
    rounds: Any = field(default=None)

    @property
    def about(self) -> str:
        """The line above a table."""
        one = self.machine
        return f"{self.date}; {one['processor']}, {one['cpus']} CPUs, load {one['load_before']} before"


def found(
    name: str,
    method: str | None,
    before: Mapping[str, Any],
    settings: Mapping[str, Any],
    figures: Mapping[str, float],
    rounds: Any,
    packages: Iterable[str] = PACKAGES,
) -> Result:
    """A result of today; `before` is what `machine.facts` said before the run."""
    rounded = {key: float(f"{value:.6g}") for key, value in figures.items()}
    today = time.strftime("%Y-%m-%d")
    return Result(name, today, (method or "").strip(), before, machine.versions(packages), settings, rounded, rounds)


def write(result: Result, folder: Path = FOLDER) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{result.name}.json"
    path.write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    return path


def read(name: str, folder: Path = FOLDER) -> Result | None:
    """What was kept under the name; None if nothing was."""
    path = folder / f"{name}.json"
    return Result(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
