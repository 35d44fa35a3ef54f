"""Which models are compared, as the command line says it: names of the registry, or `NAME=WHAT` with changes.

    translation-balanced                                           as the registry has it
    full=translation-balanced,quantization=float32                 the same with changes
    student=runs/student/model,engine=transformers                a folder; its task is the run's
    many=runs/many/model,prefix=>>{target_lang}<< ,target_languages=deu+fra

Changes are keys of a registry entry, and are judged as such; lists are written with `+`, and `defaults.num_beams=4` or
`options.inter_threads=2` reach into a table. A value can hold no comma.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.entry import read_entry
from models.registry import Registry, RegistryError
from models.spec import ModelSpec, Task
from training.errors import TrainingError

LISTS = ("source_languages", "target_languages")
TABLES = ("defaults", "options")
COUNTS = ("max_input_tokens", "max_output_tokens")
# Where a spec's texts come from in messages about them.
WHERE = "--models"


class BadContender(TrainingError):
    """A model cannot be compared as asked."""


def contenders(words: Sequence[str], registry: Registry, task: Task | None = None) -> list[ModelSpec]:
    """The models in the order asked for; all of one task, each name once."""
    specs = [_contender(word, registry, task) for word in words]
    names = [spec.name for spec in specs]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BadContender(f"{', '.join(doubled)}: named twice; call one of them something else (NAME=…)")
    tasks = {spec.task for spec in specs}
    if len(tasks) > 1:
        said = ", ".join(f"{spec.name} does {spec.task}" for spec in specs)
        raise BadContender(f"the models have different tasks, so that nothing can be compared: {said}")
    if Task.EMBEDDING in tasks:
        raise BadContender("embedding models write no text, so that there is nothing to compare with references")
    return specs


def _contender(word: str, registry: Registry, task: Task | None) -> ModelSpec:
    name, is_changed, rest = word.partition("=")
    if not is_changed:
        return _registered(name, registry)
    what, *changes = rest.split(",")
    folder = Path(what).expanduser()
    if folder.is_dir():
        if task is None and not any(change.startswith("task=") for change in changes):
            raise BadContender(f"{word}: a folder does not say what its model does; give --task")
        entry: dict[str, Any] = {"source": str(folder.resolve()), **({"task": str(task)} if task else {})}
    elif what in registry:
        entry = _entry(registry.get(what))
    else:
        raise BadContender(f"{word}: {what!r} is neither a folder nor a model of the registry")
    for change in changes:
        _apply(change, entry, word)
    try:
        return read_entry(Path.cwd() / WHERE, name, entry)
    except RegistryError as exc:
        raise BadContender(str(exc)) from exc


def _registered(name: str, registry: Registry) -> ModelSpec:
    try:
        return replace(registry.get(name), default=False)
    except RegistryError as exc:
        raise BadContender(f"{exc}; a folder is written NAME=FOLDER") from exc


def _entry(spec: ModelSpec) -> dict[str, Any]:
    """The spec as the table it could have been read from."""
    entry: dict[str, Any] = {
        "task": str(spec.task),
        "source": str(spec.source),
        "engine": str(spec.engine),
        "revision": spec.revision,
        "quantization": spec.quantization,
        **(
            {"language_pairs": [list(pair) for pair in spec.language_pairs]}
            if spec.language_pairs
            else _languages(spec)
        ),
        "prefix": spec.prefix,
        **{key: getattr(spec, key) for key in COUNTS},
        **{key: dict(getattr(spec, key)) for key in TABLES},
    }
    return {key: value for key, value in entry.items() if value is not None}


def _languages(spec: ModelSpec) -> dict[str, list[str]]:
    return {key: list(getattr(spec, key)) for key in LISTS}


def _apply(change: str, entry: dict[str, Any], word: str) -> None:
    key, is_given, value = change.partition("=")
    if not is_given:
        raise BadContender(f"{word}: {change!r} must be KEY=VALUE")
    table, is_inside, inner = key.partition(".")
    if is_inside and table in TABLES:
        entry[table] = {**entry.get(table, {}), inner: _value(value)}
    elif key in LISTS:
        if pairs := entry.pop("language_pairs", None):
            entry |= dict(zip(LISTS, (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True)), strict=True))
        entry[key] = [each for each in value.split("+") if each]
    else:
        entry[key] = _value(value) if key in COUNTS else value


def _value(text: str) -> object:
    """A JSON value, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
