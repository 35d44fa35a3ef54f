"""What usage counts, and that it is what jobs counted, whatever happens to them on the way."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db import children, interactive, jobs, keys, leases, usage
from db.chunks import Claim
from db.errors import LeaseLost
from db.recording import record
from db.states import JobStatus
from db.usage import Amounts, Dimension, Spent, Used
from models.registry import Registry
from tests.accounts import assert_conserved
from tests.ledger import Ledger
from tests.pipeline import Exits, ended, running, spec
from tests.waiting import eventually
from workers.engines.echo import open_echo
from workers.reconcile import Reconciler
from workers.runner import Runner
from workers.shelf import Shelf

COUNTS = ("succeeded", "failed", "input_tokens", "output_tokens", "device_seconds")


def today(ledger: Ledger) -> date:
    [row] = ledger.rows("SELECT (now() AT TIME ZONE 'UTC')::date AS day")
    found: date = row.day
    return found


def look(ledger: Ledger, *by: Dimension, tenant: str | None = None) -> list[Used]:
    day = today(ledger)
    with ledger.sessions() as session:
        # Around today: the test may run at midnight.
        return usage.used(session, tenant or ledger.tenant, day - timedelta(days=1), day + timedelta(days=1), by)


def used(ledger: Ledger) -> Amounts:
    return usage.total(look(ledger))


def settle(ledger: Ledger, claim: Claim, spent: Spent, items: int | None = None, fail: int = 0) -> None:
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim, fail)[:items], spent=spent)


def claimed(ledger: Ledger, job_id: str) -> Claim:
    claim = ledger.claim(job_id)
    assert claim is not None
    return claim


def reclaim(ledger: Ledger) -> None:
    while True:
        with ledger.sessions.begin() as session:
            if leases.reclaim(session) is None:
                return


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE usage_days SET succeeded = succeeded + 1",
        "UPDATE usage_days SET device_seconds = device_seconds - 0.01",
        "UPDATE jobs SET input_tokens = input_tokens + 1",
        "UPDATE jobs SET device_seconds = 2 * device_seconds",
        "UPDATE results SET outcome = 'failed', error_code = 'e' WHERE idx = 0",
        "DELETE FROM usage_days",
    ],
)
def test_the_check_of_these_tests_notices_what_is_not_conserved(ledger: Ledger, damage: str) -> None:
    settle(ledger, claimed(ledger, ledger.started(3)), Spent(0.5))
    assert_conserved(ledger)

    ledger.run(damage)

    with pytest.raises(AssertionError):
        assert_conserved(ledger)


def test_a_recorded_chunk_counts_for_its_tenant_day_model_and_task(ledger: Ledger) -> None:
    job_id = ledger.started(10)
    claim = claimed(ledger, job_id)

    settle(ledger, claim, Spent(1.5, 30.0), fail=3)

    [row] = look(ledger, *Dimension)
    assert row == Used(Amounts(7, 3, 14, 7, 1.5, 30.0), "default", today(ledger), "echo", "translation")
    job = ledger.job(job_id)
    assert (job.device_seconds, job.joules) == (1.5, 30.0)


def test_the_chunks_of_a_day_add_up_in_one_row(ledger: Ledger) -> None:
    for _ in range(2):
        job_id = ledger.started(6)
        ledger.recut(job_id, 2)
        for _ in range(3):
            settle(ledger, claimed(ledger, job_id), Spent(0.5))

    assert look(ledger) == [Used(Amounts(12, 0, 24, 12, 3.0))]
    assert len(ledger.rows("SELECT 1 FROM usage_days")) == 1
    assert_conserved(ledger)


def test_energy_is_null_until_some_was_measured_and_then_the_sum_of_that(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    ledger.recut(job_id, 1)

    seen = []
    for joules in (None, 2.0, None):
        settle(ledger, claimed(ledger, job_id), Spent(1.0, joules))
        seen.append((used(ledger).joules, ledger.job(job_id).joules))

    assert seen == [(None, None), (2.0, 2.0), (2.0, 2.0)]


def test_days_are_those_of_utc_wherever_the_session_is(ledger: Ledger) -> None:
    claim = claimed(ledger, ledger.started(1))

    with ledger.sessions.begin() as session:
        # Half of the day it is tomorrow there, and in the other place yesterday.
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
            session.execute(text(f"SET LOCAL TIME ZONE '{zone}'"))
            usage.waste(session, claim.job_id, claim.model, Spent(1.0))

    assert [row.day for row in look(ledger, Dimension.DAY)] == [today(ledger)]


def test_twins_are_items_that_cost_nothing(ledger: Ledger) -> None:
    job_id = ledger.submit(b"two words\nother\ntwo words\n" + b"two words\n" * 7)
    ledger.ingest(job_id)

    with running(ledger):
        ended(ledger, job_id)

    amounts = used(ledger)
    assert (amounts.succeeded, amounts.input_tokens, amounts.output_tokens) == (10, 3, 3)
    assert amounts.device_seconds > 0
    assert_conserved(ledger)


def test_lines_refused_while_reading_were_not_run_and_do_not_count(ledger: Ledger) -> None:
    job_id = ledger.submit(b'{"text": "fine"}\n{"text": 5}\n', {"type": "jsonl"}, on_error="skip")
    ledger.ingest(job_id)

    ledger.record(claimed(ledger, job_id))

    assert ledger.counts(job_id) == {"succeeded": 1, "failed": 1}
    assert used(ledger) == Amounts(1, 0, 2, 1)


def test_a_dry_run_uses_nothing(ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\ntwo\n", dry_run=True)
    ledger.ingest(job_id)
    ledger.finalize(job_id)

    assert ledger.job(job_id).status == "completed"
    assert ledger.rows("SELECT 1 FROM usage_days") == []


def test_handing_back_what_was_not_begun_leaves_no_row(ledger: Ledger) -> None:
    settle(ledger, claimed(ledger, ledger.started(3)), Spent(), items=0)

    assert ledger.rows("SELECT 1 FROM usage_days") == []


def test_the_time_of_a_chunk_given_back_in_the_middle_counts(ledger: Ledger) -> None:
    job_id = ledger.started(4)
    settle(ledger, claimed(ledger, job_id), Spent(2.0), items=1)
    settle(ledger, claimed(ledger, job_id), Spent(3.0))

    assert used(ledger) == Amounts(4, 0, 8, 4, 5.0)
    assert_conserved(ledger)


def test_a_late_worker_writes_nothing_but_what_it_took(ledger: Ledger) -> None:
    job_id = ledger.started(2)
    late = claimed(ledger, job_id)
    ledger.lapse(late)
    reclaim(ledger)
    with pytest.raises(LeaseLost):
        settle(ledger, late, Spent(9.0))
    assert ledger.rows("SELECT 1 FROM usage_days") == []

    with ledger.sessions.begin() as session:
        usage.waste(session, job_id, late.model, Spent(9.0, 4.0))
    settle(ledger, claimed(ledger, job_id), Spent(1.0))

    assert used(ledger) == Amounts(2, 0, 4, 2, 10.0, 4.0)
    assert_conserved(ledger)


def test_what_a_deleted_job_used_stays_used(ledger: Ledger) -> None:
    job_id = ledger.started(5)
    settle(ledger, claimed(ledger, job_id), Spent(1.0))
    ledger.finalize(job_id)
    before = used(ledger)

    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, job_id)

    assert used(ledger) == before == Amounts(5, 0, 10, 5, 1.0)
    with ledger.sessions.begin() as session:
        # And work of it that is thrown away only now has nobody to pay for it.
        usage.waste(session, job_id, "echo", Spent(1.0))
    assert used(ledger) == before


def test_an_item_that_kills_its_workers_counts_as_failed_and_costs_what_was_measured(ledger: Ledger) -> None:
    job_id = ledger.started(2)
    ledger.recut(job_id, 1)
    settle(ledger, claimed(ledger, job_id), Spent(1.0))
    for _ in range(3):
        # What the dead workers took died with them.
        ledger.lapse(claimed(ledger, job_id))
        reclaim(ledger)

    assert ledger.counts(job_id) == {"succeeded": 1, "failed": 1}
    assert used(ledger) == Amounts(1, 1, 2, 1, 1.0)
    assert_conserved(ledger)


class History:
    """Everything that may happen to jobs, at random, and what it should come to."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.dice = ledger, random.Random(seed)
        self.expected: Counter[str] = Counter()
        self.held: list[Claim] = []
        self.lost: list[Claim] = []
        self.jobs = [self.new() for _ in range(2)]

    def new(self) -> str:
        job_id = self.ledger.started(self.dice.randint(1, 9))
        self.ledger.recut(job_id, self.dice.randint(1, 4))
        return job_id

    def step(self) -> None:
        often = [self.claim, self.record] * 4
        seldom = [self.submit, self.submit, self.kill, self.late, self.cancel, self.retry, self.end]
        self.dice.choice([*often, *seldom])()

    def spent(self) -> Spent:
        seconds = self.dice.choice([0.0, 0.5, 1.25])
        self.expected["device_seconds"] += seconds  # type: ignore[assignment]
        return Spent(seconds)

    def submit(self) -> None:
        self.jobs.append(self.new())

    def claim(self) -> None:
        if claim := self.ledger.claim(self.dice.choice(self.jobs)):
            self.held.append(claim)

    def record(self) -> None:
        """All of it, or a part; a job that is being cancelled keeps what there is."""
        if not self.held:
            return
        claim = self.held.pop(self.dice.randrange(len(self.held)))
        made = self.ledger.outcomes(claim, fail=self.dice.randint(0, 1))[: self.dice.choice([None, 1])]
        with self.ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, made, spent=self.spent())
        self.expected.update(result.outcome.value for result in made)
        for result in made:
            self.expected["input_tokens"] += result.input_tokens
            self.expected["output_tokens"] += result.output_tokens

    def kill(self) -> None:
        """A worker dies, or is taken for dead."""
        if not self.held:
            return
        claim = self.held.pop(self.dice.randrange(len(self.held)))
        self.ledger.lapse(claim)
        before = self.failed()
        reclaim(self.ledger)
        self.expected["failed"] += self.failed() - before
        self.lost.append(claim)

    def failed(self) -> int:
        [row] = self.ledger.rows("SELECT count(*) AS n FROM results WHERE error_code = 'worker_crashed'")
        found: int = row.n
        return found

    def late(self) -> None:
        """It was alive after all, and is told that its lease is gone."""
        if not self.lost:
            return
        claim = self.lost.pop()
        with pytest.raises(LeaseLost), self.ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, [], spent=Spent(100.0))
        with self.ledger.sessions.begin() as session:
            usage.waste(session, claim.job_id, claim.model, self.spent())

    def cancel(self) -> None:
        job_id = self.dice.choice(self.jobs)
        if self.ledger.job(job_id).status == JobStatus.IN_PROGRESS and self.dice.random() < 0.1:
            with self.ledger.sessions.begin() as session:
                jobs.cancel(session, self.ledger.tenant, job_id)

    def end(self) -> None:
        self.ledger.finalize(self.dice.choice(self.jobs))

    def retry(self) -> None:
        over = [job_id for job_id in self.jobs if self.ledger.job(job_id).status in ("completed", "cancelled")]
        unsuccessful = [job_id for job_id in over if self.ledger.job(job_id).succeeded < self.ledger.job(job_id).total]
        if not unsuccessful:
            return
        with self.ledger.sessions.begin() as session:
            new = children.retry(session, self.ledger.tenant, self.dice.choice(unsuccessful))
            jobs.submit(session, self.ledger.tenant, new)
        assert self.ledger.ingest(new.id)
        self.jobs.append(new.id)


