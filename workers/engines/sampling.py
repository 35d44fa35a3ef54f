"""Changes to the odds of the next token that do not depend on what else is in the batch."""

import hashlib
import secrets
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from workers.engines.base import Encoded


class OutputOnly(LogitsProcessor):
    """Lets a penalty see the new tokens alone.

    transformers would count the prompt too, and with it the padding before it: an item's output would depend on how
    much longer its neighbours are. CTranslate2 counts the output only, so that both engines mean the same.
    """

    def __init__(self, penalty: LogitsProcessor, start: int) -> None:
        self._penalty, self._start = penalty, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] <= self._start:
            return scores
        changed: torch.Tensor = self._penalty(input_ids[:, self._start :], scores)
        return changed


class SeededSampler(LogitsProcessor):
    """Samples by adding Gumbel noise, after which the best token is a fair draw from the distribution.

    Each row's noise depends on the seed, its own prompt and which copy of it this is, so that a sample can be
    repeated whatever else is in the batch - which torch's own sampling, with one generator for all rows, cannot offer.
    """

    def __init__(self, prompts: Sequence[Encoded], seed: int | None) -> None:
        self._generators = [torch.Generator().manual_seed(_row_seed(prompt, seed)) for prompt in prompts]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=each) for each in self._generators])
        # Away from 0 and 1, where the logarithms are infinite.
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return scores + noise.to(scores.device, scores.dtype)


def _row_seed(prompt: Encoded, seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(56)
    # The first copy is what a request without copies gets.
    row = tuple(int(token) for token in prompt.tokens)
    known = (seed, row, prompt.choice) if prompt.choice else (seed, row)
    return int.from_bytes(hashlib.sha256(repr(known).encode()).digest()[:7], "big")
