"""The file that results are written to."""

import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from cli.errors import WrongUsage

_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".txt": "txt"}


def is_stdout(output: Path) -> bool:
    return str(output) == "-"


def is_packed(output: Path) -> bool:
    return output.suffix.lower() == ".gz"


def kind_of(output: Path) -> str:
    """The end of the name, without .gz.

    >>> kind_of(Path("a.CSV.gz")), kind_of(Path("a.gz"))
    ('.csv', '')
    """
    return Path(output.stem if is_packed(output) else output.name).suffix.lower()


def format_of(output: Path) -> str | None:
    """The format that the name asks for, if it asks for one. A table gets the delimiter its input had."""
    return _FORMATS.get(kind_of(output))


def check_writable(output: Path) -> None:
    """WrongUsage now rather than a loss later, when the job has run."""
    if is_stdout(output):
        return
    if output.is_dir():
        raise WrongUsage(f"{output} is a folder; -o wants the name of a file")
    if not output.parent.is_dir():
        raise WrongUsage(f"{output} cannot be written: there is no folder {output.parent}")
    # A file is replaced by one written beside it, so it is the folder that must be writable.
    if not _is_replaced(output):
        if not os.access(output, os.W_OK):
            raise WrongUsage(f"{output} is not writable")
    elif not os.access(output.parent, os.W_OK | os.X_OK):
        raise WrongUsage(f"{output} cannot be written: the folder {output.parent} is not writable")


def check_delimiter(output: Path, delimiter: str) -> None:
    """A name that promises tabs is refused when the server will write something else."""
    if kind_of(output) == ".tsv" and delimiter != "\t":
        what = "comma-separated" if delimiter == "," else f"separated by {delimiter!r}"
        raise WrongUsage(f"the results of this job are {what}; name it .csv instead of {output.name}")


@contextmanager
def whole_file(output: Path) -> Iterator[BinaryIO]:
    """A stream whose content appears under its name only when it is whole; packed where the name ends with .gz."""
    if is_stdout(output):
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    # A device or a pipe is written to, not replaced.
    part = output.with_name(f".{output.name}.part") if _is_replaced(output) else output
    try:
        with part.open("wb") as file:
            if is_packed(output):
                with gzip.GzipFile(filename="", fileobj=file, mode="wb") as packed:
                    yield cast(BinaryIO, packed)
            else:
                yield file
        if part != output:
            part.replace(output)
    finally:
        if part != output:
            part.unlink(missing_ok=True)


def _is_replaced(output: Path) -> bool:
    return output.is_file() or not output.exists()
