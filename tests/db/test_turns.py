"""Whose turn it is at the device: how many chunks a worker holds, and in what order they run."""

import sys
import threading
import traceback
from typing import Any

from db import interactive, jobs
from tests.ledger import Ledger
from tests.pipeline import Handled, held, runner_of, spec
from tests.waiting import eventually
from workers.engines.echo import open_echo
from workers.keeper import Keeper
from workers.runner import Runner


def has_claimed_what_it_may(runner: Runner, ledger: Ledger) -> bool:
    """Whether the first stage has a chunk at hand, or is held up until none is held, or finds none."""
    [reader] = [thread for thread in runner._threads if thread.name == "reader"]
    assert reader.ident is not None
    calls = traceback.walk_stack(sys._current_frames()[reader.ident])
    is_held_up = any(frame.f_code is Keeper.wait_until_idle.__code__ for frame, _ in calls)
    return runner._to_device.qsize() > 0 or is_held_up or not ledger.rows("SELECT FROM chunks WHERE state = 'ready'")


def test_a_chunk_that_cost_a_worker_is_held_alone(ledger: Ledger) -> None:
    """Else the next item to be cut out would die with the one that kills, and be failed beside it."""
    job_id = ledger.started(12)
    ledger.recut(job_id, 1)
    ledger.run("UPDATE chunks SET crashes = 1 WHERE id % 3 = 0")
    seen: list[list[int]] = []
    echo = open_echo(spec(), None)

    def crashes() -> list[int]:
        return [row.crashes for row in held(ledger)]

    def generate(*args: Any) -> Any:
        eventually(lambda: has_claimed_what_it_may(runner, ledger))
        # What it claims beside others and should not, it gives back at once.
        seen.append(eventually(lambda: now if (now := crashes()) == [1] or 1 not in now else None))
        return echo.generate(*args)

    runner, _, _ = runner_of(ledger, Handled(echo, generate=generate))
    runner.start()
    eventually(lambda: ledger.job(job_id).succeeded == 12)
    runner.stop(1)

    assert len(seen) == 12
    assert [crashes for crashes in seen if 1 in crashes] == [[1]] * 4


def test_a_chunk_begins_while_the_last_batches_of_the_one_before_are_on_the_device(ledger: Ledger) -> None:
    job_id = ledger.started(6)
    ledger.recut(job_id, 2)
    echo = open_echo(spec(), None)
    begun: list[int] = []
    both, looked = threading.Event(), threading.Event()
    leased: list[int] = []

    def generate(prompts: Any, params: Any, should_stop: Any, on_drained: Any) -> Any:
        begun.append(len(prompts))
        first, *others = echo.generate(prompts, params, should_stop)
        yield first
        if len(begun) == 1:
            on_drained()
            assert both.wait(10), "no chunk was let in"
            leased.append(len(held(ledger)))
            looked.set()
        else:
            both.set()
            assert looked.wait(10), "the first chunk never looked"
        yield from others

    runner, _, _ = runner_of(ledger, Handled(echo, generate=generate))
    runner.start()
    eventually(lambda: ledger.job(job_id).succeeded == 6)
    runner.stop(1)

    assert begun == [2, 2, 2] and leased[0] >= 2
    [row] = ledger.rows("SELECT device_seconds FROM jobs WHERE id = :id", id=job_id)
    assert 0 < row.device_seconds <= runner.device.seconds()[0] + 1e-3


def test_only_one_chunk_waits_for_the_device_so_that_what_is_urgent_is_third(ledger: Ledger) -> None:
    job_id = ledger.started(8)
    ledger.recut(job_id, 1)
    begun, gate = threading.Event(), threading.Event()
    echo = open_echo(spec(), None)

    def generate(*args: Any) -> Any:
        begun.set()
        gate.wait()
        return echo.generate(*args)

    runner, _, _ = runner_of(ledger, Handled(echo, generate=generate))
    runner.start()
    eventually(lambda: begun.is_set() and len(held(ledger)) >= 2)
    urgent = ledger.started(1, priority=5)
    gate.set()
    eventually(lambda: ledger.job(urgent).succeeded and ledger.job(job_id).succeeded == 8)
    runner.stop(1)

    order = [row.job_id for row in ledger.rows("SELECT job_id FROM results ORDER BY finished_at")]
    assert order.index(urgent) == 2


def test_a_long_chunk_makes_way_between_slices_for_a_request_that_somebody_waits_for(ledger: Ledger) -> None:
    # More than a slice each, as long as the pace is unknown.
    job_id = ledger.submit(b"".join(b"%d" % line + b" word" * 400 + b"\n" for line in range(4)))
    ledger.ingest(job_id)
    ledger.recut(job_id, 4)
    begun, gate = threading.Event(), threading.Event()
    echo = open_echo(spec(), None)

    def generate(*args: Any) -> Any:
        begun.set()
        gate.wait()
        return echo.generate(*args)

    runner, _, _ = runner_of(ledger, Handled(echo, generate=generate))
    runner.start()
    assert begun.wait(10)
    new = jobs.NewJob(jobs.new_job_id(), "translation", "echo", {}, {"type": "jsonl"})
    with ledger.sessions.begin() as session:
        interactive.submit(session, ledger.tenant, new, {"text": "x"}, {})
    runner.wake()
    # At hand, and not only claimed: it makes others make way when it could begin.
    eventually(lambda: runner._to_device.qsize())
    gate.set()
    eventually(lambda: ledger.job(new.id).succeeded and ledger.job(job_id).succeeded == 4)
    runner.stop(1)

    order = [row.job_id for row in ledger.rows("SELECT job_id FROM results ORDER BY finished_at")]
    assert order.index(new.id) == 1
