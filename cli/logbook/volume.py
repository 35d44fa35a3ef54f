"""What one part has logged: its file and the older generations of it, read as one, also while they are rotated."""

import itertools
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cli.logbook.entry import Entry, explains, parsed
from cli.logbook.lines import CUT, Forwards, backwards

_NAME = re.compile(r"(?P<part>.+?)\.log(?:\.\d+)?")
# Of lines that belong to one before. A traceback has hundreds at most; what is no log at all may have any number.
MOST_LINES = 2_000
_MOST_CHARACTERS = 1024 * 1024
_HEAD = 64


def names(folder: Path) -> list[str]:
    """The parts that have logs in the folder."""
    return sorted({match["part"] for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))})


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry begins: in which generation, counted from the oldest one that was there, and at which byte."""

    generation: int
    offset: int


class Volume:
    """All generations of `folder`/`part`.log. They stay open, so that a rotation takes nothing from who reads.

    Use `backwards` before `start`, and then `entries` as often as there may be more.
    """

    def __init__(self, folder: Path, part: str) -> None:
        self.part = part
        self._path = folder / f"{part}.log"
        # Oldest first. Opened newest first: a rotation meanwhile shows a file twice, but hides none.
        self._files: list[int] = []
        for number in itertools.count():
            opened = self._opened(number)
            if opened is None and number > 0:
                break
            if opened is not None:
                self._keep_newest_first(opened)
        self._sizes = [os.fstat(file).st_size for file in self._files]
        self._reader: Forwards | None = None
        # A file's first lines may have no time; they get that of the first one that has, or else the file's.
        self._is_at_head = True
        self._changed_at = 0.0
        self._head = b""
        self._last: Entry | None = None

    def close(self) -> None:
        for file in self._files:
            os.close(file)
        self._files = []

    # From the end

    def backwards(self) -> Iterator[tuple[Place, Entry]]:
        """Each entry, the last one first; every one has a time, and none a later one than that given before it."""
        latest = float("inf")
        for generation in reversed(range(len(self._files))):
            file, next_at = self._files[generation], None
            for offset, entry in _entries_backwards(file, self._sizes[generation]):
                next_at = entry.at or next_at or _changed(file)
                latest = min(latest, next_at)
                yield Place(generation, offset), replace(entry, at=latest)

    # From a place on

    def start(self, place: Place | None) -> None:
        """Let `entries` begin there; None: behind all that there was when this was made."""
        if place is None:
            place = Place(len(self._files) - 1, self._sizes[-1]) if self._files else Place(0, 0)
        for file in self._files[: place.generation]:
            os.close(file)
        del self._files[: place.generation]
        if self._files:
            self._reader = Forwards(self._files[0], place.offset)
            self._head = _beginning(self._files[0])
        self._is_at_head = place.offset == 0

    def entries(self, is_last: bool) -> Iterator[Entry]:
        """What has been written since, each with a time; with `is_last` also a line that is not ended yet."""
        head: Entry | None = None
        behind = _Behind()
        for line in self._lines(is_last):
            more = None if line is None else explains(line)
            begun = parsed(line) if line is not None and more is None else None
            if line is None or begun is not None:
                yield from self._finished(head, behind, begun.at if begun is not None else None)
                head, behind = begun, _Behind()
                self._is_at_head = self._is_at_head or line is None
            else:
                behind.append(more or line)
        yield from self._finished(head, behind, None)

    def _finished(self, head: Entry | None, behind: "_Behind", next_at: float | None) -> Iterator[Entry]:
        """The entry with the lines behind it; lines that have none before them here are told by themselves."""
        if head is not None:
            self._last, self._is_at_head = head, False
            yield replace(head, more=(*head.more, *behind.lines()))
        elif lines := behind.lines():
            if self._last is not None and not self._is_at_head:
                # What they belong to has been told already: it was written a moment before.
                yield replace(self._last, message=lines[0], more=lines[1:])
            else:
                yield _headless(next_at or self._changed_at, lines)

    def _lines(self, is_last: bool) -> Iterator[str | None]:
        """Those that have come since the last call; None where another file begins."""
        while self._reader is not None or self._begin():
            assert self._reader is not None
            if self._is_emptied():
                self._take_copy()
            yield from self._reader.lines()
            self._head = _beginning(self._files[0])
            if self._find_newer():
                # A part that has begun a new file has ended in the one before.
                yield from self._reader.last()
                self._changed_at = _changed(self._files[0])
                os.close(self._files.pop(0))
                self._reader = None
                yield None
            else:
                if is_last:
                    yield from self._reader.last()
                self._changed_at = _changed(self._files[0])
                return

    def _begin(self) -> bool:
        """Read the oldest file that is open, or one that is there only now."""
        if not self._files and (opened := self._opened(0)) is not None:
            self._files.append(opened)
        if not self._files:
            return False
        self._reader = Forwards(self._files[0])
        self._is_at_head, self._head = True, b""
        return True

    def _find_newer(self) -> bool:
        """Whether there is a file behind the one that is being read; such files are opened."""
        if len(self._files) == 1:
            number = self._number(self._files[0])
            # One that is not there any more was dropped as the oldest, so that everything there is newer.
            numbers = itertools.takewhile(self._is_there, itertools.count()) if number is None else range(number)
            self._files += reversed([opened for each in numbers if (opened := self._opened(each)) is not None])
        return len(self._files) > 1

    def _take_copy(self) -> None:
        """The file grew too large: it was copied, and then emptied. What we have not read of it is in the copy."""
        assert self._reader is not None
        number = self._number(self._files[0])
        copy = self._opened(number + 1) if number is not None else None
        if copy is not None and not self._is_other(copy):
            self._files.insert(0, copy)
            self._reader.file = copy
            return
        if copy is not None:
            os.close(copy)
        self._reader = Forwards(self._files[0])

    def _is_emptied(self) -> bool:
        """Whether the file has begun anew since we looked, even if it has grown as large again."""
        return self._is_other(self._files[0])

    def _is_other(self, file: int) -> bool:
        assert self._reader is not None
        is_shorter = os.fstat(file).st_size < self._reader.position
        return is_shorter or os.pread(file, len(self._head), 0) != self._head

    def _number(self, file: int) -> int | None:
        """Which generation it is by now, if any."""
        own = os.fstat(file)
        for number in itertools.count():
            try:
                found = os.stat(self._generation(number))
            except FileNotFoundError:
                # The newest one may be missing, between two of them.
                if number > 0:
                    return None
            else:
                if _same(own, found):
                    return number
        return None

    def _is_there(self, number: int) -> bool:
        return number == 0 or self._generation(number).exists()

    def _generation(self, number: int) -> Path:
        return self._path if number == 0 else self._path.with_name(f"{self._path.name}.{number}")

    def _opened(self, number: int) -> int | None:
        try:
            return os.open(self._generation(number), os.O_RDONLY)
        except FileNotFoundError:
            return None

    def _keep_newest_first(self, opened: int) -> None:
        if any(_same(os.fstat(opened), os.fstat(file)) for file in self._files):
            os.close(opened)
        else:
            self._files.insert(0, opened)


def _entries_backwards(file: int, end: int) -> Iterator[tuple[int, Entry]]:
    behind = _Behind()
    offset = 0
    for offset, line in backwards(file, end):
        more = explains(line)
        begun = parsed(line) if more is None else None
        if begun is None:
            behind.prepend(more or line)
        else:
            yield offset, replace(begun, more=(*begun.more, *behind.lines()))
            behind = _Behind()
    if lines := behind.lines():
        yield offset, _headless(None, lines)


def _headless(at: float | None, lines: tuple[str, ...]) -> Entry:
    """What a process says before it has a log: a banner, or why it could not begin."""
    level = "error" if any(line.startswith("Traceback (most recent") for line in lines) else "info"
    return Entry(at, level, lines[0], more=lines[1:])


class _Behind:
    """The lines behind an entry: the first ones, as many as one may want to look at."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._characters = 0
        self._is_cut = False

    def append(self, line: str) -> None:
        if self._is_full():
            self._is_cut = True
        else:
            self._lines.append(line)
            self._characters += len(line)

    def prepend(self, line: str) -> None:
        self._lines.appendleft(line)
        self._characters += len(line)
        while self._is_full() and len(self._lines) > 1:
            self._characters -= len(self._lines.pop())
            self._is_cut = True

    def lines(self) -> tuple[str, ...]:
        """Without blank ones at the beginning and the end."""
        found = list(self._lines)
        while found and not found[-1].strip():
            found.pop()
        while found and not found[0].strip():
            found.pop(0)
        return (*found, CUT) if self._is_cut else tuple(found)

    def _is_full(self) -> bool:
        return len(self._lines) > MOST_LINES or self._characters > _MOST_CHARACTERS


def _beginning(file: int) -> bytes:
    """The time of its first line tells a file from the one that had its name before."""
    return os.pread(file, _HEAD, 0)


def _changed(file: int) -> float:
    return os.fstat(file).st_mtime


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
