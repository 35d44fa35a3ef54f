"""docs/training.md lists the keys of recipes, all of them, with their defaults."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from training.pairs import Part
from training.recipe import OPTIMIZERS, CausalRecipe, CausalShape, FinetuneRecipe, Pace, Recipe, Shape
from training.texts import Source

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
NAMELESS = {"name", "train", "valid", "shape", "pace"}


def fields(*kinds: Any) -> dict[str, Any]:
    return {each.name: each.default for kind in kinds for each in dataclasses.fields(kind)}


def rows(heading: str) -> dict[str, list[str]]:
    """The cells behind the key, of every table below a line that begins so, up to the next such line."""
    part = re.split(r"^(?:## |`\[)", PAGE[PAGE.index(heading) + 2 :], maxsplit=1, flags=re.MULTILINE)[0]
    found: dict[str, list[str]] = {}
    for line in re.findall(r"^\| `.*$", part, re.MULTILINE):
        keys, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found |= {key: cells for key in re.findall(r"`(\w+)`", keys)}
    return found


@pytest.mark.parametrize(
    ("heading", "kinds"),
    [
        ("## Recipes", (Recipe, CausalRecipe, FinetuneRecipe)),
        ("`[[train]]`", (Part, Source)),
        ("`[shape]`", (Shape, CausalShape)),
        ("`[pace]`", (Pace,)),
    ],
)
def test_every_key_has_its_row_and_no_other_has(heading: str, kinds: tuple[Any, ...]) -> None:
    assert rows(heading).keys() == fields(*kinds).keys() - NAMELESS


def test_the_defaults_of_the_pace_are_the_codes() -> None:
    for names, default, *_ in re.findall(r"^\| (.*?) \| (.*?) \|", PAGE[PAGE.index("`[pace]`") :], re.MULTILINE):
        for name, said in zip(re.findall(r"`(\w+)`", names), default.split(", "), strict=False):
            assert str(fields(Pace)[name]) in {said, f"{said}.0"}


def test_both_optimizers_are_named() -> None:
    assert all(name in PAGE for name in OPTIMIZERS)
