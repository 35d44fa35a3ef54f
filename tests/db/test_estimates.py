"""Estimates are kept as they were made, and compared with what became of them."""

import math
import random
from typing import Any

import pytest

from db import estimates, jobs, rates, workers
from db.bands import MAX_LOG_ERROR, PRIOR_VARIANCE, SHARE, Spread, band
from db.estimates import Record
from db.outlook import outlook, surroundings
from tests.ledger import Ledger
from workers.reconcile import Reconciler


@pytest.fixture(autouse=True)
def measured(ledger: Ledger) -> None:
    """A worker that serves `echo`, of which it is known to do ten tokens a second."""
    with ledger.sessions.begin() as session:
        workers.beat(session, workers.Presence("first", "here", 1, "cpu", "1", ["echo"], ["echo"], {}))
    ledger.run("INSERT INTO model_rates (model, tokens_per_second, output_per_input) VALUES ('echo', 10, 1)")


def started(ledger: Ledger, items: int = 20, size: int = 1, **fields: Any) -> str:
    job_id = ledger.started(items, **fields)
    ledger.recut(job_id, size)
    return job_id


def keep(ledger: Ledger) -> int:
    with ledger.sessions.begin() as session:
        return estimates.keep(session)


def settle(ledger: Ledger) -> set[str]:
    with ledger.sessions.begin() as session:
        return estimates.settle(session)


def run_items(ledger: Ledger, job_id: str, chunks: int) -> None:
    for _ in range(chunks):
        claim = ledger.claim(job_id)
        assert claim
        ledger.record(claim)


def kept(ledger: Ledger) -> list[Any]:
    return ledger.rows("SELECT * FROM estimates ORDER BY made_at")


def shown(ledger: Ledger, job_id: str) -> tuple[float | None, ...]:
    with ledger.sessions() as session:
        job = jobs.get(session, ledger.tenant, job_id)
        seen = outlook(job, surroundings(session, [job]))
    return seen.eta_low_seconds, seen.eta_seconds, seen.eta_high_seconds


def remember(ledger: Ledger, ratio: float, eta: float = 100.0, days_ago: float = 1, model: str | None = "echo") -> None:
    """An estimate of a job of its own that took `ratio` times as long as was said, give or take 20 %."""
    job_id = ledger.started(1)
    ledger.run(
        "INSERT INTO estimates (job_id, model, progress, low_seconds, eta_seconds, high_seconds, made_at, ended_at)"
        " SELECT :job, :model, 0, :eta * 0.8, :eta, :eta * 1.2, ended - :actual * interval '1 s', ended"
        " FROM (SELECT now() - :ago * interval '1 day' AS ended) AS over",
        job=job_id,
        model=model,
        eta=eta,
        actual=ratio * eta,
        ago=days_ago,
    )


def record_of(ledger: Ledger) -> list[Record]:
    with ledger.sessions() as session:
        return estimates.track_record(session)


def factors(ledger: Ledger) -> tuple[float | None, float | None]:
    with ledger.sessions.begin() as session:
        estimates.learn(session, {"echo"})
    [row] = ledger.rows("SELECT low_factor, high_factor FROM model_rates")
    return row.low_factor, row.high_factor


def test_an_estimate_is_kept_as_the_owner_is_told_it(ledger: Ledger) -> None:
    job_id = started(ledger)

    assert keep(ledger) == 1

    [row] = kept(ledger)
    assert (row.job_id, row.model, row.progress, row.ended_at) == (job_id, "echo", 0.0, None)
    # 20 tokens in and 20 out at 10 a second.
    assert (row.low_seconds, row.eta_seconds, row.high_seconds) == shown(ledger, job_id)
    assert row.eta_seconds == 4.0


def test_one_estimate_is_kept_for_every_mark_that_is_passed(ledger: Ledger) -> None:
    job_id = started(ledger)

    made = [keep(ledger)]
    for _ in range(19):
        run_items(ledger, job_id, 1)
        made.append(keep(ledger))

    assert [place for place, new in enumerate(made) if new] == [0, 2, 5, 10, 15]
    assert [row.progress for row in kept(ledger)] == list(estimates.MARKS)
    etas = [row.eta_seconds for row in kept(ledger)]
    assert etas == sorted(etas, reverse=True)


