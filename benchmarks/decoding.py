"""How outputs are searched for, the same for every way that is compared."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Decoding:
    """Beams and bounds of the output's length in tokens. With both bounds alike, nobody can stop earlier."""

    beams: int
    max_new_tokens: int
    min_new_tokens: int = 0
    length_penalty: float = 1.0

    @property
    def is_forced(self) -> bool:
        return self.min_new_tokens == self.max_new_tokens

    @property
    def name(self) -> str:
        return "greedy" if self.beams == 1 else f"beam {self.beams}"

    def params(self) -> dict[str, Any]:
        """As a job says it."""
        values: dict[str, Any] = {"num_beams": self.beams, "max_new_tokens": self.max_new_tokens}
        if self.min_new_tokens:
            values["min_new_tokens"] = self.min_new_tokens
        if self.beams > 1:
            values["length_penalty"] = self.length_penalty
        return values
