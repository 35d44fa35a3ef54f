"""Whose turn it is at the device."""

import threading
from types import TracebackType


class Turn:
    """Holds a lock for as long as the block lasts, or until it is passed on; by one thread, and not again."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._is_mine = False

    def __enter__(self) -> "Turn":
        self._lock.acquire()
        self._is_mine = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pass_on()

    def pass_on(self) -> None:
        """Whoever waits may begin. More often than once does no harm."""
        if self._is_mine:
            self._is_mine = False
            self._lock.release()
