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
        try:
            row: Any = line.split("\t") if isinstance(self.source, int) else json.loads(line)
            source, target = row[self.source], row[self.target]
        except (IndexError, KeyError, TypeError, ValueError) as exc:
            raise BadData(f"{where} has no {self.source!r} and {self.target!r}: {exc}") from exc
        for name, text in ((self.source, source), (self.target, target)):
            if not isinstance(text, str | None):
                raise BadData(f"{where}: {name!r} is {text!r}; it must be a text")
        # null is an empty cell of JSON lines.
        return (source or "").strip(), (target or "").strip()
