"""What ends a worker process - a hang, a broken engine, a stage that died - and what does not."""

import threading
from typing import Any, cast

from sqlalchemy import text

from db import leases
from tests.ledger import Ledger
from tests.pipeline import Handled, ended, held, outcome, runner_of, running, spec
from tests.waiting import eventually
from workers.engines.echo import open_echo
from workers.runner import EXIT_BROKEN


def test_a_chunk_past_its_hard_deadline_ends_the_process(ledger: Ledger) -> None:
    ledger.started(4)

    with running(ledger, spec(seconds_per_batch=4.0), deadline=1.0, grace=0) as (_, exits):
        eventually(lambda: exits)

    assert set(exits) == {EXIT_BROKEN}


def test_a_database_away_for_longer_than_the_deadline_is_no_hang_of_the_device(ledger: Ledger) -> None:
    """However many chunks the device has done meanwhile: one is being recorded, the others stand behind it."""
    found = [ledger.started(1) for _ in range(5)]

    with ledger.sessions() as outage:
        outage.execute(text("LOCK TABLE recipes IN EXCLUSIVE MODE"))
        with running(ledger, deadline=2.0) as (_, exits):
            # One is recorded, one is next, one waits for the place of that, and one for the device.
            eventually(lambda: len(_overdue(ledger)) >= 4)
            outage.rollback()
            succeeded = [ended(ledger, job_id).succeeded for job_id in found]

    assert exits == []
    assert succeeded == [1] * 5


def _overdue(ledger: Ledger) -> list[Any]:
    """Chunks so long past their deadline that whoever watches them has seen it."""
    return ledger.rows("SELECT id FROM chunks WHERE state = 'leased' AND hard_deadline < now() - interval '1.5 s'")


def test_an_engine_that_hangs_while_it_decodes_ends_the_process_too(ledger: Ledger) -> None:
    ledger.started(1)
    release, echo = threading.Event(), open_echo(spec(), None)

    def decode(*_: Any) -> list[str]:
        release.wait()
        return [""]

    runner, _, exits = runner_of(ledger, Handled(echo, decode=decode), deadline=1.0)
    runner.start()
    eventually(lambda: exits)
    release.set()
    runner.stop(1)

    assert set(exits) == {EXIT_BROKEN}


def test_a_chunk_taken_back_from_a_hanging_engine_still_ends_the_process(ledger: Ledger) -> None:
    """Lease and deadline run out together, so another process may take the chunk before this one looks."""
    ledger.started(2)
    release = threading.Event()
    echo = open_echo(spec(), None)

    def generate(*_: Any) -> Any:
        release.wait()
        return iter(())

    runner, _, exits = runner_of(ledger, Handled(echo, generate=generate), deadline=2.0)
    runner.start()
    eventually(lambda: held(ledger))
    ledger.run("UPDATE chunks SET lease_expires_at = now() - interval '1 s'")
    with ledger.sessions.begin() as session:
        assert leases.reclaim(session)
    ledger.run("UPDATE jobs SET paused = true")

    eventually(lambda: exits)
    release.set()
    runner.stop(1)


def test_a_broken_engine_ends_the_process_and_blames_nobody(ledger: Ledger) -> None:
    job_id = ledger.submit(b"fine\n[[broken]]\n")
    ledger.ingest(job_id)

    with running(ledger) as (_, exits):
        eventually(lambda: exits)

    assert exits[0] == EXIT_BROKEN
    assert ledger.rows("SELECT 1 FROM results WHERE outcome = 'failed'") == []


def test_a_stage_that_dies_takes_the_process_along(ledger: Ledger) -> None:
    """Half a pipeline would hold leases and answer heartbeats for ever."""
    with running(ledger) as (runner, exits):
        runner._to_record.put(cast("Any", "not a piece of work"))
        eventually(lambda: exits)

    assert exits[0] == EXIT_BROKEN


def test_a_panic_in_a_stage_ends_the_process(ledger: Ledger) -> None:
    """What a Rust library raises when it panics is no Exception."""

    class Panic(BaseException):
        pass

    ledger.started(1)
    echo = open_echo(spec(), None)

    def encode(*_: Any) -> Any:
        raise Panic

    runner, _, exits = runner_of(ledger, Handled(echo, encode=encode))
    runner.start()
    eventually(lambda: exits)
    # What the dead first stage would have said to the second one.
    runner._to_device.put(None)
    runner.stop(0.1)

    assert exits[0] == EXIT_BROKEN


def test_an_item_of_too_many_prompts_fails_before_the_watchdog_ends_the_process(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    ledger.run(
        "UPDATE items SET input = CAST(:input AS jsonb) WHERE idx = 1",
        input='{"texts": ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]}',
    )

    with running(ledger, spec(seconds_per_item=0.25, batch_tokens=1), deadline=2.0) as (_, exits):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (2, 1)
    assert outcome(ledger, 1) == (None, "item_too_large")
    assert exits == []
