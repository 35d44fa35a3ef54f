"""Room on the disks that the service writes to: the file store's, and the database's where that is our own."""

import os
from dataclasses import dataclass
from pathlib import Path

from db.store import FileStore

# Where `bushel up` keeps its PostgreSQL, under the data folder.
EMBEDDED = "postgres"


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on the disk of `what`, in bytes."""

    what: str
    free: int


class Disks:
    """The disks that can be seen from here. An object store and a database elsewhere have none."""

    def __init__(self, store: FileStore, data: Path) -> None:
        self._store, self._database = store, data / EMBEDDED

    def rooms(self) -> list[Room]:
        free = self._store.free_bytes()
        rooms = [] if free is None else [Room("file store", free)]
        if self._database.exists():
            place = os.statvfs(self._database)
            rooms.append(Room("database", place.f_bavail * place.f_frsize))
        return rooms

    def shortage(self, kept: int, wanted: int = 0) -> Room | None:
        """The disk on which less than `kept` bytes would be left with `wanted` more in the store; None if none is."""
        for room in self.rooms():
            # What is taken into the store makes rows too, but how many is not known here: `kept` is for them.
            if room.free - (wanted if room.what == "file store" else 0) < kept:
                return room
        return None


def explained(room: Room, kept: int, wanted: int = 0) -> str:
    """What is free, what is needed and what to do.

    >>> explained(Room("file store", 1_000), kept=5_000, wanted=20)
    'the disk of the file store has 1,000 bytes free; this takes 20, and 5,000 are kept back \
(BUSHEL_MIN_FREE_BYTES): delete files or jobs, or give it room, and try again'
    """
    takes = f"this takes {wanted:,}, and " if wanted else ""
    return (
        f"the disk of the {room.what} has {room.free:,} bytes free; {takes}{kept:,} are kept back "
        "(BUSHEL_MIN_FREE_BYTES): delete files or jobs, or give it room, and try again"
    )
