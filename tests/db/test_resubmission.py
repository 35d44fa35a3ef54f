"""The same request sent twice, seen from the ledger: two sessions, one job."""

import threading
from datetime import timedelta

import pytest

from db import jobs
from db.errors import QuotaExceeded
from db.jobs import NewJob, Submitted
from db.quotas import Limits
from tests.ledger import Ledger


def new(fingerprint: str | None = "f") -> NewJob:
    return NewJob(
        jobs.new_job_id(), "translation", "echo", {}, {"type": "txt"}, inputs_key="k", fingerprint=fingerprint
    )


def test_a_second_sending_waits_for_the_first_and_gets_its_job(ledger: Ledger) -> None:
    found: list[Submitted] = []

    def send_again() -> None:
        with ledger.sessions.begin() as session:
            found.append(jobs.submit(session, ledger.tenant, new(), retried=True))

    with ledger.sessions.begin() as session:
        first = jobs.submit(session, ledger.tenant, new())
        second = threading.Thread(target=send_again)
        second.start()
        # Not committed, and so not to be seen yet: the second has to wait.
        second.join(0.3)
        assert second.is_alive() and not found
    second.join()

    assert [(each.job.id, each.is_new) for each in found] == [(first.job.id, False)]


def test_a_second_sending_makes_the_job_that_the_first_did_not(ledger: Ledger) -> None:
    with ledger.sessions() as session:
        jobs.submit(session, ledger.tenant, new())
        session.rollback()

    with ledger.sessions.begin() as session:
        assert jobs.submit(session, ledger.tenant, new(), retried=True).is_new


def test_a_job_of_another_fingerprint_or_of_long_ago_is_another_one(ledger: Ledger) -> None:
    with ledger.sessions.begin() as session:
        jobs.submit(session, ledger.tenant, new("other"))
        old = jobs.submit(session, ledger.tenant, new()).job
        old.created_at -= jobs.RETRY_WINDOW + timedelta(seconds=1)

    with ledger.sessions.begin() as session:
        assert jobs.submit(session, ledger.tenant, new(), retried=True).is_new


def test_open_jobs_are_counted_up_to_the_quota_and_ended_ones_are_not(ledger: Ledger) -> None:
    with ledger.sessions.begin() as session:
        for _ in range(2):
            jobs.submit(session, ledger.tenant, new(None), limits=Limits(open_jobs=2))

    with ledger.sessions.begin() as session, pytest.raises(QuotaExceeded, match="2 used, 1 wanted, 2 allowed"):
        jobs.submit(session, ledger.tenant, new(None), limits=Limits(open_jobs=2))
    ledger.run("UPDATE jobs SET status = 'completed' WHERE id = (SELECT min(id) FROM jobs)")
    with ledger.sessions.begin() as session:
        assert jobs.submit(session, ledger.tenant, new(None), limits=Limits(open_jobs=2)).is_new