def test_marks_that_were_passed_at_once_make_one_estimate(ledger: Ledger) -> None:
    job_id = started(ledger)
    run_items(ledger, job_id, 12)

    assert [keep(ledger), keep(ledger)] == [1, 0]
    assert [row.progress for row in kept(ledger)] == [0.6]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("UPDATE jobs SET paused = true", id="paused"),
        pytest.param("UPDATE jobs SET interactive = true", id="a single request"),
        pytest.param("UPDATE jobs SET status = 'finalizing'", id="all results are there"),
        pytest.param("DELETE FROM model_rates", id="never measured, nothing done"),
        pytest.param("DELETE FROM workers", id="nobody serves the model"),
    ],
)
def test_where_nothing_is_said_nothing_is_kept(ledger: Ledger, change: str) -> None:
    started(ledger)
    ledger.run(change)

    assert keep(ledger) == 0
    assert kept(ledger) == []


def test_jobs_that_get_on_are_not_crowded_out_by_those_that_wait(ledger: Ledger) -> None:
    for _ in range(3):
        started(ledger, 2)
    running = started(ledger, 20)
    run_items(ledger, running, 3)

    with ledger.sessions.begin() as session:
        assert estimates.keep(session, limit=1) == 1

    assert [row.job_id for row in kept(ledger)] == [running]


def test_an_end_is_that_of_the_last_result(ledger: Ledger) -> None:
    job_id = started(ledger, 2)
    keep(ledger)
    run_items(ledger, job_id, 2)
    assert settle(ledger) == set()
    ledger.finalize(job_id)

    assert settle(ledger) == {"echo"}

    job, [row] = ledger.job(job_id), kept(ledger)
    assert row.ended_at == job.finalizing_at < job.completed_at
    assert settle(ledger) == set()


@pytest.mark.parametrize("way", ["cancelled", "expired", "paused", "deleted"])
def test_jobs_that_did_not_run_to_their_end_do_not_count(ledger: Ledger, way: str) -> None:
    job_id = started(ledger, 2)
    keep(ledger)
    assert len(kept(ledger)) == 1

    if way == "paused":
        ledger.run("UPDATE jobs SET paused = true")
    elif way == "expired":
        ledger.run("UPDATE jobs SET expires_at = now() - interval '1 s'")
        Reconciler(ledger.sessions, ledger.store, ledger.bell).run()
        ledger.finalize(job_id)
    else:
        with ledger.sessions.begin() as session:
            jobs.cancel(session, ledger.tenant, job_id)
        ledger.finalize(job_id)
    if way == "deleted":
        with ledger.sessions.begin() as session:
            jobs.delete(session, ledger.tenant, job_id)

    assert settle(ledger) == set()
    assert kept(ledger) == [] and record_of(ledger) == []


def test_a_job_that_goes_on_after_a_pause_is_estimated_anew(ledger: Ledger) -> None:
    started(ledger)
    keep(ledger)
    ledger.run("UPDATE jobs SET paused = true")
    settle(ledger)
    ledger.run("UPDATE jobs SET paused = false")

    assert keep(ledger) == 1


def test_the_reconciler_does_all_of_it(ledger: Ledger) -> None:
    reconciler = Reconciler(ledger.sessions, ledger.store, ledger.bell)
    job_id = started(ledger, 4)

    reconciler.run()
    run_items(ledger, job_id, 2)
    reconciler.run()
    run_items(ledger, job_id, 2)
    ledger.finalize(job_id)
    reconciler.run()

    assert [(row.progress, row.ended_at is not None) for row in kept(ledger)] == [(0.0, True), (0.5, True)]
    assert [record.estimates for record in record_of(ledger)] == [2, 2]


def test_the_record_says_how_many_held_and_how_far_off_the_middle_one_was(ledger: Ledger) -> None:
    for ratio in (1.0, 1.1, 1.25, 2.0):
        remember(ledger, ratio)
    remember(ledger, 4.0, model=None)

    together, echo, several = record_of(ledger)

    assert (together.is_all, together.estimates, together.inside) == (True, 5, 0.4)
    # 25 off 125.
    assert together.median_error == pytest.approx(0.2)
    assert (echo.model, echo.is_all, echo.estimates, echo.inside) == ("echo", False, 4, 0.5)
    assert (several.model, several.is_all, several.estimates, several.median_error) == (None, False, 1, 0.75)


