"""Word from the ledger that something happened to a job, for those who wait for it.

A notice is a hint, as a ring is: it may be lost or come late, and never says what happened. Whoever gets one looks
into the ledger, and looks now and then without one.
"""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db.session import connect

logger = logging.getLogger(__name__)

CHANNEL = "bushel_jobs"
# On this one, whose log has grown: ids of tenants.
EVENTS = "bushel_events"
# How often a waiter looks without having been told: what a lost notice costs.
LOOK_SECONDS = 1.0
# Between attempts to connect again: from the first to, after some doublings, the last.
FIRST_BACK_OFF, LAST_BACK_OFF = 0.1, 5.0


def announce(session: Session, job_id: str) -> None:
    """Tell every listener, once this transaction is committed, that the job is worth a look."""
    session.execute(text("SELECT pg_notify(:channel, :job)"), {"channel": CHANNEL, "job": job_id})


class Listener:
    """Wakes threads that wait for jobs: one connection and one thread, however many wait.

    Both are made by the first `wait`, so that a process in which nobody waits has neither.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._lock = threading.Lock()
        self._bells: dict[str, list[threading.Event]] = {}
        self._followers: list[Callable[[str], None]] = []
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        # A byte through it gets the thread out of its wait for the database.
        self._nudge, self._nudged = socket.socketpair()

    def wait(self, job_id: str, is_done: Callable[[], bool], timeout: float) -> bool:
        """Return True as soon as `is_done()`, False if it is not after `timeout` seconds or when the listener stops.

        `is_done` is asked in the caller's thread: at once, after every notice of the job, and every second anyway;
        what it raises is passed on.
        """
        give_up_at = time.monotonic() + timeout
        with self._waiting(job_id) as bell:
            while not is_done():
                left = give_up_at - time.monotonic()
                if left <= 0 or self._stopping.is_set():
                    return False
                bell.wait(min(LOOK_SECONDS, left))
                # Cleared before the next look: what rings during it is not lost.
                bell.clear()
        return True

    def follow(self, heard: Callable[[str], None]) -> None:
        """Call `heard` with the id of a tenant whose log has grown; with "" when some of that may have been missed.

        From the listener's thread, so it must return at once; until the listener stops.
        """
        with self._lock:
            self._followers.append(heard)
            self._ensure_thread()

    def stop(self) -> None:
        """Send every waiter away and close the connection. No wait is begun after it."""
        with self._lock:
            if self._stopping.is_set():
                return
            self._stopping.set()
            thread = self._thread
        self._nudge.send(b"x")
        self._ring_all()
        if thread is not None:
            thread.join()
        self._nudge.close()
        self._nudged.close()

    @contextlib.contextmanager
    def _waiting(self, job_id: str) -> Iterator[threading.Event]:
        bell = threading.Event()
        with self._lock:
            self._bells.setdefault(job_id, []).append(bell)
            self._ensure_thread()
        try:
            yield bell
        finally:
            with self._lock:
                self._bells[job_id].remove(bell)
                if not self._bells[job_id]:
                    del self._bells[job_id]

    def _ensure_thread(self) -> None:
        """The caller holds the lock."""
        if self._thread is None and not self._stopping.is_set():
            self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        back_off = FIRST_BACK_OFF
        engine = connect(self._database_url, pool=1, application="bushel listener")
        while not self._stopping.is_set():
            try:
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    driver = connection.connection.driver_connection
                    assert isinstance(driver, psycopg.Connection)
                    # Closed in the end, not pooled: whoever got it next would go on to be sent notices.
                    connection.detach()
                    connection.exec_driver_sql(f"LISTEN {CHANNEL}")
                    connection.exec_driver_sql(f"LISTEN {EVENTS}")
                    back_off = FIRST_BACK_OFF
                    # Whatever happened while nobody listened.
                    self._ring_all()
                    self._listen(driver)
            except (SQLAlchemyError, psycopg.Error, OSError) as exc:
                logger.warning("the listener lost its connection: %s", exc, extra={"action": "listener_lost"})
                self._stopping.wait(back_off)
                back_off = min(2 * back_off, LAST_BACK_OFF)
        engine.dispose()

    def _listen(self, driver: "psycopg.Connection[object]") -> None:
        """Pass notices on until the connection breaks (psycopg.Error) or the listener is stopped."""
        with selectors.DefaultSelector() as selector:
            selector.register(driver.fileno(), selectors.EVENT_READ)
            selector.register(self._nudged, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                for notice in driver.notifies(timeout=0):
                    if notice.channel == EVENTS:
                        self._pass_on(notice.payload)
                    else:
                        self._ring(notice.payload)

    def _ring(self, job_id: str) -> None:
        with self._lock:
            for bell in self._bells.get(job_id, ()):
                bell.set()

    def _pass_on(self, tenant_id: str) -> None:
        with self._lock:
            followers = list(self._followers)
        for heard in followers:
            heard(tenant_id)

    def _ring_all(self) -> None:
        with self._lock:
            for bells in self._bells.values():
                for bell in bells:
                    bell.set()
        self._pass_on("")
