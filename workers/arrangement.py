"""Drafts to chunks: grouped by model and parameters, equal inputs computed once, neighbours of similar length."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from db.chunks import NewChunk
from db.intake import NewItem
from workers.drafts import Draft
from workers.effective import Setup
from workers.planning import MAX_CHUNK_ITEMS, plan


def arrange(drafts: Sequence[Draft], chunk_tokens: Callable[[str], int]) -> tuple[list[NewChunk], Iterator[NewItem]]:
    """The chunks of a window, and its items, which name their chunk by its place in that list.

    `chunk_tokens` says how much of a model's work a chunk should be. Copies of an output cost as many inputs.
    """
    twin_of = _twins(drafts)
    groups: dict[Setup, list[int]] = {}
    for place, draft in enumerate(drafts):
        if draft.setup is not None and place not in twin_of:
            groups.setdefault(draft.setup, []).append(place)
    twins: dict[int, int] = {}
    for first in twin_of.values():
        twins[first] = twins.get(first, 0) + 1
    chunks: list[NewChunk] = []
    chunk_of: dict[int, int] = {}
    for setup, places in groups.items():
        costs = [drafts[place].tokens * setup.copies for place in places]
        for members in plan(costs, MAX_CHUNK_ITEMS, chunk_tokens(setup.model)):
            mine = [places[member] for member in members]
            chunk_of |= dict.fromkeys(mine, len(chunks))
            items = len(mine) + sum(twins.get(place, 0) for place in mine)
            tokens = sum(costs[member] for member in members)
            chunks.append(NewChunk(setup.model, msgspec.json.decode(setup.params), items, tokens))
    chunk_of |= {place: chunk_of[first] for place, first in twin_of.items()}
    return chunks, _items(drafts, chunk_of, twin_of)


def _twins(drafts: Sequence[Draft]) -> dict[int, int]:
    """Which draft can share the output of which earlier one; sampled outputs are never shared."""
    first_of: dict[tuple[Setup, str | bytes], int] = {}
    twin_of: dict[int, int] = {}
    for place, draft in enumerate(drafts):
        if draft.setup is None or draft.setup.is_sampled:
            continue
        assert draft.line.input is not None
        first = first_of.setdefault((draft.setup, _content(draft.line.input.body)), place)
        if first != place:
            twin_of[place] = first
    return twin_of


def _items(drafts: Sequence[Draft], chunk_of: dict[int, int], twin_of: dict[int, int]) -> Iterator[NewItem]:
    """One at a time: a window of items beside its drafts would be twice the memory."""
    for place, draft in enumerate(drafts):
        yield NewItem(
            idx=draft.idx,
            custom_id=draft.custom_id,
            line=draft.line.number,
            input=draft.line.input.body if draft.line.input else {"raw": draft.line.raw},
            extra=draft.line.extra,
            input_tokens=draft.tokens,
            chunk=chunk_of.get(place),
            same_as=drafts[twin_of[place]].idx if place in twin_of else None,
            reference=draft.line.input.reference if draft.line.input else None,
        )


def _content(body: dict[str, Any]) -> str | bytes:
    """What makes two inputs equal, whatever form their answers are wanted in: the text itself, or all of it as bytes.

    No text is equal to bytes, and no list of texts to a list of messages.
    """
    if "text" in body:
        text: str = body["text"]
        return text
    return msgspec.json.encode(body["messages"] if "messages" in body else body["texts"], order="deterministic")
