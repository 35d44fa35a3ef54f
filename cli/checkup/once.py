"""A value that several checks want and that takes long to get: the first who asks gets it for all."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Calls `get` at most once; who comes later has the same value, or the same exception."""

    def __init__(self, get: Callable[[], T]) -> None:
        self._get = get
        self._lock = threading.Lock()
        self._is_there = False
        self._value: T
        self._error: Exception | None = None

    def __call__(self) -> T:
        with self._lock:
            if not self._is_there:
                try:
                    self._value = self._get()
                except Exception as exc:
                    # Kept for all who ask, each of which says what it means for its own check.
                    self._error = exc
                self._is_there = True
        if self._error is not None:
            raise self._error
        return self._value