@pytest.mark.parametrize("seed", range(6))
def test_usage_is_conserved_through_kills_lost_leases_cancels_and_retries(ledger: Ledger, seed: int) -> None:
    history = History(ledger, seed)

    for _ in range(60):
        history.step()

    assert_conserved(ledger)
    amounts = used(ledger)
    found = {name: getattr(amounts, name) for name in COUNTS}
    assert found == {name: pytest.approx(history.expected[name]) for name in COUNTS}
    assert amounts.succeeded > 0 and amounts.device_seconds > 0


def test_many_that_record_at_once_lose_nothing_and_do_not_wait_for_each_other_in_a_circle(ledger: Ledger) -> None:
    """Jobs of one tenant and model meet in one row; each holds a job of its own while it waits for that."""
    of_job = [ledger.started(20) for _ in range(4)]
    for job_id in of_job:
        ledger.recut(job_id, 1)
    problems: list[Exception] = []

    def work(job_id: str) -> None:
        try:
            while claim := ledger.claim(job_id):
                settle(ledger, claim, Spent(0.25))
        except Exception as exc:
            problems.append(exc)

    # Two workers a job, and the net under them all.
    threads = [threading.Thread(target=work, args=(job_id,)) for job_id in of_job * 2]
    for thread in threads:
        thread.start()
    for _ in range(5):
        Reconciler(ledger.sessions, ledger.store, ledger.bell).run()
    for thread in threads:
        thread.join()

    assert problems == []
    assert used(ledger) == Amounts(80, 0, 160, 80, 20.0)
    assert_conserved(ledger)


