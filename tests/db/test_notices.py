"""Waiting for jobs: woken at once, by nobody else's news, and whatever becomes of the connection."""

import threading
import time
from collections.abc import Iterator

import pytest

from db.notices import LOOK_SECONDS, Listener, announce
from db.session import Sessions
from tests.ledger import Ledger
from tests.waiting import eventually

_LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'bushel listener' AND datname = current_database()"
)


@pytest.fixture
def listener(database_url: str) -> Iterator[Listener]:
    listener = Listener(database_url)
    yield listener
    listener.stop()


class Waiter:
    """A thread that waits for a job, and notes when it was asked to look and how the wait ended."""

    def __init__(self, listener: Listener, job_id: str, timeout: float = 10) -> None:
        self.done = threading.Event()
        self.looks: list[float] = []
        self.answer: bool | None = None
        self._thread = threading.Thread(target=self._wait, args=(listener, job_id, timeout))
        self._thread.start()
        eventually(lambda: self.looks)

    def _wait(self, listener: Listener, job_id: str, timeout: float) -> None:
        self.answer = listener.wait(job_id, self._is_done, timeout)
        self.ended_at = time.monotonic()

    def _is_done(self) -> bool:
        self.looks.append(time.monotonic())
        return self.done.is_set()

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def tell(sessions: Sessions, job_id: str) -> None:
    with sessions.begin() as session:
        announce(session, job_id)


def connected(ledger: Ledger) -> int:
    [row] = eventually(lambda: ledger.rows(_LISTENERS))
    return int(row.pid)


def test_what_is_done_already_is_not_waited_for(listener: Listener) -> None:
    assert listener.wait("job", lambda: True, timeout=0)


def test_a_notice_wakes_at_once(ledger: Ledger, listener: Listener) -> None:
    waiter = Waiter(listener, "job")
    connected(ledger)
    # Just after one of the looks that come anyway, so that the next one is far.
    seen = len(waiter.looks)
    eventually(lambda: len(waiter.looks) > seen, every=0.001)
    waiter.done.set()

    told_at = time.monotonic()
    tell(ledger.sessions, "job")
    waiter.join()

    assert waiter.answer is True
    assert waiter.ended_at - told_at < LOOK_SECONDS / 2


def test_nobody_is_woken_by_the_news_of_another_job(ledger: Ledger, listener: Listener) -> None:
    mine, other = Waiter(listener, "mine"), Waiter(listener, "other")
    connected(ledger)
    other.done.set()
    seen = len(mine.looks)
    eventually(lambda: len(mine.looks) > seen, every=0.001)
    seen = len(mine.looks)

    tell(ledger.sessions, "other")
    other.join()

    assert other.answer is True and len(mine.looks) == seen
    mine.done.set()
    mine.join()


def test_a_notice_that_is_rolled_back_was_none(ledger: Ledger, listener: Listener) -> None:
    waiter = Waiter(listener, "job", timeout=2.5)
    connected(ledger)

    with ledger.sessions() as session:
        announce(session, "job")
        session.rollback()
    waiter.join()

    assert waiter.answer is False and len(waiter.looks) <= 5


def test_a_wait_ends_at_its_time(listener: Listener) -> None:
    begun = time.monotonic()

    assert not listener.wait("job", lambda: False, timeout=0.3)

    assert 0.3 <= time.monotonic() - begun < LOOK_SECONDS


def test_a_cut_connection_is_made_again_and_costs_no_notice(ledger: Ledger, listener: Listener) -> None:
    waiter = Waiter(listener, "job")
    pid = connected(ledger)

    ledger.run("SELECT pg_terminate_backend(:pid)", pid=pid)
    eventually(lambda: [row for row in ledger.rows(_LISTENERS) if row.pid != pid])
    seen = len(waiter.looks)
    eventually(lambda: len(waiter.looks) > seen, every=0.001)
    waiter.done.set()
    told_at = time.monotonic()
    tell(ledger.sessions, "job")
    waiter.join()

    assert waiter.answer is True and waiter.ended_at - told_at < LOOK_SECONDS / 2


def test_without_a_connection_a_wait_still_ends_when_it_is_done() -> None:
    listener = Listener("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    waiter = Waiter(listener, "job")

    waiter.done.set()
    waiter.join()
    listener.stop()

    assert waiter.answer is True


def test_stopping_sends_everybody_away_at_once(ledger: Ledger, database_url: str) -> None:
    listener = Listener(database_url)
    waiters = [Waiter(listener, f"job-{number}", timeout=60) for number in range(5)]
    connected(ledger)

    begun = time.monotonic()
    listener.stop()
    for waiter in waiters:
        waiter.join()

    assert [waiter.answer for waiter in waiters] == [False] * 5
    assert time.monotonic() - begun < LOOK_SECONDS
    eventually(lambda: not ledger.rows(_LISTENERS))


def test_a_listener_that_nobody_needs_has_no_connection(ledger: Ledger, database_url: str) -> None:
    listener = Listener(database_url)

    assert ledger.rows(_LISTENERS) == []
    listener.stop()
