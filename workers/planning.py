"""Which items go together: lengths to chunks for a worker, lengths to batches for a device. Pure."""

from collections.abc import Sequence

# A chunk is about this much work (seconds), so that leases stay short and priorities bite soon.
CHUNK_SECONDS = 3.0
# Before a model's speed is known, assume one at which this many tokens take CHUNK_SECONDS.
UNMEASURED_CHUNK_TOKENS = 4_000
MIN_CHUNK_TOKENS = 500
MAX_CHUNK_TOKENS = 200_000
MAX_CHUNK_ITEMS = 2_000
# A worker gives the engine a chunk in slices of about this much work, and stops between two slices
# when the chunk turns out to be much longer than it was meant to be.
SLICE_SECONDS = 4.0
CHUNK_PATIENCE_SECONDS = 10.0
UNMEASURED_SLICE_TOKENS = 500


def slices(lengths: Sequence[int], seconds_per_token: float | None) -> list[list[int]]:
    """Cut a chunk by this worker's own pace, longest items first.

    Chunks are planned from the pace of the model's workers together, or from none at all; a slower
    worker, or a model's first, must not sit on one for minutes.

    >>> slices([200, 400], None)
    [[1], [0]]
    >>> slices([200, 400], 0.001)
    [[1, 0]]
    """
    budget = UNMEASURED_SLICE_TOKENS if seconds_per_token is None else int(SLICE_SECONDS / seconds_per_token)
    return plan(lengths, max_items=len(lengths) or 1, max_tokens=max(1, budget))


def chunk_budget(tokens_per_second: float | None, output_per_input: float | None) -> int:
    """Input tokens that make a chunk of about CHUNK_SECONDS.

    >>> chunk_budget(None, None)
    4000
    >>> chunk_budget(2_000.0, 1.0)
    3000
    """
    if tokens_per_second is None or output_per_input is None:
        return UNMEASURED_CHUNK_TOKENS
    budget = tokens_per_second * CHUNK_SECONDS / (1 + output_per_input)
    return int(min(MAX_CHUNK_TOKENS, max(MIN_CHUNK_TOKENS, budget)))


def plan(lengths: Sequence[int], max_items: int, max_tokens: int) -> list[list[int]]:
    """Group item indices into chunks or batches, longest first.

    A group costs its longest item times its size, because every shorter item is padded up to it;
    sorting by length first is what keeps that padding small. An item too long for `max_tokens`
    still gets a group of its own: refusing it is the caller's business.

    >>> plan([3, 9, 3], max_items=8, max_tokens=9)
    [[1], [0, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    groups: list[list[int]] = []
    longest = 0
    for place in order:
        full = groups and (len(groups[-1]) >= max_items or longest * (len(groups[-1]) + 1) > max_tokens)
        if not groups or full:
            groups.append([])
            longest = lengths[place]
        groups[-1].append(place)
    return groups
