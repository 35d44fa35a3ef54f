"""A registry file as tables by name, before anything is made of them."""

import tomllib
from collections.abc import Iterable
from pathlib import Path

from models.errors import BadEntry
from models.spec import ModelSpec, Task, Tier


def one_default_each(path: Path, specs: Iterable[ModelSpec]) -> None:
    """A file that has two defaults for a task contradicts itself."""
    first: dict[Task, str] = {}
    for spec in specs:
        if spec.default and first.setdefault(spec.task, spec.name) != spec.name:
            expected = f"{spec.task} already has {first[spec.task]} as its default"
            raise BadEntry(path, f"models.{spec.name}", "default", expected)


def one_model_each_tier(entries: Iterable[tuple[Path, ModelSpec]]) -> None:
    """A tier of a family is one model, and a family does one task. What contradicts an earlier entry is told."""
    first: dict[str, ModelSpec] = {}
    taken: dict[tuple[str, Tier], str] = {}
    for path, spec in entries:
        if spec.family is None or spec.tier is None:
            continue
        table = f"models.{spec.name}"
        known = first.setdefault(spec.family, spec)
        if known.task is not spec.task:
            expected = f"{spec.family} does {known.task} already ({known.name}), and this one {spec.task}; name another"
            raise BadEntry(path, table, "family", expected)
        other = taken.setdefault((spec.family, spec.tier), spec.name)
        if other != spec.name:
            advice = f"name another tier or family, or call the entry {other} to replace it"
            raise BadEntry(path, table, "tier", f"{spec.family} already has {other} as its {spec.tier}; {advice}")


def text_of(path: Path) -> str:
    """The file; BadEntry if it is not text."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as exc:
        raise BadEntry(path, "", "", f"the file must be UTF-8 text ({exc})") from exc
    except OSError as exc:
        raise BadEntry(path, "", "", f"the file cannot be read ({exc.strerror})") from exc


def entries_of(path: Path, text: str) -> dict[str, object]:
    """The tables of the file by the names of the models, not yet looked into."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise BadEntry(path, "", "", f"not valid TOML: {exc}") from exc
    for key in document:
        if key != "models":
            raise BadEntry(path, "", key, "unknown; a registry file has tables [models.NAME] and nothing else")
    models = document.get("models", {})
    if not isinstance(models, dict):
        raise BadEntry(path, "", "models", "must be tables [models.NAME]")
    return models
