"""The pipeline over a real ledger, with the echo engine misbehaving as it is told."""

import csv
import io
import itertools
import threading
import time
from typing import Any, cast

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from db import chunks, interactive, jobs, leases
from db.doorbell import RecordingDoorbell
from db.recording import record
from models.registry import Registry
from tests.ledger import Ledger
from tests.pipeline import Exits, ended, running, spec
from tests.waiting import eventually
from workers.engines.base import Engine
from workers.engines.echo import open_echo
from workers.runner import EXIT_BROKEN, Runner
from workers.shelf import Shelf


def outcome(ledger: Ledger, idx: int) -> tuple[str, str | None]:
    [row] = ledger.rows("SELECT output->>'text' AS text, error_code FROM results WHERE idx = :idx", idx=idx)
    return row.text, row.error_code


def test_a_job_runs_to_its_end(ledger: Ledger) -> None:
    job_id = ledger.started(500)

    with running(ledger):
        job = ended(ledger, job_id)

    assert job.status == "completed" and job.succeeded == 500
    assert outcome(ledger, 42) == ("this is line 42", None)
    assert job.input_tokens == job.output_tokens == 4 * 500


def test_twins_get_the_output_of_their_original_and_cost_nothing(ledger: Ledger) -> None:
    job_id = ledger.submit(b"two words\nother\ntwo words\n")
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    assert outcome(ledger, 2) == ("two words", None)
    assert job.succeeded == 3 and job.output_tokens == 3


def test_a_poisonous_item_fails_alone(ledger: Ledger) -> None:
    job_id = ledger.submit(b"".join(b"line %d\n" % n if n != 7 else b"[[fail]]\n" for n in range(50)))
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (49, 1)
    assert outcome(ledger, 7) == (None, "engine_error")


def test_an_input_that_cannot_be_encoded_fails_alone(ledger: Ledger) -> None:
    job_id = ledger.submit(b"fine\n[[garbled]]\nfine too\n[[garbled]]\n")
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (2, 2)
    [first, twin] = ledger.rows("SELECT error_code, error_message FROM results WHERE outcome = 'failed'")
    assert first == twin == ("invalid_input", "this input is garbled")


def test_an_input_the_engine_leaves_out_when_it_encodes_fails_alone(ledger: Ledger) -> None:
    job_id = ledger.submit(b"fine\n[[unencoded]]\nfine too\n")
    ledger.ingest(job_id)

    with running(ledger) as (runner, _):
        job = ended(ledger, job_id)
        assert runner.leases_held() == 0

    assert (job.succeeded, job.failed) == (2, 1)
    assert outcome(ledger, 0) == ("fine", None)
    assert outcome(ledger, 1) == (None, "engine_error")
    assert outcome(ledger, 2) == ("fine too", None)


def test_an_output_the_engine_leaves_out_when_it_decodes_fails_alone(ledger: Ledger) -> None:
    job_id = ledger.submit(b"fine\n[[undecoded]]\nfine too\n")
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (2, 1)
    assert outcome(ledger, 1) == (None, "engine_error")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("UPDATE chunks SET params = '{\"unheard_of\": 1}'", id="parameters"),
        pytest.param("UPDATE items SET input = '{}' WHERE idx = 1", id="an input"),
    ],
)
def test_a_chunk_that_can_never_be_prepared_fails_and_does_not_come_again(ledger: Ledger, damage: str) -> None:
    job_id = ledger.submit(b"one\ntwo\none\n")
    ledger.ingest(job_id)
    ledger.run(damage)

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (0, 3)
    assert outcome(ledger, 0) == (None, "engine_error")
    assert [(row.attempt, row.crashes) for row in ledger.rows("SELECT attempt, crashes FROM chunks")] == [(1, 0)]


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


def test_an_item_that_does_not_fit_the_device_fails_alone(ledger: Ledger) -> None:
    data = b"".join(b"line %d\n" % n for n in range(30)) + b"word " * 60 + b"\n"
    job_id = ledger.submit(data)
    ledger.ingest(job_id)

    with running(ledger, spec(capacity=40)):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (30, 1)
    assert outcome(ledger, 30) == (None, "item_too_large")


