"""The log file of one part: rotated at start, bounded in size, read back for its last and its important lines."""

import os
import re
import shutil
from pathlib import Path

_KEPT = 3
_LARGEST = 20 * 1024 * 1024
_TAIL = 16 * 1024
# What follows a log line and explains it: the frames of a traceback, and SQLAlchemy's links. The file has them.
_NO_LOG_LINE = re.compile(r"\s|Traceback \(most recent call last\)|\(Background on this error at: ")
_LINK = re.compile(r"(\\n|\s)*\(Background on this error at: \S+\)")


class Log:
    """`path`, which `bound` keeps below `largest` bytes, and its older generations path.1 … path.3.

    Parts write to the file themselves, in append mode, so that no part ever waits for the supervisor or
    dies of its absence; the supervisor only reads behind them.
    """

    def __init__(self, path: Path, important: re.Pattern[str] | None = None, largest: int = _LARGEST) -> None:
        self.path = path
        self._largest = largest
        self._important = important
        self._started = 0
        self._seen = 0
        self._rest = b""

    def rotate(self) -> None:
        """Begin a new generation; the oldest is dropped."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._shift(0)
        self._seen = 0

    def open(self) -> int:
        """A descriptor for a part about to start."""
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._started = os.fstat(handle).st_size
        return handle

    def tail(self, lines: int = 20) -> str:
        """The last lines since the part's start, for an error message."""
        text = self._read(max(self._started, self._size() - _TAIL)).decode("utf-8", "replace")
        return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])

    def new_important_lines(self) -> list[str]:
        """Complete lines written since the last call that a person should see."""
        fresh = self._rest + self._read(self._seen)
        self._seen = self._size()
        *lines, self._rest = fresh.split(b"\n")
        if self._important is None:
            return []
        texts = (line.decode("utf-8", "replace") for line in lines)
        return [_LINK.sub("", text) for text in texts if self._important.search(text) and not _NO_LOG_LINE.match(text)]

    def bound(self) -> None:
        """Move a file grown too large aside. Lines written between the copy and the cut are lost.

        Copy and cut, not rename: the part holds the file open and would go on writing into the old one.
        """
        if self._size() <= self._largest:
            return
        self._shift(1)
        shutil.copy(self.path, self._generation(1))
        os.truncate(self.path, 0)
        self._started = self._seen = 0

    def _shift(self, youngest: int) -> None:
        """Make each generation from `youngest` on one older; the oldest is dropped."""
        for number in range(_KEPT, youngest, -1):
            older = self._generation(number - 1)
            if older.exists():
                older.replace(self._generation(number))

    def _generation(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _read(self, offset: int) -> bytes:
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read()
