"""Requests that wait for workers: only so many at once, so that the others are still served."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class NoSeat(Exception):
    """As many requests wait as may at once."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count} requests are waiting for their answers already, which is as many as may at once; "
            "try again in a moment, or send many requests as one batch"
        )
        self.count = count


class Seats:
    """As many as may wait at once in this process. Nobody queues for a seat: who finds none is told to come back."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = threading.BoundedSemaphore(count)

    @contextmanager
    def taken(self) -> Iterator[None]:
        if not self._free.acquire(blocking=False):
            raise NoSeat(self.count)
        try:
            yield
        finally:
            self._free.release()


def seats(wanted: int, threads: int) -> int:
    """How many of a process's threads may wait. One is always left to answer everybody else, if there are two.

    >>> seats(8, 16), seats(8, 4), seats(8, 1)
    (8, 3, 1)
    """
    return max(1, min(wanted, threads - 1))