@pytest.mark.parametrize(("long_input", "code"), [("error", "input_too_long"), ("truncate", None)])
def test_long_input_is_refused_or_cut_and_said_so(ledger: Ledger, long_input: str, code: str | None) -> None:
    job_id = ledger.submit(b"short\n" + b" ".join([b"word"] * 2000) + b"\n", long_input=long_input)
    ledger.ingest(job_id)

    with running(ledger):
        ended(ledger, job_id)

    [row] = ledger.rows("SELECT error_code, output->'truncated_tokens' AS cut FROM results WHERE idx = 1")
    assert row.error_code == code
    assert row.cut == (None if code else 2000 - 1024)


def test_cancel_reaches_a_running_chunk_within_a_second(ledger: Ledger) -> None:
    job_id = ledger.started(50)

    with running(ledger, spec(seconds_per_item=0.5)):
        eventually(lambda: ledger.job(job_id).running)
        with ledger.sessions.begin() as session:
            jobs.cancel(session, ledger.tenant, job_id)
        asked = time.monotonic()
        eventually(lambda: ledger.job(job_id).running == 0)
        took = time.monotonic() - asked
        ledger.finalize(job_id)

    job = ledger.job(job_id)
    assert job.status == "cancelled" and job.cancelled > 0
    assert job.succeeded + job.cancelled == 50
    assert took < 1.5


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


