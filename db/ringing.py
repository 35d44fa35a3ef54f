"""Rings that leave from a thread of their own, so that no request and no pipeline ever waits for the broker."""

import logging
import queue
import threading

from db.doorbell import Doorbell

logger = logging.getLogger(__name__)

# While the broker hangs, rings pile up here; beyond this they are dropped, since workers look for themselves.
_MOST_WAITING = 100


class BackgroundDoorbell:
    """Hands rings to `doorbell` in a thread. A ring that does not get out is forgotten, as rings may be."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._waiting: queue.Queue[tuple[str, ...]] = queue.Queue(_MOST_WAITING)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def ring(self, task: str, *args: str) -> None:
        self._ensure_thread()
        try:
            self._waiting.put_nowait((task, *args))
        except queue.Full:
            logger.warning("ring %s dropped: the broker does not keep up", task, extra={"action": "ring_dropped"})

    def _ensure_thread(self) -> None:
        """Started by the first ring and not before: gunicorn forks, and a fork has no threads."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            task, *args = self._waiting.get()
            try:
                self._doorbell.ring(task, *args)
            except Exception:
                # The edge of this thread: whatever the broker's client throws must not end the ringing.
                logger.exception("ring %s failed", task, extra={"action": "ring_failed", "task": task})
