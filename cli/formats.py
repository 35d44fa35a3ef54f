"""What kind of file an input is, by its name; and its plain bytes, if it came compressed."""

import gzip
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from cli.errors import WrongUsage

KINDS = ("jsonl", "csv", "tsv", "txt")


@dataclass(frozen=True, slots=True)
class Format:
    """As the API wants it; a tsv is a csv with tabs."""

    kind: str
    text_column: str | None = None
    id_column: str | None = None

    def as_json(self) -> dict[str, str]:
        content = {"type": "csv" if self.kind == "tsv" else self.kind}
        if self.kind == "tsv":
            content["delimiter"] = "\t"
        if self.text_column:
            content["text_column"] = self.text_column
        if self.id_column:
            content["id_column"] = self.id_column
        return content

    @property
    def result_format(self) -> str:
        """How results look like the input: csv for both kinds of table."""
        return "csv" if self.kind == "tsv" else self.kind


def guess(name: str, said: str | None = None) -> str:
    """One of KINDS: what was said, else what the name ends with.

    >>> guess("a.tsv.gz"), guess("a.JSONL"), guess("notes", "txt")
    ('tsv', 'jsonl', 'txt')
    """
    if said:
        return said
    plain = name.lower().removesuffix(".gz")
    kind = {"ndjson": "jsonl", "tab": "tsv"}.get(plain.rpartition(".")[2], plain.rpartition(".")[2])
    if "." not in plain or kind not in KINDS:
        raise WrongUsage(f"cannot tell the format of {name}; say --format {'|'.join(KINDS)}")
    return kind


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A seekable file of plain bytes, and its name: `-` is standard input; .gz is unpacked to a temporary file."""
    if str(path) == "-":
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            yield cast(BinaryIO, copy), "stdin"
    elif path.suffix.lower() == ".gz":
        with tempfile.TemporaryFile() as copy, gzip.open(path) as packed:
            try:
                shutil.copyfileobj(packed, copy)
            except (EOFError, gzip.BadGzipFile) as exc:
                raise WrongUsage(f"{path} is not a whole gzip file: {exc}") from exc
            yield cast(BinaryIO, copy), path.stem
    else:
        with path.open("rb") as file:
            yield file, path.name
