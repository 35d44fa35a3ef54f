"""How long the service takes to be itself again after a fault."""

import time
from collections.abc import Collection
from dataclasses import dataclass

from chaos.stack import Lease, Progress, Stack


@dataclass(slots=True)
class _Wound:
    fault: str
    at: float
    settled: int
    held: frozenset[Lease]
    answered: bool = False


class Recoveries:
    """A fault is over when the API answers, a result was written after it, and what the dead held is in new hands."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._open: list[_Wound] = []
        self._last = Progress(0, 0, ())
        # Seconds by the fault's name.
        self.seconds: dict[str, list[float]] = {}

    def note(self, fault: str, pids: Collection[int] = ()) -> None:
        """Call right after the fault, with the processes whose leases nobody keeps any more."""
        held = frozenset(lease for lease in self._last.leases if lease.pid in pids)
        self._open.append(_Wound(fault, time.monotonic(), self._last.settled, held))

    def look(self) -> Progress | None:
        """Call often."""
        progress = self._stack.progress()
        if progress is None:
            return None
        self._last = progress
        if self._open and self._stack.is_ready():
            self._open = [wound for wound in self._open if not self._is_healed(wound, progress)]
        return progress

    @property
    def is_clear(self) -> bool:
        return not self._open

    @property
    def all_seconds(self) -> list[float]:
        return [each for some in self.seconds.values() for each in some]

    def _is_healed(self, wound: _Wound, progress: Progress) -> bool:
        works = progress.settled > wound.settled or progress.open_jobs == 0
        if not works or wound.held & set(progress.leases):
            return False
        self.seconds.setdefault(wound.fault, []).append(time.monotonic() - wound.at)
        return True
