"""Waiting for something to become true, in tests."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(claim: Callable[[], T], seconds: float = 10.0, every: float = 0.02) -> T:
    """The first truthy value of `claim`, or an AssertionError once the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        if value := claim():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {seconds:g} s; last value: {value!r}")
        time.sleep(every)
