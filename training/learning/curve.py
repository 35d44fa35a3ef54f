"""How a run's scores go: a file of JSON lines, and how long ago the best of them was."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.learning.checkpoints import Progress

RUNNING = "running"


class Curve:
    """Lines are `running`, `last` or `average` with scores, and `decay` with why it begins."""

    def __init__(self, path: Path, step: int) -> None:
        """A run that is taken up at `step` remembers what came before, and not what it had done after it."""
        self._path = path
        self._means: dict[int, float] = {}
        if path.exists():
            for line in path.read_text("utf-8").splitlines():
                self._remember(json.loads(line), step)

    @property
    def since_best(self) -> int:
        """How many validations there were after the one with the best mean score."""
        means = list(self._means.values())
        return len(means) - 1 - means.index(max(means)) if means else 0

    def add(self, what: str, progress: Progress, scores: Sequence[float] = (), **facts: object) -> None:
        """Write a line; scores are those of the validation files, higher is better."""
        said: dict[str, Any] = {"what": what, **{name: getattr(progress, name) for name in Progress.__slots__}}
        if scores:
            said["scores"] = list(scores)
        self._remember(said, progress.step)
        if what == RUNNING:
            said["since_best"] = self.since_best
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**said, **facts}) + "\n")

    def _remember(self, said: dict[str, Any], step: int) -> None:
        if said["what"] == RUNNING and said["step"] <= step:
            # What was done twice counts once, as it came out the last time.
            self._means[said["step"]] = sum(said["scores"]) / len(said["scores"])