def test_a_worker_measures_what_its_device_took(ledger: Ledger) -> None:
    job_id = ledger.started(20)

    with running(ledger, spec(seconds_per_item=0.01)):
        job = ended(ledger, job_id)

    assert job.device_seconds >= 0.2 * 0.9
    assert job.joules is None
    assert_conserved(ledger)


def test_a_worker_that_lost_its_lease_lets_the_job_pay_for_what_it_took(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    begun = threading.Event()

    with running(ledger, spec(seconds_per_batch=1.0), begun=begun):
        assert begun.wait(10)
        ledger.run(
            "UPDATE chunks SET state = 'ready', lease_owner = NULL, lease_expires_at = NULL, hard_deadline = NULL"
        )
        ledger.run("UPDATE jobs SET queued = 3, running = 0")
        settle(ledger, claimed(ledger, job_id), Spent(0.125))
        job = eventually(lambda: (row := ledger.job(job_id)).device_seconds > 0.125 and row)

    assert job.succeeded == 3 and job.device_seconds < 60
    assert used(ledger).device_seconds == pytest.approx(job.device_seconds)
    assert_conserved(ledger)


class Metered:
    """A meter that adds a joule with every reading."""

    def __init__(self) -> None:
        self.readings: list[str] = []

    def joules(self, device: str) -> float | None:
        self.readings.append(device)
        return float(len(self.readings))


def runner_of(ledger: Ledger, meter: Any = None) -> tuple[Runner, Shelf]:
    shelf = Shelf(Registry([spec()]), lambda wanted: open_echo(wanted, None), capacity=2)
    runner = Runner(ledger.sessions, shelf, ledger.bell, "runner", ["echo"], 600, 0.05, Exits(), meter=meter)
    return runner, shelf


def test_energy_is_read_before_and_after_a_chunk(ledger: Ledger) -> None:
    job_id, meter = ledger.started(4), Metered()
    ledger.recut(job_id, 2)
    runner, shelf = runner_of(ledger, meter)

    runner.start()
    eventually(lambda: ledger.job(job_id).succeeded == 4)
    runner.stop(5)
    shelf.close()

    assert ledger.job(job_id).joules == used(ledger).joules == 2.0
    assert meter.readings == ["cpu"] * 4


def test_a_commit_whose_answer_is_lost_is_not_paid_for_twice(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    runner, shelf = runner_of(ledger)
    lost: list[float] = []

    def lose(session: Session) -> None:
        if threading.current_thread().name == "writer" and not lost:
            lost.append(ledger.job(job_id).device_seconds)
            raise OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly"))

    event.listen(ledger.sessions, "after_commit", lose)
    runner.start()
    eventually(lambda: lost)
    # It tries again, finds the chunk done, and throws away what is recorded already.
    runner.stop(5)
    shelf.close()

    job = ledger.job(job_id)
    assert job.succeeded == 3 and [job.device_seconds] == lost
    assert job.device_seconds > 0
    assert_conserved(ledger)


def test_single_requests_count_and_go_on_counting_when_they_are_forgotten(ledger: Ledger) -> None:
    new = jobs.NewJob(jobs.new_job_id(), "translation", "echo", {}, {"type": "jsonl"})
    with ledger.sessions.begin() as session:
        interactive.submit(session, ledger.tenant, new, {"text": "hello there"}, {})
    settle(ledger, claimed(ledger, new.id), Spent(0.5))
    assert ledger.finalize(new.id)
    ledger.run("UPDATE jobs SET created_at = now() - interval '1 d', completed_at = now() - interval '1 d'")

    with ledger.sessions.begin() as session:
        interactive.forget(session)

    assert ledger.rows("SELECT 1 FROM jobs") == []
    assert used(ledger) == Amounts(1, 0, 2, 1, 0.5)


@pytest.fixture
def filled(ledger: Ledger) -> Callable[..., list[Used]]:
    """Two tenants, three days, two models of two tasks; asks of the first week of 2026."""
    with ledger.sessions.begin() as session:
        other = keys.tenant(session, "other")
    for place, (tenant, day, model, task) in enumerate(
        [
            (ledger.tenant, "2026-01-01", "a", "translation"),
            (ledger.tenant, "2026-01-01", "b", "generation"),
            (ledger.tenant, "2026-01-02", "a", "translation"),
            (ledger.tenant, "2026-01-03", "a", "translation"),
            (other, "2026-01-02", "a", "translation"),
        ]
    ):
        ledger.run(
            "INSERT INTO usage_days (tenant_id, day, model, task, succeeded) VALUES (:tenant, :day, :model, :task, :n)",
            tenant=tenant,
            day=day,
            model=model,
            task=task,
            n=10**place,
        )

    def ask(first: int, last: int, *by: Dimension, tenant: str | None = ledger.tenant) -> list[Used]:
        with ledger.sessions() as session:
            return usage.used(session, tenant, date(2026, 1, first), date(2026, 1, last), by)

    return ask


def test_both_ends_of_the_time_asked_for_are_in_it(filled: Callable[..., list[Used]]) -> None:
    assert [usage.total(filled(*days)).succeeded for days in ((1, 3), (2, 3), (2, 2), (4, 7))] == [1111, 1100, 100, 0]


def test_usage_is_told_apart_by_what_was_asked_for(filled: Callable[..., list[Used]]) -> None:
    by_day = filled(1, 7, Dimension.DAY)
    by_both = filled(1, 7, Dimension.TASK, Dimension.MODEL)

    assert [(row.day, row.model, row.amounts.succeeded) for row in by_day] == [
        (date(2026, 1, 1), None, 11),
        (date(2026, 1, 2), None, 100),
        (date(2026, 1, 3), None, 1000),
    ]
    assert [(row.day, row.model, row.task, row.amounts.succeeded) for row in by_both] == [
        (None, "a", "translation", 1101),
        (None, "b", "generation", 10),
    ]


def test_only_the_operator_is_told_of_all_tenants(filled: Callable[..., list[Used]]) -> None:
    rows = filled(1, 7, Dimension.TENANT, tenant=None)

    assert [(row.tenant, row.amounts.succeeded) for row in rows] == [("default", 1111), ("other", 10_000)]
    assert {row.tenant for row in filled(1, 7, Dimension.TENANT)} == {"default"}


def test_without_dimensions_there_is_one_row_even_if_nothing_was_used(filled: Callable[..., list[Used]]) -> None:
    assert filled(5, 7) == [Used(Amounts())]
