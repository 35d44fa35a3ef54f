"""The device of a worker: what is on it, and how long it has been busy, waited, and worked for each."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A chunk that is on the device, since when (Unix seconds), and its items."""

    chunk_id: int
    model: str
    since: float
    items: int


class DeviceClock:
    """Two chunks may be on the device at once: one on its way out, and the next. Any thread may begin, end and ask.

    >>> clock = DeviceClock()
    >>> clock.begin(Running(1, "echo", 0.0, 10))
    >>> clock.running.chunk_id
    1
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._made_at = clock()
        self._busy = 0.0
        self._begun_at: float | None = None
        # Those that reach into the window: when each began and ended.
        self._spells: deque[tuple[float, float]] = deque()
        # What each chunk that is on the device has had of it, in the order in which they came, and until when.
        self._shares: dict[Running, float] = {}
        self._shared_until = 0.0

    @property
    def running(self) -> Running | None:
        """The chunk that came last, if there is one."""
        with self._lock:
            return next(reversed(self._shares), None)

    def begin(self, chunk: Running) -> None:
        with self._lock:
            now = self._share_out()
            if self._begun_at is None:
                self._begun_at = now
            self._shares[chunk] = 0.0

    def end(self, chunk: Running) -> float:
        """The seconds it had of the device: what two were on it for, both had half of. So all add up to `seconds`."""
        with self._lock:
            now = self._share_out()
            share = self._shares.pop(chunk)
            if not self._shares:
                assert self._begun_at is not None
                self._busy += now - self._begun_at
                self._spells.append((self._begun_at, now))
                self._begun_at = None
                self._forget(now)
            return share

    def seconds(self) -> tuple[float, float]:
        """Busy and idle, since the clock was made; both never fall."""
        with self._lock:
            now = self._clock()
            busy = self._busy + (now - self._begun_at if self._begun_at is not None else 0.0)
            return busy, now - self._made_at - busy

    def share(self) -> float:
        """The busy part of the last minute, or of the time since the clock was made; 0 to 1."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            since = max(self._made_at, now - WINDOW_SECONDS)
            spells = [*self._spells, *([(self._begun_at, now)] if self._begun_at is not None else [])]
            busy = sum(ended - max(begun, since) for begun, ended in spells)
            return min(1.0, busy / (now - since)) if now > since else 0.0

    def _share_out(self) -> float:
        """The time since the last change to those who were there; what time it is."""
        now = self._clock()
        for chunk in self._shares:
            self._shares[chunk] += (now - self._shared_until) / len(self._shares)
        self._shared_until = now
        return now

    def _forget(self, now: float) -> None:
        while self._spells and self._spells[0][1] <= now - WINDOW_SECONDS:
            self._spells.popleft()
