"""The lines of a text file: plain, gzip or xz, by its name."""

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from training.errors import BadData

OPENERS = {".gz": gzip.open, ".xz": lzma.open}
# What a file says that is broken off, or is not what its name says.
UNREADABLE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def opened(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked."""
    opener = OPENERS.get(path.suffix, open)
    return opener(path, "rb")  # type: ignore[operator, no-any-return]


def lines(path: Path) -> Iterator[str]:
    """Its lines in order, without their ends and without a byte order mark; BadData where it cannot be read on.

    Only a newline ends a line: texts may hold the other characters that `str.splitlines` takes for one.
    """
    number = 0
    try:
        with opened(path) as file:
            for number, raw in enumerate(file, start=1):
                yield decoded(raw, number)
    except UnicodeDecodeError as exc:
        raise BadData(f"{path}:{number} is not UTF-8 at byte {exc.start + 1} of the line") from exc
    except UNREADABLE as exc:
        raise BadData(f"{path}:{number + 1} cannot be read on: {exc}") from exc


def decoded(raw: bytes, number: int) -> str:
    """The text of line `number`, which counts from 1."""
    return raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
