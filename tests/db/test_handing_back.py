"""A chunk that its worker cannot finish is given back, whole and uncharged, and what it was lent too."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event, text

from db import chunks, leases
from db.doorbell import RecordingDoorbell
from db.recording import record
from db.session import connect, sessions
from tests.ledger import Ledger
from tests.pipeline import ended, outcome, runner_of, running, spec
from tests.waiting import eventually
from workers.engines.echo import open_echo


class CrackedDoorbell(RecordingDoorbell):
    """Its first ring fails as none should."""

    def ring(self, task: str, *args: str) -> None:
        super().ring(task, *args)
        if len(self.rings) == 1:
            raise RuntimeError("cracked")


def test_whatever_goes_wrong_after_a_claim_gives_the_chunk_back_uncharged(ledger: Ledger) -> None:
    """Held on, its lease would be renewed for ever, and no deadline runs for what never begins."""
    job_id = ledger.started(3)
    ledger.bell = CrackedDoorbell()

    with running(ledger):
        job = ended(ledger, job_id)

    assert job.succeeded == 3
    assert [(row.attempt, row.crashes) for row in ledger.rows("SELECT attempt, crashes FROM chunks")] == [(2, 0)]


def test_a_stopping_worker_hands_the_rest_of_its_chunk_back(ledger: Ledger) -> None:
    job_id = ledger.started(50)

    with running(ledger, spec(seconds_per_item=0.1, batch_tokens=8), grace=0.3):
        eventually(lambda: ledger.job(job_id).running)

    job = ledger.job(job_id)
    assert job.running == 0 and job.queued > 0
    assert job.succeeded + job.queued == 50
    [chunk] = ledger.rows("SELECT state, crashes, items FROM chunks")
    assert (chunk.state, chunk.crashes, chunk.items) == ("ready", 0, job.queued)


def test_a_short_chunk_is_finished_within_the_grace(ledger: Ledger) -> None:
    job_id = ledger.started(4)

    begun = threading.Event()

    with running(ledger, spec(seconds_per_item=0.1), begun=begun):
        assert begun.wait(10)

    assert ledger.job(job_id).status == "finalizing"


def test_a_frozen_worker_cannot_write_over_its_successor(ledger: Ledger) -> None:
    job_id = ledger.started(3)

    begun = threading.Event()
    with running(ledger, spec(seconds_per_batch=1.0), begun=begun):
        assert begun.wait(10)
        # Another process finds the lease expired, as after a long freeze, and runs the chunk itself.
        ledger.run(
            "UPDATE chunks SET state = 'ready', lease_owner = NULL, lease_expires_at = NULL, hard_deadline = NULL"
        )
        ledger.run("UPDATE jobs SET queued = 3, running = 0")
        successor = ledger.claim(job_id, "successor")
        assert successor
        mine = ledger.outcomes(successor)
        with ledger.sessions.begin() as session:
            record(session, successor.chunk_id, successor.attempt, mine)

    assert outcome(ledger, 0) == ("out", None)
    assert ledger.counts(job_id) == {"succeeded": 3}


def test_recording_outlasts_a_database_that_is_away(ledger: Ledger, database_url: str) -> None:
    job_id = ledger.started(20)
    stop, cuts = threading.Event(), list[float]()
    engine = connect(database_url, application="cut off")

    def cut_connections() -> None:
        while not stop.wait(0.1):
            cuts.append(time.monotonic())
            ledger.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cut off'")

    cutter = threading.Thread(target=cut_connections)
    with running(replace(ledger, sessions=sessions(engine)), spec(seconds_per_item=0.02)):
        cutter.start()
        try:
            eventually(lambda: ledger.rows("SELECT 1 FROM chunks WHERE state = 'leased'"), 60)
            eventually(lambda: len(cuts) >= 5)
        finally:
            stop.set()
            cutter.join()
        assert ended(ledger, job_id).succeeded == 20
    engine.dispose()


@contextmanager
def cut_off(ledger: Ledger, database_url: str, statement: str) -> Iterator[tuple[Ledger, list[int]]]:
    """The ledger by way of connections that the server ends every other time, just before they send such a statement.

    With the processes that it ended.
    """
    engine, asked, cut = connect(database_url, application="cut off"), itertools.count(), list[int]()

    def end(connection: Connection, cursor: psycopg.Cursor, sent: str, *_: Any) -> None:
        if statement in sent and next(asked) % 2 == 0:
            cut.append(cursor.connection.info.backend_pid)
            # Returns when it is gone.
            ledger.rows("SELECT pg_terminate_backend(:pid, 10000)", pid=cut[-1])

    event.listen(engine, "before_cursor_execute", end)
    yield replace(ledger, sessions=sessions(engine)), cut
    engine.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("attempt = attempt + 1", id="while it claims"),
        pytest.param("SELECT item.idx, item.input", id="while it reads the items"),
    ],
)
def test_an_engine_is_put_back_once_for_every_time_it_was_taken(
    ledger: Ledger, database_url: str, statement: str
) -> None:
    """Too seldom, and it is never put away; too often, and it is put away under the running chunk."""
    job_id = ledger.started(6)
    ledger.recut(job_id, 1)

    with cut_off(ledger, database_url, statement) as (shaky, cut):
        runner, shelf, _ = runner_of(shaky, open_echo(spec(), None))
        runner.start()
        eventually(lambda: ledger.job(job_id).succeeded == 6, 60)
        runner.stop(1)

    assert len(cut) >= 6
    assert shelf._in_use == {"echo": 0}


def test_a_lease_that_ran_out_under_a_living_worker_is_no_crash(ledger: Ledger) -> None:
    """As after an outage of the database that was longer than a lease."""
    job_id = ledger.submit(b"[[slow 3]] line\nother\n")
    ledger.ingest(job_id)

    def is_taken() -> bool:
        ledger.run("UPDATE chunks SET lease_expires_at = now() - interval '1 s' WHERE state = 'leased'")
        with ledger.sessions.begin() as session:
            return leases.reclaim(session) is not None

    with running(ledger):
        eventually(is_taken)
        assert [row.crashes for row in ledger.rows("SELECT crashes FROM chunks")] == [1]
        job = ended(ledger, job_id)

    assert job.succeeded == 2
    assert [row.crashes for row in ledger.rows("SELECT crashes FROM chunks")] == [0]


def test_a_claim_whose_items_cannot_be_read_is_given_back_once_the_database_is(ledger: Ledger) -> None:
    """The connection is cut while they are read, and again while the chunk is given back."""
    job_id = ledger.started(5)

    def cut(table: str) -> bool:
        found = ledger.rows(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE :asked
            """,
            asked=f"%FROM {table}%",
        )
        return bool(found)

    with ledger.sessions() as items, ledger.sessions() as chunk:
        items.execute(text("LOCK TABLE items IN ACCESS EXCLUSIVE MODE"))
        with running(ledger):
            eventually(lambda: ledger.rows("SELECT 1 FROM chunks WHERE state = 'leased'"))
            chunk.execute(text("LOCK TABLE chunks IN EXCLUSIVE MODE"))
            eventually(lambda: cut("items"))
            eventually(lambda: cut("chunks"))
            items.rollback()
            chunk.rollback()
            job = ended(ledger, job_id, chunks.LEASE_SECONDS - 10)

    assert job.succeeded == 5
    assert [row.crashes for row in ledger.rows("SELECT crashes FROM chunks")] == [0]
