"""Adding models to a registry file and taking them out, which leaves the rest of the file as it was written."""

import contextlib
import fcntl
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from models.documents import entries_of, one_default_each, one_model_each_tier, text_of
from models.entry import read_entry
from models.errors import BadEntry, UnknownModel
from models.registry import load
from models.spec import ModelSpec


def add_entry(path: Path, name: str, entry: Mapping[str, object], beside: Iterable[Path] = ()) -> ModelSpec:
    """Append a model to a registry file, atomically; RegistryError if the entry is wrong or the name is taken there.

    `entry` has the keys of the file. The rest of the file, comments and order too, stays as it is. `beside` are the
    registry files read before this one, whose families the entry must not contradict.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = _plain(entry)
    with _locked(path):
        text = text_of(path) if path.exists() else ""
        if name in entries_of(path, text):
            raise BadEntry(path, f"models.{name}", "", "is already there; remove it first")
        spec = read_entry(path, name, entry)
        block = _rendered(name, entry)
        changed = f"{text.rstrip()}\n\n{block}" if text.strip() else block
        if _tables(changed) != {**entries_of(path, text), name: entry}:
            raise BadEntry(path, f"models.{name}", "", "cannot be written to this file; please add it by hand")
        specs = [read_entry(path, each, value) for each, value in entries_of(path, changed).items()]
        one_default_each(path, specs)
        names = {each.name for each in specs}
        others = [(path, each) for each in load(beside).all() if each.name not in names]
        one_model_each_tier([*others, *((path, each) for each in specs)])
        _write(path, changed)
    return spec


def remove_entry(path: Path, name: str) -> None:
    """Take a model out of a registry file, atomically. UnknownModel if it is not in this file."""
    with _locked(path):
        text = text_of(path) if path.exists() else ""
        entries = entries_of(path, text)
        if name not in entries:
            raise UnknownModel(name, entries)
        changed = _without(text, name)
        # The cut goes by lines and could be fooled by a header-like line inside a long string.
        del entries[name]
        if _tables(changed) != entries:
            raise BadEntry(path, f"models.{name}", "", "cannot be taken out by itself; please edit the file by hand")
        _write(path, changed)


def _tables(text: str) -> object:
    """The models in a text that may have been spoilt."""
    try:
        return tomllib.loads(text).get("models", {})
    except tomllib.TOMLDecodeError:
        return None


def _without(text: str, name: str) -> str:
    lines = text.splitlines(keepends=True)
    kept, inside = [], False
    for line in lines:
        if line.lstrip().startswith("["):
            inside = _header_keys(line)[:2] == ("models", name)
        if not inside:
            kept.append(line)
    return "".join(kept).rstrip() + "\n" if "".join(kept).strip() else ""


def _header_keys(line: str) -> tuple[str, ...]:
    """The dotted name in a table header, by letting the TOML parser read that line alone."""
    try:
        table: object = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    keys = []
    while isinstance(table, dict) and table:
        key = next(iter(table))
        keys.append(key)
        table = table[key]
    return tuple(keys)


def _rendered(name: str, entry: Mapping[str, object]) -> str:
    lines = [f"[models.{_key(name)}]"]
    lines += [f"{_key(key)} = {_value(value)}" for key, value in entry.items() if not isinstance(value, Mapping)]
    for key, value in entry.items():
        if isinstance(value, Mapping):
            lines += ["", f"[models.{_key(name)}.{_key(key)}]"]
            lines += [f"{_key(inner)} = {_value(each)}" for inner, each in value.items()]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(each) for each in value)}]"
    # JSON's escapes are TOML's, but for the DEL character; JSON leaves that one as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(entry: Mapping[str, object]) -> dict[str, object]:
    def plain(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return value if isinstance(value, (bool, int, float)) else str(value)

    return {key: plain(value) for key, value in entry.items()}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two `bushel models add` at once must not lose one entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
