"""Standard input as blocks of lines: large when input is plentiful, at once when it is slow."""

import io
import os
import select
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cli.errors import WrongUsage

_READ = 64 * 1024


class NotText(WrongUsage):
    """A line that is not UTF-8."""

    def __init__(self, number: int, error: UnicodeDecodeError) -> None:
        super().__init__(
            f"line {number} of standard input is not UTF-8: "
            f"byte 0x{error.object[error.start]:02x} at position {error.start + 1}"
        )
        self.number = number


@dataclass(frozen=True, slots=True)
class Block:
    """Lines without their ends; `first` is the number of the first one, from 1."""

    first: int
    lines: Sequence[str]


class LineBlocks:
    """Reads a stream in blocks of at most `size` lines.

    A block is given out early when the next line does not come within `idle` seconds, so that a slow
    writer on the other end of a pipe sees its answers.
    """

    def __init__(self, stream: BinaryIO, size: int = 250, idle: float = 0.2) -> None:
        self._stream, self._size, self._idle = stream, size, idle
        self._descriptor = _descriptor(stream)
        self._rest = b""
        self._raw: list[bytes] = []
        self._number = 1
        self._ended = False

    @property
    def is_over(self) -> bool:
        return self._ended and not self._raw

    def next(self, patience: float | None) -> Block | None:
        """The next block; None at the end, or when nothing came for `patience` seconds (None: wait for ever)."""
        while len(self._raw) < self._size and not self._ended:
            if not self._read(self._idle if self._raw else patience):
                break
        taken, self._raw = self._raw[: self._size], self._raw[self._size :]
        return self._block(taken) if taken else None

    def _block(self, raw: list[bytes]) -> Block:
        first, lines = self._number, []
        for offset, line in enumerate(raw):
            try:
                lines.append(line.removesuffix(b"\r").decode("utf-8-sig" if first + offset == 1 else "utf-8"))
            except UnicodeDecodeError as exc:
                # What came before it is still answered; the error comes with the next block.
                if lines:
                    self._raw = raw[offset:] + self._raw
                    break
                raise NotText(first + offset, exc) from exc
        self._number += len(lines)
        return Block(first, lines)

    def _read(self, patience: float | None) -> bool:
        """Take in what is there; False when nothing came in time."""
        if self._descriptor is None:
            chunk = self._stream.read(_READ)
        else:
            if not select.select([self._descriptor], [], [], patience)[0]:
                return False
            chunk = os.read(self._descriptor, _READ)
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        self._raw += whole
        if not chunk:
            self._ended = True
            if self._rest:
                self._raw.append(self._rest)
                self._rest = b""
        return True


def _descriptor(stream: BinaryIO) -> int | None:
    """Where select can tell whether input is waiting; not for Windows' pipes, nor for streams in memory."""
    if sys.platform == "win32":
        return None
    try:
        return stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
