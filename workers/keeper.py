"""The leases a worker holds: kept alive, watched for cancels within a second, and for chunks that hang."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from db import leases
from db.session import Sessions
from db.states import JobStatus
from workers.work import Work, log_fields

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
WATCH_SECONDS = 0.5


class Keeper:
    """Holds chunks from their claim until they are recorded.

    A chunk may take `deadline_seconds` on the device, and as many to be decoded; waiting, for the device before or for
    the database afterwards, does not count. After that `on_hang` is called, which is to end the process: a hanging
    engine answers to nothing else.
    """

    def __init__(self, sessions: Sessions, deadline_seconds: float, on_hang: Callable[[], None]) -> None:
        self._sessions, self._deadline, self._on_hang = sessions, deadline_seconds, on_hang
        self._held: dict[tuple[int, int], Work] = {}
        # Notified when a chunk leaves.
        self._lock = threading.Condition()
        self._closed = threading.Event()

    def hold(self, work: Work) -> None:
        with self._lock:
            self._held[work.lease] = work

    def let_go(self, work: Work) -> None:
        with self._lock:
            self._held.pop(work.lease, None)
            self._lock.notify_all()

    def holds_only(self, work: Work) -> bool:
        with self._lock:
            return set(self._held) == {work.lease}

    def holds_suspect(self) -> bool:
        """Whether a chunk is held that cost a worker before."""
        with self._lock:
            return any(work.claim.crashes for work in self._held.values())

    def count(self) -> int:
        """Chunks that are held."""
        with self._lock:
            return len(self._held)

    def wait_until_idle(self) -> None:
        """Until no chunk is held; each leaves once the database answers, or its deadline ends the process."""
        with self._lock:
            self._lock.wait_for(lambda: not self._held)

    def stop_all(self) -> None:
        """Tell every held chunk to stop generating."""
        with self._lock:
            for work in self._held.values():
                work.stop.set()

    def close(self) -> None:
        self._closed.set()

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the keeper is closed."""
        self._closed.wait(seconds)

    def run(self) -> None:
        """Keep the leases until closed; for a thread of its own."""
        renew_at = time.monotonic()
        while not self._closed.wait(WATCH_SECONDS):
            with self._lock:
                mine = dict(self._held)
            if not mine:
                continue
            self._watch_deadlines(mine)
            try:
                self._watch(mine)
                if time.monotonic() >= renew_at:
                    self._renew(mine)
                    renew_at = time.monotonic() + HEARTBEAT_SECONDS
            except (SQLAlchemyError, OSError) as exc:
                logger.warning("cannot renew leases: %s", exc, extra={"action": "renew_failed"})

    def _renew(self, mine: dict[tuple[int, int], Work]) -> None:
        beats = [leases.Beat(*lease, work.progress, work.begun_at is not None) for lease, work in mine.items()]
        with self._sessions.begin() as session:
            leases.renew(session, beats, self._deadline)

    def _watch_deadlines(self, mine: dict[tuple[int, int], Work]) -> None:
        """By this process's clock, for when the database is away, or took the chunk back before we looked.

        What the engine is done with may wait for the database as long as that is away: nothing hangs here, and its
        lease runs out by itself.
        """
        for work in mine.values():
            since = work.busy_since
            if since is not None and time.monotonic() - since > self._deadline:
                logger.critical("chunk %s hangs", work.claim.chunk_id, extra=log_fields(work, "chunk_hangs"))
                self._on_hang()

    def _watch(self, mine: dict[tuple[int, int], Work]) -> None:
        with self._sessions() as session:
            standing = leases.held(session, list(mine))
        for lease, work in mine.items():
            status = standing.get(lease)
            if status is None:
                # Recorded a moment ago, or taken away; the fence tells which when it is written.
                with self._lock:
                    work.lost = lease in self._held
                if work.lost:
                    logger.warning("the lease on chunk %s is lost", lease[0], extra=log_fields(work, "lease_lost"))
                work.stop.set()
            elif status is not JobStatus.IN_PROGRESS:
                work.stop.set()
