"""The lines of a file from any place on, forwards and backwards, in bounded memory."""

import os
from collections.abc import Iterator

_BLOCK = 64 * 1024
# What is longer is no log line; it is cut, since somebody has to hold it.
LONGEST = 256 * 1024
CUT = "… (cut)"


def backwards(file: int, end: int, block: int = _BLOCK) -> Iterator[tuple[int, str]]:
    """Each line before `end`, the last one first, with the offset where it begins. Reads `block` bytes at a time."""
    at, rest, is_last = end, b"", True
    while at > 0:
        size = min(block, at)
        at -= size
        first, *others = (os.pread(file, size, at) + rest).split(b"\n")
        offset = at + len(first) + 1 + sum(len(other) + 1 for other in others)
        for other in reversed(others):
            offset -= len(other) + 1
            # Behind the last line break there is no line, unless somebody is writing it.
            if other or not is_last:
                yield offset, _text(other)
            is_last = False
        rest = first[: LONGEST + 1]
    if rest or not is_last:
        yield 0, _text(rest)


class Forwards:
    """The lines from `position` on, as long as there are more; a line without its line break is kept back."""

    def __init__(self, file: int, position: int = 0, block: int = _BLOCK) -> None:
        self.file, self.position = file, position
        self._block = block
        self._rest = b""

    def lines(self) -> Iterator[str]:
        """What is there by now. Ask again for what comes later."""
        while block := os.pread(self.file, self._block, self.position):
            self.position += len(block)
            *whole, rest = (self._rest + block).split(b"\n")
            self._rest = rest[: LONGEST + 1]
            yield from map(_text, whole)

    def last(self) -> Iterator[str]:
        """The line that nobody will end any more, if there is one."""
        if self._rest:
            yield _text(self._rest)
            self._rest = b""


def _text(line: bytes) -> str:
    text = line[:LONGEST].decode("utf-8", "replace").rstrip("\r")
    return text + CUT if len(line) > LONGEST else text
