"""What can be wrong with a registry, or with what is asked of it.

RegistryError
├── BadEntry         a file says something that cannot be; names file, table and key
├── UnknownModel     nothing has this name; lists what is near
└── NoDefaultModel   no model was named, and the task has no default
"""

import difflib
from collections.abc import Iterable
from pathlib import Path

from models.spec import Task


class RegistryError(Exception):
    """Root of what the registry raises."""


class BadEntry(RegistryError):
    """A registry file that cannot be used as it is."""

    def __init__(self, file: Path, table: str, key: str, expected: str) -> None:
        where = ": ".join(part for part in (str(file), f"[{table}]" if table else "", key) if part)
        super().__init__(f"{where}: {expected}")
        self.file, self.table, self.key, self.expected = file, table, key, expected


class UnknownModel(RegistryError):
    """No model has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        if near:
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
