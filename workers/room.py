"""Whether a worker may go on writing: with the disk nearly full it pauses, and goes on by itself."""

import logging
import threading
import time

from db.disk import Disks
from db.errors import LedgerError

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class DiskNearlyFull(LedgerError):
    """The step is left as it was, and begun again when there is room."""


class Watermark:
    """Asked before work is begun and while files are written; looks at the disks at most once a second."""

    def __init__(self, disks: Disks, kept: int) -> None:
        self._disks, self._kept = disks, kept
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._has_room = True

    def has_room(self, wanted: int = 0) -> bool:
        """Whether the room that is kept back would be left with `wanted` bytes more in the file store."""
        if wanted:
            return self._disks.shortage(self._kept, wanted) is None
        with self._lock:
            if time.monotonic() - self._looked_at > _LOOK_SECONDS:
                self._look()
            return self._has_room

    def _look(self) -> None:
        shortage = self._disks.shortage(self._kept)
        self._looked_at = time.monotonic()
        if shortage is not None and self._has_room:
            logger.warning(
                "paused: the disk of the %s has %s bytes free, less than the %s kept back (BUSHEL_PAUSE_FREE_BYTES);"
                " give it room, and work goes on by itself",
                shortage.what,
                f"{shortage.free:,}",
                f"{self._kept:,}",
                extra={"action": "paused_for_room", "free": shortage.free},
            )
        if shortage is None and not self._has_room:
            logger.warning("there is room again; work goes on", extra={"action": "room_again"})
        self._has_room = shortage is None
