"""What models are measured against: inputs with their references, from tables, JSON lines or parallel texts.

The file's name says what it is: `.tsv` a table, `.jsonl` JSON lines, anything else one text a line; each also as `.gz`
or `.xz`. What is wrong is said with its line, all of it at once:

    TrainingError
    └── BadReferences   carries the problems, each as `FILE:LINE: what is wrong`
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError
from training.lines import OPENERS, UNREADABLE, decoded, opened
from training.spread import spread

SOURCES = ("source", "text", "input", "prompt")
REFERENCES = ("references", "reference", "target", "output")
SHOWN = 20


class BadReferences(TrainingError):
    """A reference file cannot be used; the message lists the first problems."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        super().__init__("\n".join([*problems[:SHOWN], *more]))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class Item:
    """One input, and what may come out; without references it is a text to be scored, not one to be worked on."""

    source: str
    references: tuple[str, ...] = ()


class _Bad(ValueError):
    """One line cannot be used."""


def read(
    path: Path,
    *,
    source: str | None = None,
    references: Sequence[str] = (),
    parallel: Sequence[Path] = (),
    limit: int | None = None,
) -> list[Item]:
    """The items of a file in order, at most `limit` of them, spread over all.

    `source` and `references` name a table's columns, which count from 0, or keys of JSON lines; unnamed, they are the
    first column and all that follow it, or the first keys of `SOURCES` and `REFERENCES` that a line has. A key's value
    may be a list of references. In columns that come after the first reference an empty cell is no reference, so that
    rows may have fewer than others. `parallel` are files whose lines are references of the lines of a text.
    """
    kind = _kind(path)
    if parallel and kind != "text":
        raise BadReferences([f"{path}: is no plain text, so it takes no reference files of parallel lines"])
    if (source is not None or references) and kind == "text":
        raise BadReferences([f"{path}: a plain text has no columns or keys to name"])
    if kind == "text":
        return _some(_parallel(path, parallel), limit)
    columns = _Columns(source, tuple(references)) if kind == "tsv" else None
    keys = _Keys(source, tuple(references))
    problems: list[str] = []
    items: list[Item] = []
    for number, line in _lines(path, problems):
        try:
            items.append(columns.item(line) if columns else keys.item(line))
        except _Bad as exc:
            problems.append(f"{path}:{number}: {exc}")
    return _some(_judged(path, items, problems), limit)


def _some(items: list[Item], limit: int | None) -> list[Item]:
    return items if limit is None else spread(items, limit)


class _Columns:
    def __init__(self, source: str | None, references: Sequence[str]) -> None:
        self._source = _column(source) if source is not None else 0
        self._references = tuple(map(_column, references))

    def item(self, line: str) -> Item:
        cells = [cell.strip() for cell in line.split("\t")]
        places = self._references or tuple(place for place in range(len(cells)) if place != self._source)
        needed = max(self._source, places[0] if places else self._source)
        if needed >= len(cells):
            raise _Bad(f"has {len(cells)} columns, but column {needed} (counted from 0) is asked for")
        if not cells[self._source]:
            raise _Bad(f"column {self._source}, the source, is empty")
        if places and not cells[places[0]]:
            raise _Bad(f"column {places[0]}, the reference, is empty")
        found = (cells[place] for place in places if place < len(cells))
        return Item(cells[self._source], tuple(text for text in found if text))


class _Keys:
    def __init__(self, source: str | None, references: Sequence[str]) -> None:
        self._source, self._references = source, references

    def item(self, line: str) -> Item:
        try:
            row = json.loads(line)
        except ValueError as exc:
            raise _Bad(f"is not JSON: {exc}") from exc
        if not isinstance(row, dict):
            raise _Bad("is not a JSON object")
        source = self._source or next((key for key in SOURCES if key in row), None)
        if source is None:
            raise _Bad(f"has none of the keys {', '.join(SOURCES)}; name the source's key. It has: {', '.join(row)}")
        keys = self._references or tuple(key for key in REFERENCES if key in row)[:1]
        [text] = _texts(row, source, several=False)
        return Item(text, tuple(each for key in keys for each in _texts(row, key, several=True)))


def _texts(row: dict[str, object], key: str, several: bool) -> list[str]:
    if key not in row:
        raise _Bad(f"has no {key!r}; it has: {', '.join(row)}")
    value = row[key]
    texts = value if isinstance(value, list) and several else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _Bad(f"{key!r} is {_shown(value)}; it must be a text{' or a list of texts' if several else ''}")
    stripped = [str(text).strip() for text in texts]
    if not all(stripped):
        raise _Bad(f"{key!r} is empty")
    return stripped


def _parallel(path: Path, others: Sequence[Path]) -> list[Item]:
    problems: list[str] = []
    texts = [[line.strip() for _, line in _lines(each, problems)] for each in (path, *others)]
    if not problems:
        counts = [len(each) for each in texts]
        for other, count in zip(others, counts[1:], strict=True):
            if count != counts[0]:
                problems.append(f"{other}: has {count} lines, but {path} has {counts[0]}; they must be parallel")
    if not problems:
        for each, lines in zip((path, *others), texts, strict=True):
            problems += [f"{each}:{number}: is empty" for number, line in enumerate(lines, start=1) if not line]
    # Not to be paired up while something is wrong: their lines may not belong together.
    items = [] if problems else [Item(row[0], row[1:]) for row in zip(*texts, strict=True)]
    return _judged(path, items, problems)


def _judged(path: Path, items: list[Item], problems: list[str]) -> list[Item]:
    if problems:
        raise BadReferences(problems)
    if not items:
        raise BadReferences([f"{path}: has no lines"])
    bare = [place for place, item in enumerate(items) if not item.references]
    if bare and len(bare) < len(items):
        raise BadReferences([f"{path}: item {bare[0] + 1} has no reference, but others have ({len(bare)} have none)"])
    return items


def _kind(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix not in OPENERS]
    return {".tsv": "tsv", ".jsonl": "jsonl"}.get(suffixes[-1] if suffixes else "", "text")


def _lines(path: Path, problems: list[str]) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends. What ends the reading becomes a problem; a line of bad UTF-8 does not end it.

    Only a newline ends a line: texts may hold the other characters that `str.splitlines` takes for one.
    """
    number = 0
    try:
        with opened(path) as file:
            for number, raw in enumerate(file, start=1):
                try:
                    yield number, decoded(raw, number)
                except UnicodeDecodeError as exc:
                    problems.append(f"{path}:{number}: is not UTF-8 at byte {exc.start + 1} of the line")
    except FileNotFoundError:
        problems.append(f"{path}: does not exist")
    except (OSError, *UNREADABLE) as exc:
        problems.append(f"{path}:{number + 1}: cannot be read on: {exc}")


def _column(name: str) -> int:
    if not name.isdecimal():
        raise BadReferences([f"column {name!r}: a table's columns are numbers, counted from 0"])
    return int(name)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
