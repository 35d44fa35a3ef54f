"""The models Bushel knows, by name, as told by TOML files.

RegistryError
├── BadEntry         a file says something that cannot be; names file, table and key
├── UnknownModel     nothing has this name; lists what is near
└── NoDefaultModel   no model was named, and the task has no default
"""

import contextlib
import difflib
import fcntl
import json
import math
import os
import re
import string
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from models.params import check_defaults
from models.spec import OPTIONS, QUANTIZATIONS, EngineKind, ModelSpec, Scalar, Task

__all__ = [
    "BUILTIN",
    "BadEntry",
    "EngineKind",
    "ModelSpec",
    "NoDefaultModel",
    "Registry",
    "RegistryError",
    "Task",
    "UnknownModel",
    "add_entry",
    "available",
    "load",
    "remove_entry",
    "snapshot",
]

BUILTIN = Path(__file__).parent / "registry.toml"
# The name is part of a queue's name and of URLs.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")
PLACEHOLDERS = ("source_lang", "target_lang")


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


class Registry:
    """Model specs by name, and the default of each task. Immutable; load a new one to see changed files."""

    def __init__(self, specs: Iterable[ModelSpec] = ()) -> None:
        self._specs = {spec.name: spec for spec in specs}

    def get(self, name: str) -> ModelSpec:
        """The spec of this name, or UnknownModel."""
        if name not in self._specs:
            raise UnknownModel(name, self._specs)
        return self._specs[name]

    def default(self, task: Task) -> ModelSpec:
        """The model that does `task` when none is named, or NoDefaultModel. The last file that has one wins."""
        for spec in reversed(self._specs.values()):
            if spec.task is task and spec.default:
                return spec
        raise NoDefaultModel(task, [spec.name for spec in self._specs.values() if spec.task is task])

    def all(self) -> tuple[ModelSpec, ...]:
        """Every spec, by name."""
        return tuple(self._specs[name] for name in sorted(self._specs))

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __len__(self) -> int:
        return len(self._specs)


def load(paths: Iterable[Path]) -> Registry:
    """Read the files in order; an entry replaces an earlier one of its name. A file that is not there is empty."""
    specs: dict[str, ModelSpec] = {}
    for path in paths:
        for spec in _read(Path(path)):
            # Taken out first, so that the replacement counts as the later one in `default`.
            specs.pop(spec.name, None)
            if spec.default:
                specs = {
                    name: replace(old, default=False) if old.task is spec.task else old for name, old in specs.items()
                }
            specs[spec.name] = spec
    return Registry(specs.values())


def _read(path: Path) -> list[ModelSpec]:
    if not path.exists():
        return []
    specs = [_spec(path, name, entry) for name, entry in _entries(path, _text(path)).items()]
    _check_defaults(path, specs)
    return specs


def _check_defaults(path: Path, specs: Iterable[ModelSpec]) -> None:
    first: dict[Task, str] = {}
    for spec in specs:
        if spec.default and first.setdefault(spec.task, spec.name) != spec.name:
            expected = f"{spec.task} already has {first[spec.task]} as its default"
            raise BadEntry(path, f"models.{spec.name}", "default", expected)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as exc:
        raise BadEntry(path, "", "", f"the file must be UTF-8 text ({exc})") from exc
    except OSError as exc:
        raise BadEntry(path, "", "", f"the file cannot be read ({exc.strerror})") from exc


def _entries(path: Path, text: str) -> dict[str, object]:
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


def _spec(path: Path, name: str, entry: object) -> ModelSpec:
    reader = _Entry(path, name, entry)
    spec = ModelSpec(
        name=name,
        task=reader.choice("task", Task),
        engine=reader.choice("engine", EngineKind, EngineKind.CTRANSLATE2),
        source=reader.text("source"),
        revision=reader.text("revision") or None,
        quantization=reader.text("quantization", "default"),
        source_languages=reader.texts("source_languages"),
        target_languages=reader.texts("target_languages"),
        prefix=reader.text("prefix"),
        max_input_tokens=reader.count("max_input_tokens"),
        max_output_tokens=reader.count("max_output_tokens"),
        defaults=reader.table("defaults"),
        default=reader.flag("default"),
        description=reader.text("description"),
        license=reader.text("license"),
        options=reader.scalars("options"),
    )
    reader.finish()
    spec = replace(spec, source=reader.resolve_source(spec))
    reader.check(spec)
    return spec


