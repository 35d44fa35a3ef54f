"""What went wrong lately, and is left alone for a while so that others get their turn."""

import time
from collections.abc import Callable


class Resting:
    """Names, each for `seconds` from when it was added."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._until: dict[str, float] = {}

    def add(self, name: str) -> None:
        self._until[name] = self._clock() + self.seconds

    def names(self) -> list[str]:
        """Those that rest still."""
        now = self._clock()
        self._until = {name: until for name, until in self._until.items() if until > now}
        return list(self._until)
