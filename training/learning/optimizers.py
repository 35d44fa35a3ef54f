"""What turns gradients into steps: AdamW for everything, or Muon for the matrices between embedding and output."""

from typing import Any

import torch

from training.recipe import Pace

_BETAS = (0.9, 0.98)


class MuonAndAdamW:
    """Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for embeddings, norms and biases.

    Muon's steps are scaled to be as large as AdamW's (Liu et al. 2025, arXiv 2502.16982), so one rate serves both.
    """

    def __init__(self, model: torch.nn.Module, pace: Pace) -> None:
        embeddings = {
            id(weight)
            for module in model.modules()
            if isinstance(module, torch.nn.Embedding)
            for weight in module.parameters()
        }
        trained = [each for each in model.parameters() if each.requires_grad]
        matrices = [each for each in trained if each.ndim == 2 and id(each) not in embeddings]
        taken = set(map(id, matrices))
        self._parts: tuple[torch.optim.Optimizer, torch.optim.Optimizer] = (
            torch.optim.Muon(matrices, lr=pace.rate, weight_decay=pace.weight_decay, adjust_lr_fn="match_rms_adamw"),
            _adamw([each for each in trained if id(each) not in taken], pace),
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts for group in part.param_groups]

    def step(self) -> None:
        for part in self._parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self._parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._parts[0].state_dict(), "adamw": self._parts[1].state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in zip(("muon", "adamw"), self._parts, strict=True):
            part.load_state_dict(state[name])


Optimizer = torch.optim.Optimizer | MuonAndAdamW


def optimizer_of(model: torch.nn.Module, pace: Pace) -> Optimizer:
    """The recipe's: adamw or muon."""
    if pace.optimizer == "muon":
        return MuonAndAdamW(model, pace)
    return _adamw([each for each in model.parameters() if each.requires_grad], pace)


def _adamw(parameters: list[torch.nn.Parameter], pace: Pace) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=pace.rate, betas=_BETAS, weight_decay=pace.weight_decay, fused=True)
