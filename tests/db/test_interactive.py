"""Single requests that somebody waits for: they go first, are answered at once, and leave nothing behind."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from db import chunks, interactive, jobs, rates, upkeep
from db.audit import audit
from db.doorbell import WORK
from db.errors import NotFound
from db.jobs import NewJob
from db.lines import ResultRow
from db.notices import Listener
from models.registry import Registry
from models.spec import EngineKind, ModelSpec, Task
from tests.ledger import Ledger
from tests.pipeline import running
from tests.waiting import eventually
from workers.reconcile import Reconciler

CHAT = ModelSpec("chat", Task.GENERATION, Path("/nowhere"), EngineKind.ECHO, options={"markers": True})
BODY = {"text": "hello there", "request": {"model": "chat"}}


@pytest.fixture
def listener(ledger: Ledger, database_url: str) -> Iterator[Listener]:
    ledger.registry = Registry([CHAT])
    listener = Listener(database_url)
    yield listener
    listener.stop()


def ask(ledger: Ledger, body: dict[str, Any] = BODY, params: dict[str, Any] | None = None, **fields: Any) -> str:
    new = NewJob(
        jobs.new_job_id(),
        "generation",
        "chat",
        {},
        {"type": "jsonl"},
        dialect="openai",
        endpoint="/v1/chat/completions",
        **fields,
    )
    with ledger.sessions.begin() as session:
        return interactive.submit(session, ledger.tenant, new, body, params or {}).id


def answer(ledger: Ledger, job_id: str) -> ResultRow | None:
    with ledger.sessions() as session:
        return interactive.answer(session, job_id)


def test_a_request_is_answered_by_the_next_free_worker(ledger: Ledger, listener: Listener) -> None:
    with running(ledger, CHAT) as (runner, _):
        job_id = ask(ledger)
        runner.wake()
        assert listener.wait(job_id, lambda: answer(ledger, job_id) is not None, timeout=10)

    found = answer(ledger, job_id)
    assert found is not None and found.status == "succeeded" and found.text == "hello there"
    assert found.input == BODY and (found.input_tokens, found.output_tokens) == (2, 2)
    assert found.finished_at is not None and found.finished_at > 1.7e9


def test_it_is_an_ordinary_job_to_the_ledger(ledger: Ledger) -> None:
    job_id = ask(ledger)

    job = ledger.job(job_id)
    assert (job.status, job.total, job.queued, job.interactive) == ("in_progress", 1, 1, True)
    with ledger.sessions() as session:
        assert audit(session, ledger.tenant, job_id).ok
        assert jobs.listing(session, ledger.tenant, None, 10).rows == []


def test_it_goes_before_every_job(ledger: Ledger) -> None:
    ledger.registry = Registry([CHAT])
    ledger.started(5, model="chat", task="generation", priority=100)
    job_id = ask(ledger)

    with ledger.sessions() as session:
        assert chunks.candidates(session, ["chat"], ["chat"])[0].job_id == job_id


def test_jobs_that_have_starved_do_not_keep_it_waiting(ledger: Ledger) -> None:
    """Where many jobs take turns, there is always one that has not been served for minutes."""
    ledger.registry = Registry([CHAT])
    served, starved = (ledger.started(5, model="chat", task="generation") for _ in range(2))
    ledger.run("UPDATE jobs SET in_progress_at = now() - interval '1 hour'")
    ledger.run("UPDATE jobs SET last_claimed_at = now() - interval '1 minute' WHERE id = :job", job=served)
    job_id = ask(ledger)

    with ledger.sessions() as session:
        assert [found.job_id for found in chunks.candidates(session, ["chat"], ["chat"])] == [job_id, starved, served]


def test_requests_without_end_do_not_starve_all_jobs(ledger: Ledger) -> None:
    ledger.registry = Registry([CHAT])
    starved = [ledger.started(5, model="chat", task="generation") for _ in range(2)]
    ledger.run("UPDATE jobs SET in_progress_at = now() - interval '1 hour'")
    ledger.run("UPDATE jobs SET last_claimed_at = now() - interval '3 minutes' WHERE id = :job", job=starved[0])
    job_id = ask(ledger)

    with ledger.sessions() as session:
        found = [found.job_id for found in chunks.candidates(session, ["chat"], ["chat"])]
    assert found[-1] == job_id and set(found[:-1]) == set(starved)


def test_a_failure_is_an_answer_too(ledger: Ledger, listener: Listener) -> None:
    with running(ledger, CHAT) as (runner, _):
        job_id = ask(ledger, {"text": "[[fail]]"})
        runner.wake()
        assert listener.wait(job_id, lambda: answer(ledger, job_id) is not None, timeout=10)

    found = answer(ledger, job_id)
    assert found is not None and (found.status, found.error_code) == ("failed", "engine_error")


def test_it_ends_without_files_and_without_a_word_on_the_models_speed(ledger: Ledger, listener: Listener) -> None:
    with running(ledger, CHAT) as (runner, _):
        job_id = ask(ledger)
        runner.wake()
        eventually(lambda: ledger.finalize(job_id))

    job = ledger.job(job_id)
    assert (job.status, job.output_file_id, job.error_file_id) == ("completed", None, None)
    with ledger.sessions() as session:
        assert rates.measured(session, "chat") is None


def test_giving_up_cancels_it_and_tells_whoever_waits(ledger: Ledger, listener: Listener) -> None:
    job_id = ask(ledger)
    assert not listener.wait(job_id, lambda: answer(ledger, job_id) is not None, timeout=0.1)

    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, job_id)
    assert ledger.finalize(job_id)

    assert listener.wait(job_id, lambda: answer(ledger, job_id) is not None, timeout=0)
    found = answer(ledger, job_id)
    assert found is not None and found.status == "cancelled" and found.finished_at is None


def test_one_whose_client_died_expires(ledger: Ledger) -> None:
    job_id = ask(ledger, expires_in=timedelta(seconds=-1))

    with ledger.sessions.begin() as session:
        assert upkeep.expire_jobs(session) == [job_id]
    ledger.finalize(job_id)

    found = answer(ledger, job_id)
    assert found is not None and found.status == "expired"


def test_copies_are_work_and_are_answered_together(ledger: Ledger, listener: Listener) -> None:
    with running(ledger, CHAT) as (runner, _):
        job_id = ask(ledger, params={"n": 3, "temperature": 1})
        assert ledger.job(job_id).queued_tokens == 3 * ledger.rows("SELECT input_tokens FROM items")[0].input_tokens
        runner.wake()
        assert listener.wait(job_id, lambda: answer(ledger, job_id) is not None, timeout=10)

    found = answer(ledger, job_id)
    assert found is not None and found.output is not None
    assert [choice["text"] for choice in found.output["choices"]] == ["hello there"] * 3


def test_what_ended_an_hour_ago_is_forgotten_and_nothing_else(ledger: Ledger) -> None:
    old, recent, open_still, batch = ask(ledger), ask(ledger), ask(ledger), ledger.started(1)
    for job_id in (old, recent, batch):
        with ledger.sessions.begin() as session:
            jobs.cancel(session, ledger.tenant, job_id)
        ledger.finalize(job_id)
    ledger.run("UPDATE jobs SET created_at = created_at - interval '2 hours'")
    ledger.run(
        "UPDATE jobs SET cancelled_at = cancelled_at - interval '61 minutes' WHERE id = ANY(:old)", old=[old, batch]
    )

    Reconciler(ledger.sessions, ledger.store, ledger.bell).run()

    assert {row.id for row in ledger.rows("SELECT id FROM jobs")} == {recent, open_still, batch}
    assert ledger.rows("SELECT 1 FROM items WHERE job_id = :job", job=old) == []
    with pytest.raises(NotFound):
        answer(ledger, old)


def test_a_lost_ring_is_rung_again_for_every_model_that_is_waited_for(ledger: Ledger) -> None:
    ask(ledger)
    job_id = ledger.started(3)
    ledger.recut(job_id, 1, "one")
    ledger.run("UPDATE chunks SET model = 'two' WHERE id = (SELECT max(id) FROM chunks)")
    ledger.run("UPDATE jobs SET model = NULL WHERE id = :job", job=job_id)
    ledger.bell.rings.clear()

    Reconciler(ledger.sessions, ledger.store, ledger.bell).run()

    assert sorted(ledger.bell.rings) == [(WORK, "chat"), (WORK, "one"), (WORK, "two")]
