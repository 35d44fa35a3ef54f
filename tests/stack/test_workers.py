"""Worker processes over the real broker: started, rung, killed, frozen, stopped."""

import signal
from pathlib import Path

import pytest
import redis

from cli.stack.valkey import Valkey
from db import jobs, leases
from db.audit import audit
from db.doorbell import INGEST, CeleryDoorbell, broker, model_queue
from db.session import Sessions
from models.registry import load
from tests.accounts import assert_conserved
from tests.ledger import Ledger
from tests.stack.conftest import REGISTRY, Stack
from tests.waiting import eventually
from workers.runner import EXIT_BROKEN

pytestmark = pytest.mark.slow


@pytest.fixture
def ledger(stack: Stack, sessions: Sessions) -> Ledger:
    """Submits into the database and the store that the stack's workers use, and rings as the API would."""
    [tenant] = [row.id for row in Ledger(sessions, "", stack.folder).rows("SELECT id FROM tenants")]
    bell = CeleryDoorbell(broker(stack.environment["BUSHEL_BROKER_URL"]))
    found = Ledger(sessions, tenant, stack.folder / "files", load([stack.registry]))
    found.bell = bell  # type: ignore[assignment]
    return found


def submit(ledger: Ledger, lines: int, model: str = "echo", poison: int | None = None, mark: str = "") -> str:
    texts = [f"{mark} line {n}" if n == poison else f"line {n}" for n in range(lines)]
    return ledger.submit("\n".join(texts).encode(), model=model)


def cut(ledger: Ledger, lines: int) -> str:
    """A started job of the slow model, in chunks of 20 items: a second each."""
    job_id = submit(ledger, lines, "echo-slow")
    ledger.ingest(job_id)
    ledger.recut(job_id, 20, "echo-slow")
    return job_id


def ended(ledger: Ledger, job_id: str, seconds: float = 60) -> dict[str, int]:
    """The counts of a job once it has ended soundly, with all that it used accounted for."""
    eventually(lambda: ledger.job(job_id).status in ("completed", "failed", "cancelled", "expired"), seconds)
    with ledger.sessions() as session:
        found = audit(session, ledger.tenant, job_id)
    assert found.ok, found
    assert_conserved(ledger)
    return ledger.counts(job_id)


def test_a_worker_runs_what_it_is_rung_for(stack: Stack, ledger: Ledger) -> None:
    stack.start_worker()
    job_id = submit(ledger, 1000)

    ledger.bell.ring(INGEST, job_id)

    assert ended(ledger, job_id) == {"succeeded": 1000}


def test_a_worker_finds_work_whose_ring_was_lost(stack: Stack, ledger: Ledger) -> None:
    job_id = submit(ledger, 100)

    stack.start_worker()

    assert ended(ledger, job_id) == {"succeeded": 100}


def test_without_a_broker_the_work_is_done_all_the_same(stack: Stack, ledger: Ledger, tmp_path: Path) -> None:
    job_id = submit(ledger, 100)

    stack.start_worker(BUSHEL_BROKER_URL=f"redis+socket://{tmp_path}/nobody.sock")

    assert ended(ledger, job_id) == {"succeeded": 100}


def test_a_ring_that_dies_with_the_worker_that_took_it_is_not_missed(
    stack: Stack, ledger: Ledger, valkey: Valkey, tmp_path: Path
) -> None:
    """Taken by a process that is frozen and then killed, it is in no queue and in nobody's hands."""
    queue = model_queue("echo")
    stack.start_worker("taker", queue)
    with redis.Redis.from_url(valkey.operator_url) as operator:
        eventually(lambda: operator.info("clients")["blocked_clients"] == 1, 60)
        stack.processes["taker"].send_signal(signal.SIGSTOP)
        job_id = submit(ledger, 100)
        ledger.ingest(job_id)
        assert operator.llen(f"bushel:{queue}") == 0
        assert operator.keys("*unacked*") == []
    stack.kill("taker")

    # No ring reaches it either.
    stack.start_worker(BUSHEL_BROKER_URL=f"redis+socket://{tmp_path}/nobody.sock")

    assert ended(ledger, job_id) == {"succeeded": 100}


