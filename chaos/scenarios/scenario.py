"""One story: a stack, a job, faults, a row of the table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos.report import Row


@dataclass(frozen=True, slots=True)
class Terms:
    """How a scenario is to be run. `is_quick`: as small as it can be and still say something."""

    folder: Path
    seed: int
    is_quick: bool

    def size(self, whole: int, quick: int) -> int:
        return quick if self.is_quick else whole


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    run: Callable[[Terms], Row]
