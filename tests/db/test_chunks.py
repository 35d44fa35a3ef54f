"""Claims, records, leases: what two workers can do to one chunk, and what the counts say afterwards."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from db import chunks, jobs, leases
from db.audit import audit
from db.chunks import Candidate, Claim
from db.errors import LeaseLost
from db.recording import NewResult, record
from db.states import JobStatus
from tests.ledger import Ledger


def write(ledger: Ledger, claim: Claim, results: list[NewResult]) -> JobStatus:
    with ledger.sessions.begin() as session:
        return record(session, claim.chunk_id, claim.attempt, results).status


def is_sound(ledger: Ledger, job_id: str) -> bool:
    with ledger.sessions() as session:
        return audit(session, ledger.tenant, job_id).ok


def test_a_claim_moves_the_items_from_queued_to_running(ledger: Ledger) -> None:
    job_id = ledger.started(10)

    claim = ledger.claim(job_id)

    assert claim is not None and claim.attempt == 1
    assert ledger.counts(job_id) == {"running": 10}
    assert ledger.job(job_id).queued_tokens == 0


def test_two_workers_racing_for_one_chunk_get_it_once(ledger: Ledger) -> None:
    job_id = ledger.started(10)
    start = threading.Barrier(8)

    def race(owner: int) -> Claim | None:
        start.wait()
        return ledger.claim(job_id, f"worker {owner}")

    with ThreadPoolExecutor(8) as pool:
        claims = [claim for claim in pool.map(race, range(8)) if claim]

    assert len(claims) == 1
    assert ledger.counts(job_id) == {"running": 10}


def test_many_workers_share_many_chunks_without_overlap(ledger: Ledger) -> None:
    job_id = ledger.started(60)
    ledger.recut(job_id, 2)

    def work(owner: int) -> list[int]:
        mine = []
        while claim := ledger.claim(job_id, f"worker {owner}"):
            mine.append(claim.chunk_id)
            write(ledger, claim, ledger.outcomes(claim))
        return mine

    with ThreadPoolExecutor(4) as pool:
        taken = [chunk for mine in pool.map(work, range(4)) for chunk in mine]

    assert len(taken) == len(set(taken)) == 30
    assert ledger.counts(job_id) == {"succeeded": 60}
    assert ledger.job(job_id).status == "finalizing"
    assert is_sound(ledger, job_id)


def test_the_last_record_begins_the_finalizing(ledger: Ledger) -> None:
    job_id = ledger.started(4)
    ledger.recut(job_id, 2)
    first, second = ledger.claim(job_id), ledger.claim(job_id)
    assert first and second

    assert write(ledger, first, ledger.outcomes(first)) is JobStatus.IN_PROGRESS
    assert write(ledger, second, ledger.outcomes(second, fail=1)) is JobStatus.FINALIZING

    assert ledger.counts(job_id) == {"succeeded": 3, "failed": 1}
    assert ledger.job(job_id).output_tokens == 3


def test_a_second_record_of_the_same_attempt_is_refused(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    claim = ledger.claim(job_id)
    assert claim
    results = ledger.outcomes(claim)
    write(ledger, claim, results)

    with pytest.raises(LeaseLost):
        write(ledger, claim, results)

    assert ledger.counts(job_id) == {"succeeded": 3}


def test_a_late_worker_cannot_write_once_another_has_the_chunk(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    frozen = ledger.claim(job_id, "frozen")
    assert frozen
    late = ledger.outcomes(frozen)
    ledger.lapse(frozen)
    with ledger.sessions.begin() as session:
        assert leases.reclaim(session)
    second = ledger.claim(job_id, "second")
    assert second and second.attempt == frozen.attempt + 1

    with pytest.raises(LeaseLost):
        write(ledger, frozen, late)
    write(ledger, second, ledger.outcomes(second))

    assert ledger.counts(job_id) == {"succeeded": 3}
    assert is_sound(ledger, job_id)


def test_a_partial_record_hands_the_rest_back(ledger: Ledger) -> None:
    job_id = ledger.started(5)
    claim = ledger.claim(job_id)
    assert claim

    write(ledger, claim, ledger.outcomes(claim)[:2])
    assert ledger.counts(job_id) == {"queued": 3, "succeeded": 2}
    again = ledger.claim(job_id)
    assert again and again.items == 3
    write(ledger, again, ledger.outcomes(again))

    assert ledger.counts(job_id) == {"succeeded": 5}
    assert is_sound(ledger, job_id)


@pytest.mark.parametrize(("status", "count"), [("cancelling", "cancelled"), ("finalizing", "expired")])
def test_the_rest_of_a_stopped_job_is_not_handed_back(ledger: Ledger, status: str, count: str) -> None:
    job_id = ledger.started(5)
    claim = ledger.claim(job_id)
    assert claim
    ledger.run(f"UPDATE jobs SET status = '{status}' WHERE id = :job", job=job_id)

    write(ledger, claim, ledger.outcomes(claim)[:2])

    assert ledger.counts(job_id) == {"succeeded": 2, count: 3}


def test_sequence_numbers_are_dense_and_in_commit_order(ledger: Ledger) -> None:
    job_id = ledger.started(9)
    ledger.recut(job_id, 3)
    claims = [ledger.claim(job_id) for _ in range(3)]

    for claim in reversed(claims):
        assert claim
        write(ledger, claim, ledger.outcomes(claim))

    found = ledger.rows("SELECT idx FROM results WHERE job_id = :job ORDER BY seq", job=job_id)
    assert [row.idx for row in found] == [6, 7, 8, 3, 4, 5, 0, 1, 2]


def test_no_chunk_of_a_paused_or_cancelled_job_is_claimed(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    ledger.run("UPDATE jobs SET paused = true WHERE id = :job", job=job_id)
    assert ledger.claim(job_id) is None
    ledger.run("UPDATE jobs SET paused = false, status = 'cancelling' WHERE id = :job", job=job_id)

    assert ledger.claim(job_id) is None
    assert ledger.counts(job_id) == {"queued": 3}


def best(ledger: Ledger, loaded: tuple[str, ...] = ("echo",)) -> list[str]:
    with ledger.sessions() as session:
        return [found.job_id for found in chunks.candidates(session, ["echo"], loaded)]


def test_a_higher_priority_goes_first(ledger: Ledger) -> None:
    low = ledger.started(1)
    high = ledger.started(1, priority=5)

    assert best(ledger) == [high, low]


def test_equal_jobs_take_turns(ledger: Ledger) -> None:
    first, second = ledger.started(4), ledger.started(4)
    for job_id in (first, second):
        ledger.recut(job_id, 1)

    served = []
    for _ in range(6):
        job_id = best(ledger)[0]
        assert ledger.claim(job_id)
        served.append(job_id)

    assert served == [first, second] * 3


def test_a_starved_job_goes_before_any_priority(ledger: Ledger) -> None:
    starved = ledger.started(1)
    ledger.started(1, priority=100)
    ledger.run("UPDATE jobs SET in_progress_at = now() - interval '1 hour' WHERE id = :job", job=starved)

    assert best(ledger)[0] == starved


def test_a_job_short_of_time_goes_before_one_with_plenty(ledger: Ledger) -> None:
    plenty = ledger.started(5)
    urgent = ledger.started(5)
    ledger.run("UPDATE jobs SET expires_at = now() + interval '10 s' WHERE id = :job", job=urgent)
    ledger.run("INSERT INTO model_rates (model, tokens_per_second, output_per_input) VALUES ('echo', 1, 1)")

    assert best(ledger) == [urgent, plenty]


def test_a_heartbeat_never_extends_a_lease_past_its_hard_deadline(ledger: Ledger) -> None:
    job_id = ledger.started(1)
    claim = ledger.claim(job_id, budget=3)
    assert claim

    with ledger.sessions.begin() as session:
        leases.renew(session, [leases.Beat(claim.chunk_id, claim.attempt, progress=1, is_begun=True)], 3)

    [row] = ledger.rows("SELECT lease_expires_at <= hard_deadline AS bounded, progress FROM chunks")
    assert row.bounded and row.progress == 1


def test_a_lease_that_was_taken_away_is_not_among_the_held(ledger: Ledger) -> None:
    job_id = ledger.started(1)
    claim = ledger.claim(job_id)
    assert claim

    with ledger.sessions() as session:
        mine, stale = (claim.chunk_id, claim.attempt), (claim.chunk_id, claim.attempt - 1)
        assert leases.held(session, [mine, stale]) == {mine: JobStatus.IN_PROGRESS}


def test_the_hard_deadline_waits_for_the_device(ledger: Ledger) -> None:
    job_id = ledger.started(1)
    claim = ledger.claim(job_id, budget=3)
    assert claim

    with ledger.sessions.begin() as session:
        leases.renew(session, [leases.Beat(claim.chunk_id, claim.attempt, progress=0, is_begun=False)], 900)

    [row] = ledger.rows("SELECT extract(epoch FROM hard_deadline - now()) AS left FROM chunks")
    assert 800 < row.left <= 900


def crash(ledger: Ledger, job_id: str) -> leases.Reclaimed:
    claim = ledger.claim(job_id)
    assert claim
    ledger.lapse(claim)
    with ledger.sessions.begin() as session:
        reclaimed = leases.reclaim(session)
    assert reclaimed
    return reclaimed


def test_an_unexpired_lease_is_left_alone(ledger: Ledger) -> None:
    job_id = ledger.started(1)
    ledger.claim(job_id)

    with ledger.sessions.begin() as session:
        assert leases.reclaim(session) is None


def test_a_killer_item_is_found_and_fails_alone(ledger: Ledger) -> None:
    """The worker dies whenever item 37 is in its chunk; everything else must come through."""
    job_id = ledger.started(100)
    crashes = 0
    while claim := ledger.claim(job_id):
        with ledger.sessions() as session:
            deadly = any(item.idx == 37 for item in chunks.items_of(session, claim.chunk_id))
        if not deadly:
            write(ledger, claim, ledger.outcomes(claim))
            continue
        crashes += 1
        ledger.lapse(claim)
        with ledger.sessions.begin() as session:
            leases.reclaim(session)

    assert ledger.counts(job_id) == {"succeeded": 99, "failed": 1}
    [row] = ledger.rows("SELECT idx, error_code FROM results WHERE outcome = 'failed'")
    assert (row.idx, row.error_code) == (37, "worker_crashed")
    assert crashes == 4
    assert ledger.job(job_id).status == "finalizing"
    assert is_sound(ledger, job_id)


def test_a_worker_that_lost_its_lease_and_lives_takes_the_crash_back(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    claim = ledger.claim(job_id)
    assert claim
    ledger.lapse(claim)
    with ledger.sessions.begin() as session:
        assert leases.reclaim(session)

    with ledger.sessions.begin() as session:
        assert leases.acquit(session, claim.chunk_id, claim.crashes)

    assert [row.crashes for row in ledger.rows("SELECT crashes FROM chunks")] == [0]
    with ledger.sessions.begin() as session:
        assert not leases.acquit(session, claim.chunk_id, claim.crashes)


def test_the_pieces_of_a_split_chunk_are_acquitted_with_it(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    crash(ledger, job_id)
    claim = ledger.claim(job_id)
    assert claim
    ledger.lapse(claim)
    with ledger.sessions.begin() as session:
        reclaimed = leases.reclaim(session)
    assert reclaimed and reclaimed.state == "split"

    with ledger.sessions.begin() as session:
        leases.acquit(session, claim.chunk_id, claim.crashes)

    found = ledger.rows("SELECT state, crashes FROM chunks ORDER BY id")
    assert [(row.state, row.crashes) for row in found] == [("split", 2), *[("ready", 0)] * 3]


def test_a_lease_that_a_clock_set_back_made_longer_is_cut_to_its_length(ledger: Ledger) -> None:
    job_id = ledger.started(1)
    claim = ledger.claim(job_id)
    assert claim
    ledger.run("UPDATE chunks SET lease_expires_at = lease_expires_at + interval '1 hour'")
    waiting = ledger.submit(b"another\n")
    ledger.run(
        "UPDATE jobs SET step_attempt = 1, step_owner = 'dead', step_expires_at = now() + interval '1 hour'"
        " WHERE id = :job",
        job=waiting,
    )

    with ledger.sessions.begin() as session:
        leases.shorten(session)

    [row] = ledger.rows("SELECT extract(epoch FROM lease_expires_at - now()) AS seconds FROM chunks")
    assert 0 < row.seconds <= chunks.LEASE_SECONDS
    step = "SELECT extract(epoch FROM step_expires_at - now()) AS seconds FROM jobs WHERE id = :job"
    [row] = ledger.rows(step, job=waiting)
    assert 0 < row.seconds <= chunks.LEASE_SECONDS


def test_a_third_death_that_had_another_cause_fails_no_item(ledger: Ledger) -> None:
    """Somebody kills workers at random, and hits one chunk twice and then one of its pieces."""
    job_id = ledger.started(3)

    for _ in range(3):
        crash(ledger, job_id)
    while claim := ledger.claim(job_id):
        write(ledger, claim, ledger.outcomes(claim))

    assert ledger.counts(job_id) == {"succeeded": 3}
    assert is_sound(ledger, job_id)


def test_twins_stay_together_when_their_chunk_is_split(ledger: Ledger) -> None:
    job_id = ledger.submit(b"same\nother\nsame\nthird\n")
    ledger.ingest(job_id)

    crash(ledger, job_id)
    assert crash(ledger, job_id).state == "split"

    found = ledger.rows("SELECT array_agg(idx ORDER BY idx) AS idxs FROM items GROUP BY chunk_id ORDER BY 1")
    assert [row.idxs for row in found] == [[0, 2], [1], [3]]
    assert ledger.counts(job_id) == {"queued": 4}
    assert is_sound(ledger, job_id)


def test_a_crash_of_a_cancelled_job_ends_its_items(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    claim = ledger.claim(job_id)
    assert claim
    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, job_id)
    ledger.lapse(claim)

    with ledger.sessions.begin() as session:
        reclaimed = leases.reclaim(session)

    assert reclaimed and reclaimed.finalize
    assert ledger.counts(job_id) == {"cancelled": 3}


def test_dropping_ready_chunks_leaves_leased_ones_to_their_workers(ledger: Ledger) -> None:
    job_id = ledger.started(6)
    ledger.recut(job_id, 2)
    assert ledger.claim(job_id)

    with ledger.sessions.begin() as session:
        assert chunks.drop_ready(session, job_id, JobStatus.CANCELLING) == 4

    assert ledger.counts(job_id) == {"running": 2, "cancelled": 4}


def test_claims_and_records_and_cancels_at_once_keep_the_counts(ledger: Ledger) -> None:
    job_id = ledger.started(120)
    ledger.recut(job_id, 2)

    def work(owner: int) -> None:
        while claim := ledger.claim(job_id, f"worker {owner}"):
            write(ledger, claim, ledger.outcomes(claim)[: owner % 3])

    def cancel() -> None:
        with ledger.sessions.begin() as session:
            jobs.cancel(session, ledger.tenant, job_id)

    with ThreadPoolExecutor(5) as pool:
        workers = [pool.submit(work, owner) for owner in range(1, 4)]
        pool.submit(cancel).result()
        for worker in workers:
            worker.result()
    ledger.finalize(job_id)

    job = ledger.job(job_id)
    assert job.status == "cancelled" and job.queued == job.running == 0
    assert job.succeeded + job.cancelled == 120
    assert is_sound(ledger, job_id)


def test_a_candidate_names_job_and_model(ledger: Ledger) -> None:
    job_id = ledger.started(1)

    with ledger.sessions() as session:
        assert chunks.candidates(session, ["echo", "other"], []) == [Candidate(job_id, "echo")]


def test_an_heir_to_a_slot_takes_its_predecessors_leases_back_at_once(ledger: Ledger) -> None:
    job_id = ledger.started(2)
    ledger.recut(job_id, 1)
    mine, other = ledger.claim(job_id, "host/worker-1:10:aa"), ledger.claim(job_id, "host/worker-11:11:bb")
    assert mine and other

    with ledger.sessions.begin() as session:
        leases.inherit(session, "host/worker-1:", "host/worker-1:20:cc")
    with ledger.sessions.begin() as session:
        reclaimed = leases.reclaim(session)
    assert reclaimed and reclaimed.chunk_id == mine.chunk_id
    with ledger.sessions.begin() as session:
        assert leases.reclaim(session) is None
