"""The volumes of several parts as one book: what is wanted of them, in the order of time."""

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cli.logbook import volume
from cli.logbook.entry import Entry, is_grave, parsed
from cli.logbook.volume import Place, Volume

# The supervisor's own part, which speaks of the others.
SUPERVISOR = "bushel"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries are shown. `since` is in Unix seconds, `parts` None: all; `grep` goes by letters, not by case."""

    parts: frozenset[str] | None = None
    level: str = "debug"
    since: float | None = None
    grep: str | None = None
    job_id: str | None = None

    def takes(self, part: str, entry: Entry) -> bool:
        return (
            is_grave(entry.level, self.level)
            and self._takes_part(part, entry)
            and (self.since is None or entry.at is None or entry.at >= self.since)
            and (self.job_id is None or entry.fields.get("job_id") == self.job_id)
            and (self.grep is None or self.grep.casefold() in entry.text.casefold())
        )

    def _takes_part(self, part: str, entry: Entry) -> bool:
        """Not what the supervisor repeats of a part whose own log is shown."""
        if part != SUPERVISOR:
            return self.parts is None or part in self.parts
        about = entry.fields.get("part")
        if self.parts is not None and SUPERVISOR not in self.parts:
            return about in self.parts and not is_repeated(entry)
        return not ((self.parts is None or about in self.parts) and is_repeated(entry))


def is_repeated(entry: Entry) -> bool:
    """Whether the supervisor only shows a line of a part's log.

    >>> is_repeated(Entry(0.0, "warning", "api: 2026-01-01T00:00:00+00:00 ERROR api: no", fields={"part": "api"}))
    True
    >>> is_repeated(Entry(0.0, "info", "api: ready (2.5 s)", fields={"part": "api"}))
    False
    """
    said = entry.message.removeprefix(f"{entry.fields.get('part')}: ")
    # A long line is repeated in part, and then is no whole object.
    return parsed(said) is not None or re.match(r'\{"timestamp": ?"', said) is not None


class Book:
    """`with Book(folder, wanted) as book:` - `open_at` the place where to begin, then `entries` again and again."""

    def __init__(self, folder: Path, wanted: Wanted) -> None:
        self._folder, self._wanted = folder, wanted
        self._volumes: dict[str, Volume] = {}

    def __enter__(self) -> "Book":
        self._find_volumes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._volumes.values():
            each.close()

    def open_at(self, most: int | None) -> None:
        """Begin with the last `most` entries that are wanted, or with all of them. Reads no more than it must."""
        volumes = list(self._volumes.values())
        if most is None and self._wanted.since is None:
            for each in volumes:
                each.start(Place(0, 0))
            return
        starts = self._starts(volumes, most)
        for each in volumes:
            each.start(starts.get(each.part))

    def _starts(self, volumes: Sequence[Volume], most: int | None) -> dict[str, Place]:
        """For each part the place of the oldest entry that is among the last ones."""
        starts: dict[str, Place] = {}
        found = 0
        streams = map(_backwards, volumes)
        for part, place, entry in heapq.merge(*streams, key=lambda told: told[2].at or 0.0, reverse=True):
            is_older = self._wanted.since is not None and (entry.at or 0.0) < self._wanted.since
            if is_older or found == most:
                break
            starts[part] = place
            found += self._wanted.takes(part, entry)
        return starts

    def entries(self, is_last: bool) -> Iterator[tuple[str, Entry]]:
        """What is wanted of what has been written since the last call, with its part, oldest first."""
        self._find_volumes()
        streams = [_in_order(each, is_last) for each in self._volumes.values()]
        for _, part, entry in heapq.merge(*streams, key=lambda told: told[0]):
            if self._wanted.takes(part, entry):
                yield part, entry

    def _find_volumes(self) -> None:
        """Those of parts that have begun to log meanwhile, too."""
        for part in volume.names(self._folder):
            is_wanted = self._wanted.parts is None or part in self._wanted.parts or part == SUPERVISOR
            if is_wanted and part not in self._volumes:
                self._volumes[part] = Volume(self._folder, part)


def _backwards(volume: Volume) -> Iterator[tuple[str, Place, Entry]]:
    return ((volume.part, place, entry) for place, entry in volume.backwards())


def _in_order(volume: Volume, is_last: bool) -> Iterator[tuple[float, str, Entry]]:
    """With a time to sort by that never goes back, as threads may write in another order than they took the time."""
    latest = 0.0
    for entry in volume.entries(is_last):
        latest = max(latest, entry.at or 0.0)
        yield latest, volume.part, entry