def test_io_and_models_may_be_served_by_different_processes(stack: Stack, ledger: Ledger) -> None:
    stack.start_worker("io", "bushel.io")
    stack.start_worker("model", "bushel.model.echo")
    job_id = submit(ledger, 100)
    ledger.bell.ring(INGEST, job_id)

    assert ended(ledger, job_id) == {"succeeded": 100}
    eventually(lambda: len(ledger.rows("SELECT 1 FROM workers")) == 2)
    found = ledger.rows("SELECT models FROM workers ORDER BY models::text")
    assert [row.models for row in found] == [["echo"], []]


def test_kill_9_in_the_middle_of_a_chunk_loses_and_doubles_nothing(stack: Stack, ledger: Ledger) -> None:
    """The lease is lapsed by hand here; that a lapse comes by itself is tested on the statement."""
    job_id = cut(ledger, 100)
    stack.start_worker("victim")
    eventually(lambda: ledger.job(job_id).succeeded, 30)

    stack.kill("victim")
    [row] = ledger.rows("SELECT sum(items) AS items FROM chunks WHERE state = 'leased'")
    assert row.items > 0
    ledger.run("UPDATE chunks SET lease_expires_at = now() - interval '1 s' WHERE state = 'leased'")
    stack.start_worker("heir")

    assert ended(ledger, job_id) == {"succeeded": 100}
    [row] = ledger.rows("SELECT max(crashes) AS crashes, max(attempt) AS attempt FROM chunks")
    assert (row.crashes, row.attempt) == (1, 2)


def test_a_restarted_worker_takes_over_at_once_from_the_one_killed_in_its_slot(stack: Stack, ledger: Ledger) -> None:
    job_id = cut(ledger, 100)
    stack.start_worker("victim", BUSHEL_WORKER_SLOT="worker-1")
    eventually(lambda: ledger.job(job_id).succeeded, 30)

    stack.kill("victim")
    stack.start_worker("heir", BUSHEL_WORKER_SLOT="worker-1")

    eventually(lambda: ledger.rows("SELECT 1 FROM chunks WHERE attempt = 2"), leases.LEASE_SECONDS / 2)
    assert ended(ledger, job_id) == {"succeeded": 100}


def test_an_abandoned_lease_is_taken_back_within_45_seconds(stack: Stack, ledger: Ledger) -> None:
    job_id = submit(ledger, 20)
    ledger.ingest(job_id)
    claim = ledger.claim(job_id, "dead worker")
    assert claim

    stack.start_worker("heir")

    eventually(lambda: ledger.rows("SELECT 1 FROM chunks WHERE attempt = 2"), leases.LEASE_SECONDS + 15)
    assert ended(ledger, job_id) == {"succeeded": 20}


def test_an_item_that_kills_its_worker_fails_alone(stack: Stack, ledger: Ledger) -> None:
    job_id = submit(ledger, 40, poison=17, mark="[[kill]]")
    ledger.ingest(job_id)

    for life in range(6):
        worker = stack.start_worker(f"life-{life}")
        final = eventually(lambda worker=worker: worker.poll() or _is_over(ledger, job_id), 60)
        if final != -signal.SIGKILL:
            break
        stack.processes.pop(f"life-{life}")
        ledger.run("UPDATE chunks SET lease_expires_at = now() - interval '1 s' WHERE state = 'leased'")

    assert ended(ledger, job_id) == {"succeeded": 39, "failed": 1}
    [row] = ledger.rows("SELECT idx, error_code FROM results WHERE outcome = 'failed'")
    assert (row.idx, row.error_code) == (17, "worker_crashed")
    assert life == 4  # four deaths, and the fifth life finds nothing left to die of


def test_a_worker_whose_engine_is_broken_is_gone_within_a_second(stack: Stack, ledger: Ledger) -> None:
    job_id = submit(ledger, 40, poison=17, mark="[[broken]]")
    ledger.ingest(job_id)

    worker = stack.start_worker("spoiled")
    eventually(lambda: "the engine is broken" in stack.log("spoiled"), 60)
    assert worker.wait(1) == EXIT_BROKEN

    # It was the engine's fault, so nobody has failed.
    assert ledger.rows("SELECT 1 FROM results WHERE outcome = 'failed'") == []
    assert ledger.job(job_id).status == "in_progress"


