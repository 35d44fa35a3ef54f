"""One table of a registry file, as the model it describes."""

import difflib
import math
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from models.errors import BadEntry
from models.params import check_defaults
from models.spec import OPTION_TASKS, OPTIONS, QUANTIZATIONS, EngineKind, ModelSpec, Scalar, Task, Tier, usual_engine

# The name is part of a queue's name and of URLs.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")
_NAME_RULE = "1 to 63 letters, digits, dots, dashes and underscores, not beginning with one"
PLACEHOLDERS = ("source_lang", "target_lang")


def read_entry(path: Path, name: str, entry: object) -> ModelSpec:
    """The table of a model, judged as a whole; BadEntry says what is wrong with it."""
    reader = Entry(path, name, entry)
    task = reader.choice("task", Task)
    pairs = reader.pairs("language_pairs")
    spec = ModelSpec(
        name=name,
        task=task,
        engine=reader.choice("engine", EngineKind, usual_engine(task)),
        source=reader.text("source"),
        revision=reader.text("revision") or None,
        quantization=reader.text("quantization", "default"),
        source_languages=reader.languages("source_languages", [source for source, _ in pairs]),
        target_languages=reader.languages("target_languages", [target for _, target in pairs]),
        language_pairs=pairs,
        prefix=reader.text("prefix"),
        max_input_tokens=reader.count("max_input_tokens"),
        max_output_tokens=reader.count("max_output_tokens"),
        defaults=reader.table("defaults"),
        default=reader.flag("default"),
        description=reader.text("description"),
        license=reader.text("license"),
        options=reader.scalars("options"),
        family=reader.name("family"),
        tier=reader.optional_choice("tier", Tier),
    )
    reader.finish()
    spec = replace(spec, source=reader.resolve_source(spec))
    reader.check(spec)
    return spec


_Choice = TypeVar("_Choice", bound=StrEnum)


class Entry:
    """One table of a registry file, read key by key; whatever is wrong is said with file, table and key."""

    def __init__(self, path: Path, name: str, entry: object) -> None:
        self._path, self._table = path, f"models.{name}"
        if not NAME.match(name):
            raise self.bad("", f"a model's name is {_NAME_RULE}")
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

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        value = self._entry.pop(key, [])
        if not isinstance(value, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, str) and each for each in pair)
            for pair in value
        ):
            raise self.bad(key, f'must be a list of pairs like ["en", "de"], source and target, not {value!r}')
        return tuple((source, target) for source, target in value)

    def languages(self, key: str, paired: Sequence[str]) -> tuple[str, ...]:
        """The languages of a side: as listed, or those of the pairs."""
        listed = self.texts(key)
        if listed and paired:
            raise self.bad(key, "is said by language_pairs already; leave it out")
        return listed or tuple(dict.fromkeys(paired))

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

    def optional_choice(self, key: str, kind: type[_Choice]) -> _Choice | None:
        return self.choice(key, kind) if key in self._entry else None

    def name(self, key: str) -> str | None:
        """A name as models have them; None if it is not given."""
        value = self._entry.pop(key, None)
        if value is not None and not (isinstance(value, str) and NAME.match(value)):
            raise self.bad(key, f"is {value!r}; a name is {_NAME_RULE}")
        return value

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
        if spec.task is Task.EMBEDDING and spec.engine is EngineKind.CTRANSLATE2:
            raise self.bad("engine", "ctranslate2 makes no embeddings; use transformers")
        if spec.task is Task.EMBEDDING and spec.max_output_tokens is not None:
            raise self.bad("max_output_tokens", "is for models that write; this one does embedding")
        if spec.family is None and spec.tier is not None:
            raise self.bad("tier", f"is {spec.tier.value!r}, of no family; name one with `family`")
        if spec.family is not None and spec.tier is None:
            raise self.bad("tier", f"is missing; in a family it must be one of: {', '.join(Tier)}")
        if spec.quantization not in QUANTIZATIONS[spec.engine]:
            expected = ", ".join(QUANTIZATIONS[spec.engine])
            raise self.bad("quantization", f"is {spec.quantization!r}; the {spec.engine} engine has: {expected}")
        for key in ("language_pairs", "source_languages", "target_languages"):
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
            if spec.task not in OPTION_TASKS.get(name, Task):
                raise self.bad(f"options.{name}", f"has no meaning for a model that does {spec.task}")
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
