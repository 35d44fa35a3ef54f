"""Drafts to chunks: grouped by model and parameters, equal inputs computed once, neighbours of similar length."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from db.chunks import NewChunk
from db.intake import NewItem
from workers.contents import content
from workers.drafts import Draft
from workers.effective import Setup
from workers.planning import MAX_CHUNK_ITEMS, plan
from workers.seen import Seen


@dataclass(slots=True)
class _Twins:
    """Drafts that share the output of an equal one: by place in the window, or by index in what was written before."""

    here: dict[int, int] = field(default_factory=dict)
    before: dict[int, int] = field(default_factory=dict)

    def same_as(self, place: int, drafts: Sequence[Draft]) -> int | None:
        """The index of the input that is computed for the one at `place`."""
        return drafts[self.here[place]].idx if place in self.here else self.before.get(place)


def arrange(
    drafts: Sequence[Draft], chunk_tokens: Callable[[str], int], seen: Seen
) -> tuple[list[NewChunk], Iterator[NewItem]]:
    """The chunks of a window, and its items, which name their chunk by its place in that list.

    `chunk_tokens` says how much of a model's work a chunk should be. Copies of an output cost as many inputs. Inputs
    that are equal to what was `seen` in an earlier window have chunks of their own, which come last.
    """
    twins = _twins(drafts, seen)
    followers = Counter(twins.here.values())
    chunks: list[NewChunk] = []
    chunk_of: dict[int, int] = {}
    own = (place for place, draft in enumerate(drafts) if place not in twins.here and place not in twins.before)
    for setup, mine, tokens in _cut(drafts, own, chunk_tokens):
        chunk_of |= dict.fromkeys(mine, len(chunks))
        items = len(mine) + sum(followers[place] for place in mine)
        chunks.append(NewChunk(setup.model, msgspec.json.decode(setup.params), items, tokens))
    chunk_of |= {place: chunk_of[first] for place, first in twins.here.items()}
    # As large as if they were to be computed, because some may have to be, and outputs take memory either way.
    for setup, mine, _ in _cut(drafts, twins.before, chunk_tokens):
        chunk_of |= dict.fromkeys(mine, len(chunks))
        chunks.append(NewChunk(setup.model, msgspec.json.decode(setup.params), len(mine), 0, of_twins=True))
    return chunks, _items(drafts, chunk_of, twins)


def _cut(
    drafts: Sequence[Draft], places: Iterable[int], chunk_tokens: Callable[[str], int]
) -> Iterator[tuple[Setup, list[int], int]]:
    """The places of those drafts that are to run, chunk by chunk, with what they have in common and what they cost."""
    groups: dict[Setup, list[int]] = {}
    for place in places:
        if (setup := drafts[place].setup) is not None:
            groups.setdefault(setup, []).append(place)
    for setup, group in groups.items():
        costs = [drafts[place].tokens * setup.copies for place in group]
        for members in plan(costs, MAX_CHUNK_ITEMS, chunk_tokens(setup.model)):
            yield setup, [group[member] for member in members], sum(costs[member] for member in members)


def _twins(drafts: Sequence[Draft], seen: Seen) -> _Twins:
    """Which draft can share the output of which earlier one; sampled outputs are never shared."""
    twins = _Twins()
    firsts: dict[Setup, dict[str | bytes, int]] = {}
    before = None
    for place, draft in enumerate(drafts):
        setup = draft.setup
        if setup is None or setup.is_sampled:
            continue
        if setup is not before:
            # Mostly it is the same for all, and making its hash is dear.
            before, alike = setup, firsts.setdefault(setup, {})
        assert draft.line.input is not None
        first = alike.setdefault(content(draft.line.input.body), place)
        if first != place:
            twins.here[place] = first
    for setup, alike in firsts.items():
        twins.before |= seen.firsts(alike, drafts[0].idx, (setup.model, setup.params))
    # Those of one that is a twin itself are twins of the same.
    for place in [place for place, first in twins.here.items() if first in twins.before]:
        twins.before[place] = twins.before[twins.here.pop(place)]
    return twins


def _items(drafts: Sequence[Draft], chunk_of: dict[int, int], twins: _Twins) -> Iterator[NewItem]:
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
            same_as=twins.same_as(place, drafts),
            reference=draft.line.input.reference if draft.line.input else None,
        )
