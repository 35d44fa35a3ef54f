"""What ends an output of transformers before its model does: a cancel, or a stop string."""

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria

from workers.engines.stops import has_stop, tail_length
from workers.engines.tokens import AutoTokens

# Asking may cost a lock or more, and a decoding step of a small model takes a millisecond.
POLL_SECONDS = 0.1


class Cancel(StoppingCriteria):
    """Ends every row as soon as the caller wants to stop, which it asks about at most ten times a second."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop
        self._next = 0.0
        self._is_wanted = False

    def is_wanted(self) -> bool:
        self._is_wanted = self._is_wanted or self._should_stop()
        return self._is_wanted

    def is_wanted_lately(self) -> bool:
        """As known a moment ago, which is cheap to ask at every step."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + POLL_SECONDS
            self.is_wanted()
        return self._is_wanted

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        wanted = self.is_wanted_lately()
        return torch.full((input_ids.shape[0],), wanted, dtype=torch.bool, device=input_ids.device)


class StopStrings(StoppingCriteria):
    """Ends a row whose output has a stop string, looking only at the tokens that could have completed it."""

    def __init__(self, stops: tuple[str, ...], tokens: AutoTokens, start: int) -> None:
        self._stops, self._tokens, self._start = stops, tokens, start
        self._tail = tail_length(stops)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        recent = input_ids[:, max(self._start, input_ids.shape[1] - self._tail) :].tolist()
        ended = [has_stop(text, self._stops) for text in self._tokens.decode(recent)]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)
