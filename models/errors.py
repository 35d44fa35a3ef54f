"""What can be wrong with a registry, or with what is asked of it.

RegistryError
├── BadEntry         a file says something that cannot be; names file, table and key
├── UnknownModel     nothing has this name; lists what is near
├── NoDefaultModel   no model was named, and the task has no default
└── NoSuchTier       the model's family does not have this tier, or the model has no family
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from models.spec import Task, Tier


class RegistryError(Exception):
    """Root of what the registry raises."""


class BadEntry(RegistryError):
    """A registry file that cannot be used as it is."""

    def __init__(self, file: Path, table: str, key: str, expected: str) -> None:
        where = ": ".join(part for part in (str(file), f"[{table}]" if table else "", key) if part)
        super().__init__(f"{where}: {expected}")
        self.file, self.table, self.key, self.expected = file, table, key, expected


class UnknownModel(RegistryError):
    """No model has this name; `tiers` are those of the family that is called so, if one is."""

    def __init__(self, name: str, known: Iterable[str], tiers: Sequence[Tier] = ()) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        if tiers:
            near = []
            advice = f"it is a family: say which `tier` of it, {' or '.join(tiers)}"
        elif near:
            advice = f"did you mean {' or '.join(near)}?"
        elif known:
            advice = f"there are: {', '.join(known)}"
        else:
            advice = "the registry is empty; add one with `bushel models add`"
        super().__init__(f"there is no model {name!r}; {advice}")
        self.name, self.near = name, tuple(near)


class NoDefaultModel(RegistryError):
    """The task has no default model."""

    def __init__(self, task: Task, candidates: Iterable[str]) -> None:
        candidates = sorted(candidates)
        if candidates:
            advice = f"name one of: {', '.join(candidates)}; or set `default = true` in the entry of one of them"
        else:
            advice = (
                f"no model does {task} yet; add one with `bushel models add NAME --task {task} --source … --default`"
            )
        super().__init__(f"{task} has no default model; {advice}")
        self.task, self.candidates = task, tuple(candidates)


class NoSuchTier(RegistryError):
    """A tier was asked for that is not there. `families` are those that could have been named, with their tiers."""

    def __init__(self, tier: Tier, model: str, family: str | None, families: Mapping[str, Sequence[Tier]]) -> None:
        if family is not None:
            message = f"the family {family} has no `tier` {tier}; it has {', '.join(families[family])}"
        else:
            listed = "; ".join(f"{name} ({', '.join(tiers)})" for name, tiers in sorted(families.items()))
            advice = (
                f"leave `tier` out or name one of these families as `model`: {listed}" if listed else "leave it out"
            )
            message = f"model {model} has no `tier` {tier}, nor any other; {advice}"
        super().__init__(message)
        self.tier, self.model, self.family = tier, model, family
