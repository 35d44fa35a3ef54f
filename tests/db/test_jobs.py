"""Jobs in the ledger: compare-and-set, idempotency, files that must not vanish."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.orm import Session

from db import files, jobs
from db.cursors import UnknownCursor, born
from db.errors import Conflict, IllegalTransition, NotFound
from db.jobs import Idempotency, NewJob
from db.states import JobStatus, is_final, may_become
from tests.ledger import Ledger


def new(**fields: object) -> NewJob:
    values = {"task": "translation", "model": "echo", "params": {}, "format": {"type": "txt"}, **fields}
    return NewJob(jobs.new_job_id(), **values)  # type: ignore[arg-type]


def submitted(ledger: Ledger, **fields: object) -> str:
    with ledger.sessions.begin() as session:
        return jobs.submit(session, ledger.tenant, new(**fields)).job.id


@pytest.mark.parametrize("now", list(JobStatus))
@pytest.mark.parametrize("wanted", list(JobStatus))
def test_a_job_moves_only_as_the_states_allow(ledger: Ledger, now: JobStatus, wanted: JobStatus) -> None:
    job_id = submitted(ledger)
    ledger.run("UPDATE jobs SET status = :now", now=now.value)

    with ledger.sessions.begin() as session:
        job = jobs.get(session, ledger.tenant, job_id)
        if may_become(now, wanted):
            moved = jobs.move(session, job, wanted)
            assert (moved.status, moved.version) == (wanted, 2)
            assert getattr(moved, f"{wanted}_at") is not None
        else:
            with pytest.raises(IllegalTransition, match=f"{now}; it cannot become {wanted}"):
                jobs.move(session, job, wanted)


def test_of_two_who_saw_the_same_status_one_loses(ledger: Ledger) -> None:
    job_id = submitted(ledger)
    start = threading.Barrier(2)

    def move(wanted: JobStatus) -> bool:
        with ledger.sessions.begin() as session:
            job = jobs.get(session, ledger.tenant, job_id)
            start.wait()
            try:
                jobs.move(session, job, wanted)
            except IllegalTransition as exc:
                assert exc.now in (JobStatus.IN_PROGRESS, JobStatus.CANCELLING)
                return False
            return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(move, (JobStatus.IN_PROGRESS, JobStatus.CANCELLING))) == [False, True]


def test_a_status_that_came_back_is_not_the_one_that_was_seen(ledger: Ledger) -> None:
    job_id = submitted(ledger)
    with ledger.sessions.begin() as session:
        job = jobs.get(session, ledger.tenant, job_id)
        session.expunge(job)
    ledger.run("UPDATE jobs SET version = version + 1")

    with ledger.sessions() as session, pytest.raises(IllegalTransition):
        jobs.move(session, job, JobStatus.CANCELLING)


def test_cancelling_judges_anew_when_a_worker_was_faster(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submitted(ledger)
    look, looks = jobs.get, []

    def get(session: Session, tenant_id: str, id: str) -> object:
        job = look(session, tenant_id, id)
        looks.append(job.status)
        if len(looks) == 1:
            ledger.run("UPDATE jobs SET status = 'in_progress', version = version + 1, in_progress_at = now()")
        return job

    monkeypatch.setattr(jobs, "get", get)

    with ledger.sessions.begin() as session:
        assert jobs.cancel(session, ledger.tenant, job_id).status == "cancelling"
    assert looks == ["validating", "in_progress"]


def test_the_second_of_two_equal_requests_waits_and_gets_the_first_ones_job(ledger: Ledger) -> None:
    idempotency = Idempotency("k", "hash")
    waiting = threading.Event()

    def second() -> jobs.Submitted:
        with ledger.sessions.begin() as session:
            waiting.set()
            return jobs.submit(session, ledger.tenant, new(), idempotency)

    with ThreadPoolExecutor(1) as pool:
        with ledger.sessions.begin() as session:
            first = jobs.submit(session, ledger.tenant, new(), idempotency)
            later = pool.submit(second)
            waiting.wait()
        assert (first.is_new, later.result(10).is_new) == (True, False)
    assert later.result().job.id == first.job.id
    assert len(ledger.rows("SELECT 1 FROM jobs")) == 1


def test_a_first_request_that_fails_leaves_the_key_to_the_second(ledger: Ledger) -> None:
    idempotency = Idempotency("k", "hash")
    with pytest.raises(RuntimeError), ledger.sessions.begin() as session:
        jobs.submit(session, ledger.tenant, new(), idempotency)
        raise RuntimeError

    with ledger.sessions.begin() as session:
        assert jobs.submit(session, ledger.tenant, new(), idempotency).is_new


def test_another_request_under_the_key_is_a_conflict_and_leaves_no_job(ledger: Ledger) -> None:
    with ledger.sessions.begin() as session:
        jobs.submit(session, ledger.tenant, new(), Idempotency("k", "one"))

    with pytest.raises(Conflict) as caught, ledger.sessions.begin() as session:
        jobs.submit(session, ledger.tenant, new(), Idempotency("k", "two"))

    assert caught.value.code == jobs.KEY_REUSED
    assert len(ledger.rows("SELECT 1 FROM jobs")) == 1


def test_a_file_cannot_lose_its_bytes_between_a_submission_and_its_commit(ledger: Ledger) -> None:
    file_id = ledger.upload(b"one\n")
    deleting = threading.Event()

    def delete() -> list[files.Removable]:
        with ledger.sessions.begin() as session:
            deleting.set()
            files.delete(session, ledger.tenant, file_id)
        with ledger.sessions() as session:
            return files.removable(session)

    with ThreadPoolExecutor(1) as pool:
        with ledger.sessions.begin() as session:
            jobs.submit(session, ledger.tenant, new(input_file_id=file_id))
            later = pool.submit(delete)
            deleting.wait()
        assert later.result(10) == []


def test_a_deleted_file_takes_no_new_jobs(ledger: Ledger) -> None:
    file_id = ledger.upload(b"one\n")
    with ledger.sessions.begin() as session:
        files.delete(session, ledger.tenant, file_id)

    with pytest.raises(NotFound):
        submitted(ledger, input_file_id=file_id)


@pytest.mark.parametrize("status", list(JobStatus))
def test_only_what_has_ended_can_be_deleted(ledger: Ledger, status: JobStatus) -> None:
    job_id = submitted(ledger)
    ledger.run("UPDATE jobs SET status = :status", status=status.value)

    with ledger.sessions.begin() as session:
        if is_final(status):
            jobs.delete(session, ledger.tenant, job_id)
        else:
            with pytest.raises(Conflict):
                jobs.delete(session, ledger.tenant, job_id)
    assert len(ledger.rows("SELECT 1 FROM jobs")) == (0 if is_final(status) else 1)


def test_an_id_tells_when_its_row_was_made(ledger: Ledger) -> None:
    job_id = submitted(ledger)

    assert ledger.job(job_id).created_at == born(job_id)


@pytest.mark.parametrize("after", ["", "job_", "nonsense", "job_\0", "file-0mgcxk2l9h4t8v2c6y0q1w5r3"])
def test_a_cursor_that_is_no_job_id_is_unknown(ledger: Ledger, after: str) -> None:
    with ledger.sessions() as session, pytest.raises(UnknownCursor):
        jobs.listing(session, ledger.tenant, after, 10)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_jobs_made_in_the_same_millisecond_are_paged_without_loss(ledger: Ledger, order: str) -> None:
    ids = {submitted(ledger) for _ in range(7)}
    ledger.run("UPDATE jobs SET created_at = '2026-01-01T00:00:00Z'")

    seen: list[str] = []
    after = None
    while True:
        with ledger.sessions() as session:
            page = jobs.listing(session, ledger.tenant, after, 2, order)  # type: ignore[arg-type]
        seen += [job.id for job in page.rows]
        if not page.has_more:
            break
        after = seen[-1]

    assert len(seen) == 7 and set(seen) == ids
    assert seen == sorted(seen, reverse=order == "desc")
