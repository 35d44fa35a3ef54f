"""A few items with what each model made of them, drawn by chance and not picked."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.evaluation.references import Item
from training.markdown import escaped, table

# A longer text is cut where it is shown, not where it is drawn: report.json has it whole.
SHOWN = 600


@dataclass(frozen=True, slots=True)
class Example:
    """The item at `place`, counted from 0, and each model's output."""

    place: int
    source: str
    references: tuple[str, ...]
    outputs: Mapping[str, str]


def drawn(items: Sequence[Item], outputs: Mapping[str, Sequence[str]], count: int, seed: int) -> list[Example]:
    """`count` items, or all if there are fewer, in their order; seed and number of items alone say which."""
    places = sorted(random.Random(seed).sample(range(len(items)), min(count, len(items))))
    return [
        Example(place, items[place].source, items[place].references, {name: of[place] for name, of in outputs.items()})
        for place in places
    ]


def markdown(examples: Sequence[Example], total: int) -> str:
    """A table for each. Nothing in a text is taken for markup."""
    drawn_from = f"Drawn by chance from {total:,} items, not picked."
    return "\n\n".join([drawn_from, *map(_one, examples)])


def _one(example: Example) -> str:
    rows = [["source", _shown(example.source)]]
    rows += [["reference", _shown(text)] for text in example.references]
    rows += [[name, _shown(text)] for name, text in example.outputs.items()]
    return table([f"item {example.place + 1}", ""], rows, left=2)


def _shown(text: str) -> str:
    left = len(text) - SHOWN
    return escaped(text) if left <= 0 else f"{escaped(text[:SHOWN])} *… and {left:,} characters more*"