_Choice = TypeVar("_Choice", bound=StrEnum)


class _Entry:
    """One table of a registry file, read key by key; whatever is wrong is said with file, table and key."""

    def __init__(self, path: Path, name: str, entry: object) -> None:
        self._path, self._table = path, f"models.{name}"
        if not NAME.match(name):
            expected = "a model's name is 1 to 63 letters, digits, dots, dashes and underscores, not beginning with one"
            raise self.bad("", expected)
        if not isinstance(entry, dict):
            raise self.bad("", "must be a table")
        self._entry: dict[str, object] = dict(entry)

    def bad(self, key: str, expected: str) -> BadEntry:
        return BadEntry(self._path, self._table, key, expected)

    def text(self, key: str, default: str = "") -> str:
        value = self._entry.pop(key, default)
        if not isinstance(value, str):
            raise self.bad(key, f"must be a string, not {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._entry.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
            raise self.bad(key, f"must be a list of strings, not {value!r}")
        return tuple(value)

    def count(self, key: str) -> int | None:
        value = self._entry.pop(key, None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.bad(key, f"must be a whole number above 0, not {value!r}")
        return value

    def flag(self, key: str) -> bool:
        value = self._entry.pop(key, False)
        if not isinstance(value, bool):
            raise self.bad(key, f"must be true or false, not {value!r}")
        return value

    def choice(self, key: str, kind: type[_Choice], default: _Choice | None = None) -> _Choice:
        value = self._entry.pop(key, default)
        expected = f"one of: {', '.join(kind)}"
        if value is None:
            # An unquoted dot in a TOML header makes a table in a table, and the outer one has only that.
            is_split = bool(self._entry) and all(isinstance(each, dict) for each in self._entry.values())
            hint = '; if the name has a dot, quote it: [models."qwen2.5"]' if is_split else ""
            raise self.bad(key, f"is missing; it must be {expected}{hint}")
        if not isinstance(value, str) or value not in list(kind):
            raise self.bad(key, f"is {value!r}; it must be {expected}")
        return kind(value)

    def table(self, key: str) -> Mapping[str, object]:
        value = self._entry.pop(key, {})
        if not isinstance(value, dict):
            raise self.bad(key, f"must be a table, not {value!r}")
        return value

    def scalars(self, key: str) -> Mapping[str, Scalar]:
        table = self.table(key)
        scalars = {name: value for name, value in table.items() if isinstance(value, (str, int, float, bool))}
        for name in table.keys() - scalars.keys():
            raise self.bad(f"{key}.{name}", "must be a string, a number, true or false")
        return scalars

    def finish(self) -> None:
        for key in self._entry:
            known = [name for name in ModelSpec.__dataclass_fields__ if name != "name"]
            near = difflib.get_close_matches(key, known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
            raise self.bad(key, f"unknown key; {advice}")

    def resolve_source(self, spec: ModelSpec) -> str | Path:
        """A folder, relative to the file, if it is written like one or is there; a hub id otherwise."""
        source = str(spec.source)
        if spec.engine is EngineKind.ECHO:
            return Path(source)
        if not source:
            raise self.bad("source", "is missing; it must be a folder or a hub id like Helsinki-NLP/opus-mt-en-de")
        folder = self._path.parent / Path(source).expanduser()
        if source.startswith((".", "/", "~")) or folder.is_dir():
            if spec.revision:
                raise self.bad("revision", "is for hub ids; a folder has none")
            return folder.resolve()
        if not HUB_ID.match(source):
            expected = f"{source!r} is neither a folder ({folder} does not exist) nor a hub id like ORG/NAME"
            raise self.bad("source", expected + "; begin a folder with ./ or /")
        if not spec.revision:
            raise self.bad("revision", "is missing; a hub id needs a commit or tag, so that results can be repeated")
        return source

    def check(self, spec: ModelSpec) -> None:
        """What can only be judged with the whole entry in view."""
        if spec.quantization not in QUANTIZATIONS[spec.engine]:
            expected = ", ".join(QUANTIZATIONS[spec.engine])
            raise self.bad("quantization", f"is {spec.quantization!r}; the {spec.engine} engine has: {expected}")
        for key in ("source_languages", "target_languages"):
            if getattr(spec, key) and spec.task is not Task.TRANSLATION:
                raise self.bad(key, f"is for translation models; this one does {spec.task}")
        for placeholder in self._placeholders(spec.prefix):
            languages = spec.source_languages if placeholder == "source_lang" else spec.target_languages
            if not languages:
                raise self.bad("prefix", f"uses {{{placeholder}}}, so {placeholder}uages must list the languages")
        self._check_options(spec)
        for problem in check_defaults(spec):
            raise self.bad(f"defaults.{problem.param}", str(problem))

    def _check_options(self, spec: ModelSpec) -> None:
        known = OPTIONS[spec.engine]
        for name, value in spec.options.items():
            kind = known.get(name)
            if kind is None:
                raise self.bad(
                    f"options.{name}", f"unknown; the {spec.engine} engine has: {', '.join(known) or 'none'}"
                )
            # A whole number is fine where seconds are asked for; a bool is never a number.
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise self.bad(f"options.{name}", f"must be of type {kind.__name__}, not {value!r}")
            least = {int: 1, float: 0}.get(kind)
            if least is not None and not (isinstance(value, (int, float)) and least <= value < math.inf):
                raise self.bad(f"options.{name}", f"is {value!r}; it must be {least} or more")

    def _placeholders(self, prefix: str) -> Iterator[str]:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(prefix) if name is not None]
        except ValueError as exc:
            raise self.bad("prefix", f"braces must be written {{source_lang}} or {{target_lang}} ({exc})") from exc
        for name in names:
            if name not in PLACEHOLDERS:
                raise self.bad("prefix", f"{{{name}}} is unknown; there are {{source_lang}} and {{target_lang}}")
            yield name


def available(spec: ModelSpec, cache: Path) -> bool:
    """Whether the model can be loaded without the network."""
    return spec.engine is EngineKind.ECHO or snapshot(spec, cache) is not None


def snapshot(spec: ModelSpec, cache: Path) -> Path | None:
    """The local folder with the model's files, or None. Never asks the network.

    Looks for hub ids in Bushel's own cache and then in the user's Hugging Face cache.
    """
    if isinstance(spec.source, Path):
        return spec.source if (spec.source / "config.json").is_file() else None
    revision = spec.revision or "main"
    for hub in (cache / "hub", _hub_cache()):
        repository = hub / f"models--{spec.source.replace('/', '--')}"
        reference = repository / "refs" / revision
        commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
        folder = repository / "snapshots" / commit
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder
    return None


def _hub_cache() -> Path:
    """Where Hugging Face's own tools keep models; their variables, read as they read them."""
    if explicit := os.environ.get("HF_HUB_CACHE"):
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{base}/huggingface")).expanduser() / "hub"


def add_entry(path: Path, name: str, entry: Mapping[str, object]) -> ModelSpec:
    """Append a model to a registry file, atomically; RegistryError if the entry is wrong or the name is taken there.

    `entry` has the keys of the file. The rest of the file, comments and order too, stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = _plain(entry)
    with _locked(path):
        text = _text(path) if path.exists() else ""
        if name in _entries(path, text):
            raise BadEntry(path, f"models.{name}", "", "is already there; remove it first")
        spec = _spec(path, name, entry)
        block = _rendered(name, entry)
        changed = f"{text.rstrip()}\n\n{block}" if text.strip() else block
        if _tables(changed) != {**_entries(path, text), name: entry}:
            raise BadEntry(path, f"models.{name}", "", "cannot be written to this file; please add it by hand")
        _check_defaults(path, [_spec(path, each, value) for each, value in _entries(path, changed).items()])
        _write(path, changed)
    return spec


def remove_entry(path: Path, name: str) -> None:
    """Take a model out of a registry file, atomically. UnknownModel if it is not in this file."""
    with _locked(path):
        text = _text(path) if path.exists() else ""
        entries = _entries(path, text)
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
