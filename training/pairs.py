"""Text pairs from files: tab-separated columns or JSON lines, plain, gzip or xz."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import BadData
from training.lines import lines


@dataclass(frozen=True, slots=True)
class Pair:
    """What goes in and what is to come out; `tag` is put before the input as one token of its own."""

    source: str
    target: str
    tag: str | None = None
    source_lang: str | None = None
    target_lang: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A file of pairs, read in one direction. Columns of a table count from 0, those of JSON lines are keys.

    The languages are for a multilingual model that is to be told them: a teacher, or one that is trained further.
    """

    file: str
    source: int | str
    target: int | str
    tag: str | None = None
    source_lang: str | None = None
    target_lang: str | None = None

    def read(self, folder: Path) -> Iterator[Pair]:
        """Its pairs in order; rows without a text on both sides are left out, as there is nothing to learn from."""
        path = folder / self.file
        for number, line in enumerate(lines(path), start=1):
            source, target = self._cells(line, f"{path}:{number}")
            if source and target:
                yield Pair(source, target, self.tag, self.source_lang, self.target_lang)

    def _cells(self, line: str, where: str) -> tuple[str, str]:
        row = self._row(line, where)
        try:
            source, target = row[self.source], row[self.target]
        except (IndexError, KeyError, TypeError) as exc:
            raise BadData(f"{where} {self._lack(row)}") from exc
        for name, text in ((self.source, source), (self.target, target)):
            if not isinstance(text, str | None):
                raise BadData(f"{where}: {name!r} is {text!r}; it must be a text")
        # null is an empty cell of JSON lines.
        return (source or "").strip(), (target or "").strip()

    def _row(self, line: str, where: str) -> Any:
        if isinstance(self.source, int):
            return line.split("\t")
        try:
            return json.loads(line)
        except ValueError as exc:
            raise BadData(f"{where} is no JSON: {exc}") from exc

    def _lack(self, row: Any) -> str:
        """What is wrong with a row that has not what is asked for."""
        wanted = (self.source, self.target)
        if isinstance(row, dict):
            lacking = " and ".join(repr(key) for key in wanted if key not in row)
            return f"has no {lacking}; it has {', '.join(map(repr, row)) or 'nothing'}"
        if isinstance(self.source, str):
            return f"is no JSON object, and {self.source!r} and {self.target!r} are asked for"
        if isinstance(self.target, str):
            return f"is a table's, so that its target must be the number of a column, and not {self.target!r}"
        lacking = " and ".join(str(place) for place in wanted if int(place) >= len(row))
        columns = "1 column" if len(row) == 1 else f"{len(row)} columns"
        return f"has {columns}; column {lacking} is asked for (counted from 0)"