def test_an_item_over_the_token_budget_fails_alone_and_no_process_ends(stack: Stack, ledger: Ledger) -> None:
    stack.registry.write_text(REGISTRY.replace("markers = true }", "markers = true, capacity = 40 }"))
    lines = [f"line {n}" for n in range(1_000)]
    lines[500] = "word " * 60
    job_id = ledger.submit("\n".join(lines).encode())
    ledger.ingest(job_id)

    worker = stack.start_worker()

    assert ended(ledger, job_id) == {"succeeded": 999, "failed": 1}
    [row] = ledger.rows("SELECT idx, error_code FROM results WHERE outcome = 'failed'")
    assert (row.idx, row.error_code) == (500, "item_too_large")
    # One process from the first to the last, at which nothing was charged.
    assert worker.poll() is None
    assert len(ledger.rows("SELECT 1 FROM workers")) == 1
    assert ledger.rows("SELECT DISTINCT attempt, crashes FROM chunks") == [(1, 0)]


def _is_over(ledger: Ledger, job_id: str) -> bool:
    return bool(ledger.job(job_id).completed_at)


def test_sigterm_hands_the_chunk_back_and_leaves_cleanly(stack: Stack, ledger: Ledger) -> None:
    job_id = cut(ledger, 100)
    stack.start_worker("leaver", BUSHEL_STOP_GRACE_SECONDS="0.2")
    eventually(lambda: ledger.job(job_id).running, 30)

    assert stack.stop("leaver") == 0

    job = ledger.job(job_id)
    assert job.running == 0 and job.queued > 0
    assert [row.crashes for row in ledger.rows("SELECT DISTINCT crashes FROM chunks")] == [0]
    assert ledger.rows("SELECT 1 FROM workers") == []
    stack.start_worker("next")
    assert ended(ledger, job_id) == {"succeeded": 100}


def test_cancel_stops_a_running_job_and_keeps_what_is_finished(stack: Stack, ledger: Ledger) -> None:
    job_id = cut(ledger, 400)
    stack.start_worker()
    eventually(lambda: ledger.job(job_id).succeeded, 30)

    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, job_id)

    counts = ended(ledger, job_id, seconds=5)
    assert counts["succeeded"] > 0 and counts["cancelled"] > 0


def test_a_forking_pool_is_refused(stack: Stack) -> None:
    from tests.stack.conftest import BIN

    process = stack.start("forking", [BIN / "celery", "-A", "workers.app", "worker", "--pool", "prefork"])

    assert process.wait(30) != 0
    assert "--pool threads" in stack.log("forking")


@pytest.mark.parametrize("variable", ["BUSHEL_DATABASE_URL", "BUSHEL_BROKER_URL"])
def test_a_missing_setting_stops_the_worker_and_is_named(stack: Stack, variable: str) -> None:
    from tests.stack.conftest import BIN

    del stack.environment[variable]
    process = stack.start("unset", [BIN / "celery", "-A", "workers.app", "worker", "--pool", "threads"])

    assert process.wait(30) != 0
    assert f"{variable} is not set" in stack.log("unset")
    assert "Traceback" not in stack.log("unset")


def test_forged_messages_harm_nobody(stack: Stack, ledger: Ledger) -> None:
    stack.start_worker()
    for args in [(), ("job_none",), (5,), ({"a": 1},), ("x" * 10_000,), ("job'; DROP TABLE jobs",)]:
        ledger.bell.ring(INGEST, *args)  # type: ignore[arg-type]
        ledger.bell.ring("bushel.finalize", *args)  # type: ignore[arg-type]
        ledger.bell.ring("no.such.task", *args)  # type: ignore[arg-type]
    job_id = submit(ledger, 10)
    ledger.bell.ring(INGEST, job_id)

    assert ended(ledger, job_id) == {"succeeded": 10}
    assert stack.processes["worker"].poll() is None
