"""Which prompts go to the device together. Pure: lengths in, index lists out."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_PROMPTS = 512


def token_batches(
    lengths: Sequence[int], budget: int, spread: int | None = None, most: int = MAX_PROMPTS
) -> list[list[int]]:
    """Indices by length, longest first, in batches of at most `budget` padded tokens and `most` prompts.

    A batch costs its longest prompt times its size. A prompt beyond the budget goes alone. With `spread`, the
    lengths within a batch differ by no more than that.

    >>> token_batches([3, 9, 3], 9)
    [[1], [0, 2]]
    >>> token_batches([4, 5, 4], 100, spread=0)
    [[1], [0, 2]]
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        size = len(batches[-1]) if batches else 0
        is_full = size >= most or longest * (size + 1) > budget
        if not batches or is_full or (spread is not None and longest - lengths[index] > spread):
            batches.append([])
            longest = max(lengths[index], 1)
        batches[-1].append(index)
    return batches


@dataclass(slots=True)
class Budget:
    """The padded tokens a batch may have, which shrinks when the device runs out of memory."""

    tokens: int
    failed_prompts: int | None = None
    failed_tokens: int | None = None

    def note_failure(self, prompts: int, tokens: int) -> None:
        """Remember the batch that did not fit, so that half of *it* is tried next, however small it was."""
        self.failed_prompts, self.failed_tokens = prompts, tokens

    def shrink(self) -> bool:
        """Halve; False when the batch that failed was one prompt already."""
        if self.failed_prompts == 1 or self.tokens <= 1:
            return False
        self.tokens = max(1, min(self.tokens, self.failed_tokens or self.tokens) // 2)
        self.failed_prompts = self.failed_tokens = None
        return True
