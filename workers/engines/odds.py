"""How likely each output token was, and which would have been likelier."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessor

from workers.engines.base import TokenLogprob
from workers.engines.spelling import Spelling


@dataclass(frozen=True, slots=True)
class RowOdds:
    """Of one output, token by token: its log-probability, and ids and log-probabilities of the likeliest."""

    chosen: list[float]
    top: list[list[int]]
    top_odds: list[list[float]]


class Odds(LogitsProcessor):
    """Looks at the model's own distribution, before anything bends it; changes nothing.

    Keeps only what is asked for of every step. transformers' `output_logits` would keep all of it: for a batch of 64
    and a vocabulary of 150,000, 38 MB a token.
    """

    def __init__(self, start: int, top: int) -> None:
        self._start, self._top = start, top
        self._last: torch.Tensor | None = None
        self._chosen: list[torch.Tensor] = []
        self._likeliest: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] >= self._start:
            self._note(input_ids[:, -1])
            self._last = scores.float().log_softmax(-1)
        return scores

    def rows(self, sequences: torch.Tensor) -> list[RowOdds]:
        """What was seen, once decoding has ended with these outputs."""
        self._note(sequences[:, -1])
        self._last = None
        chosen = torch.stack(self._chosen, 1).tolist()
        if not self._top:
            return [RowOdds(row, [[]] * len(row), [[]] * len(row)) for row in chosen]
        ids = torch.stack([ids for ids, _ in self._likeliest], 1).tolist()
        odds = torch.stack([odds for _, odds in self._likeliest], 1).tolist()
        return [RowOdds(*row) for row in zip(chosen, ids, odds, strict=True)]

    def _note(self, tokens: torch.Tensor) -> None:
        """Which tokens the last step has led to is known only at the next."""
        if self._last is None:
            return
        self._chosen.append(self._last.gather(-1, tokens.unsqueeze(-1)).squeeze(-1))
        if self._top:
            best = self._last.topk(min(self._top, self._last.shape[-1]))
            self._likeliest.append((best.indices, best.values))


def told(tokens: Sequence[int], odds: RowOdds, spelling: Spelling, text: str, visible: str) -> tuple[TokenLogprob, ...]:
    """The odds of an output's tokens, of which `text` was decoded and `visible` is left before a stop string.

    The bytes of the tokens are those of the text. Where a tokenizer drops the space before its first word, so does the
    first token; and tokens that lie wholly behind the cut are not told.
    """
    listed: list[TokenLogprob] = []
    left = len(visible.encode()) if visible != text else None
    for at, token in enumerate(tokens):
        if left is not None and left <= 0:
            break
        spelled = spelling.bytes_of(token)
        if not listed and spelled.startswith(b" ") and not text.startswith(" "):
            spelled = spelled[1:]
        name = spelling.name_of(token) if not spelled else spelled.decode("utf-8", "replace")
        top = tuple(
            TokenLogprob(spelling.name_of(other), spelling.bytes_of(other), odd)
            for other, odd in zip(odds.top[at], odds.top_odds[at], strict=True)
        )
        listed.append(TokenLogprob(name, spelled, odds.chosen[at], top))
        left = None if left is None else left - len(spelled)
    return tuple(listed)
