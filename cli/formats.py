"""What kind of file an input is, by its name; and its plain bytes, if it came compressed."""

import gzip
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from cli.errors import WrongUsage

KINDS = ("jsonl", "csv", "tsv", "txt")
_LONGEST_HEADER = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Format:
    """As the API wants it; a tsv is a csv with tabs."""

    kind: str
    text_column: str | None = None
    id_column: str | None = None
    delimiter: str | None = None
    has_header: bool = True
    reference_column: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("csv", "tsv"):
            for option, is_said in (("--delimiter", self.delimiter is not None), ("--no-header", not self.has_header)):
                if is_said:
                    raise WrongUsage(f"{option} is for csv and tsv, not for {self.kind}")

    def as_json(self) -> dict[str, object]:
        content: dict[str, object] = {"type": "csv" if self.kind == "tsv" else self.kind}
        if self.delimiter or self.kind == "tsv":
            content["delimiter"] = self.delimiter or "\t"
        if not self.has_header:
            content["has_header"] = False
        if self.text_column:
            content["text_column"] = self.text_column
        if self.id_column:
            content["id_column"] = self.id_column
        if self.reference_column:
            content["reference_column"] = self.reference_column
        return content

    @property
    def result_delimiter(self) -> str:
        """What separates the cells of the results, written as a table."""
        return self.delimiter or ("\t" if self.kind == "tsv" else ",")

    @property
    def result_format(self) -> str:
        """How results look like the input: csv for both kinds of table."""
        return "csv" if self.kind == "tsv" else self.kind


def with_delimiter(form: Format, content: BinaryIO) -> Format:
    """The format with the delimiter that the header of a csv shows, where it is not the comma.

    Only when nobody named one, and only when the text's column is not in the header read with commas. Better
    than csv.Sniffer on one line: it is the delimiter under which the column appears that is wanted, or else
    the one that splits the header where a comma does not.
    """
    if form.kind != "csv" or form.delimiter is not None or not form.has_header:
        return form
    line = content.readline(_LONGEST_HEADER)
    content.seek(0)
    header = line.decode("utf-8-sig", "replace").rstrip("\r\n")
    cells = {delimiter: header.split(delimiter) for delimiter in ",;\t|"}
    wanted = form.text_column or "text"
    named = {delimiter: [name.strip().strip('"') for name in found] for delimiter, found in cells.items()}
    if wanted in named.pop(","):
        return form
    fitting = [delimiter for delimiter, names in named.items() if wanted in names and len(names) > 1]
    if not fitting and len(cells[","]) == 1:
        fitting = [delimiter for delimiter, names in named.items() if len(names) > 1]
    return replace(form, delimiter=fitting[0]) if fitting else form


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
    if str(path) != "-" and not path.exists():
        raise WrongUsage(f"there is no file {path}")
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