def test_a_model_that_cannot_be_loaded_touches_no_item(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    broken = spec(unavailable="the weights are damaged")
    registry = Registry([broken])
    shelf = Shelf(registry, lambda wanted: open_echo(wanted, None), capacity=2)
    runner = Runner(ledger.sessions, shelf, ledger.bell, "runner", ["echo"], 600, 0.05)

    runner.start()
    eventually(lambda: shelf.unavailable())
    runner.stop(1)

    assert "the weights are damaged" in shelf.unavailable()["echo"]
    assert ledger.counts(job_id) == {"queued": 3}
    assert [row.attempt for row in ledger.rows("SELECT attempt FROM chunks")] == [0]


def test_jobs_of_several_models_share_a_worker(ledger: Ledger) -> None:
    specs = [spec("echo"), spec("loud", transform="upper"), spec("back", transform="reverse")]
    ledger.registry = Registry(specs)
    found = [ledger.started(20, model=one.name) for one in specs]

    with running(ledger, *specs):
        for job_id in found:
            assert ended(ledger, job_id).succeeded == 20

    texts = {row.text for row in ledger.rows("SELECT output->>'text' AS text FROM results WHERE idx = 5")}
    assert texts == {"this is line 5", "THIS IS LINE 5", "5 enil si siht"}


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

    def cut_connections() -> None:
        while not stop.wait(0.1):
            cuts.append(time.monotonic())
            ledger.run("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()
            """)

    cutter = threading.Thread(target=cut_connections)
    with running(ledger, spec(seconds_per_item=0.02)):
        cutter.start()
        eventually(lambda: ledger.rows("SELECT 1 FROM chunks WHERE state = 'leased'"))
        eventually(lambda: len(cuts) >= 5)
        stop.set()
        cutter.join()
        assert ended(ledger, job_id).succeeded == 20


def test_the_measured_rate_is_kept(ledger: Ledger) -> None:
    job_id = ledger.started(100)

    with running(ledger, spec(seconds_per_item=0.001)):
        ended(ledger, job_id)

    [rate] = ledger.rows("SELECT * FROM model_rates")
    assert rate.model == "echo" and rate.output_per_input == 1.0
    assert 100 < rate.tokens_per_second < 8_000


def test_every_chunk_names_the_recipe_of_its_results(ledger: Ledger) -> None:
    job_id = ledger.started(10)

    with running(ledger):
        ended(ledger, job_id)

    [row] = ledger.rows("SELECT recipe FROM chunks JOIN recipes ON recipes.id = chunks.recipe_id")
    assert row.recipe["model"] == "echo" and row.recipe["engine"] == "echo"


class Handled:
    """An engine of the tests' own: another one, with some of its calls replaced."""

    def __init__(self, engine: Engine, **calls: Any) -> None:
        self._engine, self._calls = engine, calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._engine, name)


def runner_of(ledger: Ledger, engine: Any, deadline: float = 600) -> tuple[Runner, Shelf, Exits]:
    shelf, exits = Shelf(Registry([spec()]), lambda _: cast("Engine", engine), capacity=2), Exits()
    return Runner(ledger.sessions, shelf, ledger.bell, "runner", ["echo"], deadline, 0.05, exits), shelf, exits


def held(ledger: Ledger) -> list[Any]:
    return ledger.rows("SELECT id, crashes FROM chunks WHERE state = 'leased' ORDER BY id")


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
        # Time for the reader to claim the next chunk, which it would do if nothing held it back.
        time.sleep(0.05)
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
    both = threading.Event()
    clocks: list[int] = []

    def generate(prompts: Any, params: Any, should_stop: Any, on_drained: Any) -> Any:
        begun.append(len(prompts))
        first, *others = echo.generate(prompts, params, should_stop)
        yield first
        if len(begun) == 1:
            on_drained()
            assert both.wait(10), "no chunk was let in"
            clocks.append(len(held(ledger)))
        else:
            both.set()
        yield from others

    runner, _, _ = runner_of(ledger, Handled(echo, generate=generate))
    runner.start()
    eventually(lambda: ledger.job(job_id).succeeded == 6)
    runner.stop(1)

    assert begun == [2, 2, 2] and clocks[0] >= 2
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


@pytest.mark.parametrize("call", ["claim", "items_of"])
def test_an_engine_is_put_back_once_for_every_time_it_was_taken(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Too seldom, and it is never put away; too often, and it is put away under the running chunk."""
    job_id = ledger.started(6)
    ledger.recut(job_id, 1)
    really, tries = getattr(chunks, call), itertools.count()

    def fails_every_other_time(*args: Any) -> Any:
        if next(tries) % 2 == 0:
            raise OperationalError("SELECT", {}, Exception("the database is away"))
        return really(*args)

    monkeypatch.setattr(chunks, call, fails_every_other_time)
    runner, shelf, _ = runner_of(ledger, open_echo(spec(), None))
    runner.start()
    eventually(lambda: ledger.job(job_id).succeeded == 6)
    runner.stop(1)

    assert shelf._in_use == {"echo": 0}


def test_an_output_that_cannot_be_decoded_fails_alone(ledger: Ledger) -> None:
    job_id = ledger.started(10)
    echo = open_echo(spec(), None)

    def decode(generations: list[Any], params: Any) -> list[str]:
        if any(" 7" in generation.tokens for generation in generations):
            raise ValueError("no such token")
        return echo.decode(generations, params)

    runner, _, _ = runner_of(ledger, Handled(echo, decode=decode))
    runner.start()
    job = ended(ledger, job_id)
    runner.stop(1)

    assert (job.succeeded, job.failed) == (9, 1)
    assert outcome(ledger, 7) == (None, "engine_error")


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


def test_what_was_cut_is_counted_and_said_in_csv_too(ledger: Ledger) -> None:
    data = b"text\n" + b" ".join([b"word"] * 2000) + b"\nfour words are here\nok\n"
    job_id = ledger.submit(data, {"type": "csv"}, long_input="truncate", params={"max_new_tokens": 3})
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.truncated_inputs, job.cut_outputs) == (1, 2)
    notices = [row["error"] for row in csv.DictReader(io.StringIO(ledger.read(job.output_file_id).decode()))]
    assert "input_truncated: the last 976 tokens" in notices[0] and "output_cut" in notices[0]
    assert notices[1].startswith("output_cut") and notices[2] == ""


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
