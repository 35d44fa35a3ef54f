"""Something done again and again by a thread of its own, with jitter or when woken, until the process stops."""

import logging
import random
import threading
from collections.abc import Callable

from workers import metrics

logger = logging.getLogger(__name__)


class Loop:
    """Calls `action` at once and then about every `seconds`. What it raises is logged, never fatal."""

    def __init__(self, name: str, seconds: float, action: Callable[[], object]) -> None:
        self._name, self._seconds, self._action = name, seconds, action
        self._stopping, self._woken = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Call the action soon: at once, or again if it is running."""
        self._woken.set()

    def stop(self, seconds: float | None = None) -> None:
        """Returns when the action that may be running has ended, or after so many seconds."""
        self._stopping.set()
        self._woken.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            # In this order: a stop in between is then either seen here, or ends the wait below.
            self._woken.clear()
            if self._stopping.is_set():
                return
            try:
                self._action()
                metrics.LOOP_SUCCESS.labels(self._name).set_to_current_time()
            except Exception:
                # An edge of the process: the database may be away, and this must go on when it is back.
                metrics.LOOP_FAILURES.labels(self._name).inc()
                logger.exception("%s failed", self._name, extra={"action": f"{self._name}_failed"})
            # Jitter keeps the loops of many processes from meeting at the database.
            self._woken.wait(self._seconds * random.uniform(0.8, 1.2))