def test_what_is_older_than_thirty_days_does_not_count_and_is_forgotten(ledger: Ledger) -> None:
    remember(ledger, 1.0, days_ago=29)
    remember(ledger, 1.0, days_ago=31)
    assert record_of(ledger)[0].estimates == 1

    with ledger.sessions.begin() as session:
        estimates.forget(session)

    assert len(kept(ledger)) == 1


def test_bands_are_learned_once_enough_jobs_have_ended(ledger: Ledger) -> None:
    for place in range(9):
        remember(ledger, 1 + place / 10)
    assert factors(ledger) == (None, None)

    remember(ledger, 1.9)

    # The tenth at either end is left out of ten times from 1.0 to 1.9.
    assert factors(ledger) == (pytest.approx(1.09), pytest.approx(1.81))


def test_many_estimates_of_few_jobs_teach_nothing(ledger: Ledger) -> None:
    for _ in range(5):
        remember(ledger, 1.5)
    again = (
        "INSERT INTO estimates SELECT job_id, made_at - interval '1 s', model, 0.1, 1, 100, 2, ended_at FROM estimates"
    )
    ledger.run(again)

    assert factors(ledger) == (None, None)


def test_estimates_of_seconds_teach_nothing_of_hours(ledger: Ledger) -> None:
    for _ in range(12):
        remember(ledger, 20.0, eta=0.5)

    assert factors(ledger) == (None, None)


def test_a_band_that_was_learned_holds_for_its_share_of_what_comes_next(ledger: Ledger) -> None:
    """Ends that come a third too late on average, and are off by a quarter: bias and spread are both learned."""
    dice = random.Random(11)
    # Estimates on end; one job each costs more than is learned from it.
    job_ids = [ledger.started(1) for _ in range(12)]
    for place in range(200):
        ratio = 1.33 * math.exp(dice.gauss(0, 0.25))
        ledger.run(
            "INSERT INTO estimates (job_id, model, progress, low_seconds, eta_seconds, high_seconds, made_at, ended_at)"
            " VALUES (:job, 'echo', 0, 80, 100, 120, now() - (:n + 100 * :ratio) * interval '1 s',"
            " now() - :n * interval '1 s')",
            job=job_ids[place % 12],
            n=place,
            ratio=ratio,
        )

    low_factor, high_factor = factors(ledger)

    low, high = band(100.0, [Spread(0.01, low_factor, high_factor)])
    ends = [133 * math.exp(dice.gauss(0, 0.25)) for _ in range(4000)]
    assert sum(low <= end <= high for end in ends) / len(ends) == pytest.approx(SHARE, abs=0.06)


def test_what_was_learned_is_what_owners_are_told(ledger: Ledger) -> None:
    job_id = started(ledger, 500, 100)
    low, eta, high = shown(ledger, job_id)
    assert (low, eta, high) == (*band(100.0, [Spread()])[:1], 100.0, band(100.0, [Spread()])[1])

    ledger.run("UPDATE model_rates SET low_factor = 0.9, high_factor = 1.4")

    assert shown(ledger, job_id) == (90.0, 100.0, 140.0)


def observe(ledger: Ledger, seconds: float, expected: int) -> float:
    with ledger.sessions.begin() as session:
        rates.observe(session, "echo", 50, 50, seconds, expected)
    [row] = ledger.rows("SELECT log_variance FROM model_rates")
    variance: float = row.log_variance
    return variance


def test_chunks_that_take_what_the_rate_gave_them_narrow_the_band(ledger: Ledger) -> None:
    # 50 tokens in and 50 out at 10 a second.
    assert observe(ledger, 10.0, 50) == pytest.approx(0.9 * PRIOR_VARIANCE)
    assert observe(ledger, 10.0, 50) == pytest.approx(0.81 * PRIOR_VARIANCE)


def test_a_chunk_that_takes_longer_widens_it_and_a_freak_only_so_much(ledger: Ledger) -> None:
    assert observe(ledger, 20.0, 50) == pytest.approx(0.9 * PRIOR_VARIANCE + 0.1 * math.log(2) ** 2)

    before = observe(ledger, 10.0, 0)
    assert observe(ledger, 1e6, 50) == pytest.approx(0.9 * before + 0.1 * MAX_LOG_ERROR**2)


def test_a_chunk_that_was_not_run_whole_says_nothing_of_the_band(ledger: Ledger) -> None:
    assert observe(ledger, 99.0, 0) == PRIOR_VARIANCE
