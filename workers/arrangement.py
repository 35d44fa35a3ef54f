"""Drafts to chunks: grouped by parameters, equal inputs computed once, neighbours of similar length."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from db.chunks import NewChunk
from db.intake import NewItem
from workers.drafts import Draft
from workers.planning import MAX_CHUNK_ITEMS, plan


def arrange(drafts: Sequence[Draft], model: str, chunk_tokens: int) -> tuple[list[NewChunk], Iterator[NewItem]]:
    """The chunks of a window, and its items, which name their chunk by its place in that list."""
    twin_of = _twins(drafts)
    groups: dict[str, list[int]] = {}
    for place, draft in enumerate(drafts):
        if draft.params is not None and place not in twin_of:
            groups.setdefault(draft.params, []).append(place)
    copies: dict[int, int] = {}
    for first in twin_of.values():
        copies[first] = copies.get(first, 0) + 1
    chunks: list[NewChunk] = []
    chunk_of: dict[int, int] = {}
    for params, places in groups.items():
        lengths = [drafts[place].tokens for place in places]
        for members in plan(lengths, MAX_CHUNK_ITEMS, chunk_tokens):
            mine = [places[member] for member in members]
            chunk_of |= dict.fromkeys(mine, len(chunks))
            items = len(mine) + sum(copies.get(place, 0) for place in mine)
            tokens = sum(drafts[place].tokens for place in mine)
            chunks.append(NewChunk(model, msgspec.json.decode(params), items, tokens))
    chunk_of |= {place: chunk_of[first] for place, first in twin_of.items()}
    return chunks, _items(drafts, chunk_of, twin_of)


def _twins(drafts: Sequence[Draft]) -> dict[int, int]:
    """Which draft can share the output of which earlier one; sampled outputs are never shared."""
    first_of: dict[tuple[str, str | bytes], int] = {}
    twin_of: dict[int, int] = {}
    for place, draft in enumerate(drafts):
        if draft.params is None or _is_sampled(draft.params):
            continue
        assert draft.line.input is not None
        first = first_of.setdefault((draft.params, _content(draft.line.input.body)), place)
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
        )


@lru_cache(maxsize=1_024)
def _is_sampled(params: str) -> bool:
    return bool(msgspec.json.decode(params).get("temperature"))


def _content(body: dict[str, Any]) -> str | bytes:
    """What makes two inputs equal: the text itself, or the messages as bytes, which no text is equal to."""
    if "messages" in body:
        return msgspec.json.encode(body, order="deterministic")
    text: str = body["text"]
    return text
