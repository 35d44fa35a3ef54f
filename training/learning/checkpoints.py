"""What a run can be taken up from: weights, optimizer, place in the data; the last ones are kept to be averaged."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.learning.optimizers import Optimizer

# Of which the average is made.
KEPT = 4


@dataclass(slots=True)
class Progress:
    """Where a run is. `batch` counts those of the epoch that are done; `decay_from` is the step the decay began at."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    decay_from: int | None = None


class Checkpoints:
    """The newest state in full, and the weights alone of the last few."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_begun(self) -> bool:
        """Whether there is a state to go on from."""
        return (self._folder / "last.pt").exists()

    def save(self, model: torch.nn.Module, optimizer: Optimizer, progress: Progress) -> None:
        weights = model.state_dict()
        state = {
            "model": weights,
            "optimizer": optimizer.state_dict(),
            "progress": {name: getattr(progress, name) for name in Progress.__slots__},
        }
        _write(state, self._folder / "last.pt")
        # Not in bfloat16: an average would not make up for what that rounds away.
        _write(weights, self._folder / f"step-{progress.step:07d}.pt")
        for old in self.steps()[:-KEPT]:
            old.unlink()

    def load(self, model: torch.nn.Module, optimizer: Optimizer) -> Progress | None:
        """Put the newest state back; None if there is none."""
        if not self.is_begun:
            return None
        state: dict[str, Any] = torch.load(self._folder / "last.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])

    def steps(self) -> list[Path]:
        """The weights that are kept, oldest first."""
        return sorted(self._folder.glob("step-*.pt"))


def average(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of some checkpoints' weights (Vaswani et al. 2017, section 6.1), in single precision."""
    total: dict[str, torch.Tensor] = {}
    for path in paths:
        for name, value in torch.load(path, map_location="cpu", weights_only=True).items():
            total[name] = total[name] + value.float() if name in total else value.float()
    return {name: value / len(paths) for name, value in total.items()}


def _write(state: object, path: Path) -> None:
    """Whole or not at all: a run may be killed at any time."""
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, path)
