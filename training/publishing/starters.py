"""Which models the project publishes figures of, and on which files: starters.toml."""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.registry import Registry
from models.spec import Tier
from training.errors import BadSettings

SECTIONS = ("translation", "summarization", "generation")


@dataclass(frozen=True, slots=True)
class Group:
    """Models that are measured together on one file.

    They are the `family`'s members, best first, and `models`, which may be written as `bushel models evaluate` takes
    them; the first is whom the others are compared with. Files are relative to the data folder: `data` for the
    figures, `examples` for the examples on the cards. `options` are further words for evaluate.
    """

    name: str
    section: str
    title: str
    data: str
    family: str | None = None
    models: tuple[str, ...] = ()
    examples: str | None = None
    source: str | None = None
    reference: tuple[str, ...] = ()
    parallel: tuple[str, ...] = ()
    ngrams: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    note: str = ""

    def members(self, registry: Registry) -> list[str]:
        """Empty if the registry has no such family, and no others are named."""
        found = [spec for spec in registry.all() if self.family is not None and spec.family == self.family]
        ranked = sorted(found, key=lambda spec: list(Tier).index(spec.tier) if spec.tier else len(Tier))
        return [*(spec.name for spec in ranked), *self.models]


def load(path: Path) -> list[Group]:
    """The groups of a file; BadSettings for what it must not hold."""
    try:
        said = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise BadSettings(f"{path} cannot be read: {exc}") from exc
    groups = [_group(path, each) for each in said.get("groups", ())]
    names = [group.name for group in groups]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BadSettings(f"{path}: {', '.join(doubled)}: there twice")
    return groups


def chosen(groups: Sequence[Group], registry: Registry, models: Sequence[str]) -> list[tuple[Group, list[str]]]:
    """The groups that have models, and those; with `models`, the groups that have one of them."""
    found = [(group, group.members(registry)) for group in groups]
    if models and (unknown := set(models) - {_name(word) for _, words in found for word in words}):
        raise BadSettings(f"no group has {', '.join(sorted(unknown))}")
    return [
        (group, words)
        for group, words in found
        if words and (not models or {_name(each) for each in words} & set(models))
    ]


def _name(word: str) -> str:
    return word.partition("=")[0]


def _group(path: Path, said: Mapping[str, Any]) -> Group:
    known = {each.name: each for each in dataclasses.fields(Group)}
    name = said.get("name", "a group without a name")
    if unknown := said.keys() - known.keys():
        raise BadSettings(f"{path}: {name}: unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    try:
        group = Group(**values)
    except TypeError as exc:
        raise BadSettings(f"{path}: {name}: {exc}") from exc
    if group.section not in SECTIONS:
        raise BadSettings(f"{path}: {name}: section must be one of {', '.join(SECTIONS)}")
    return group
