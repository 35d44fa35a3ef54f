"""Text pairs from files: tab-separated columns or JSON lines, plain, gzip or xz."""

import gzip
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from training.errors import BadData

_OPENERS = {".gz": gzip.open, ".xz": lzma.open}


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
            return str(row[self.source]).strip(), str(row[self.target]).strip()
        except (IndexError, KeyError, ValueError) as exc:
            raise BadData(f"{where} has no {self.source!r} and {self.target!r}: {exc}") from exc


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, plain, gzip or xz by its name, without their ends."""
    with _opened(path) as file:
        for line in file:
            yield line.rstrip("\n")


def _opened(path: Path) -> IO[str]:
    opener = _OPENERS.get(path.suffix, open)
    return opener(path, "rt", encoding="utf-8")  # type: ignore[operator, no-any-return]
