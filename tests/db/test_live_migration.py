"""Migrations while work is under way: what was accepted stays, and goes on."""

import pytest

import migrations
from tests.healthy import finish, is_sound, let_leases_run_out
from tests.ledger import Ledger


@pytest.mark.parametrize("revision", ["0003", "0002"])
def test_jobs_under_way_survive_a_downgrade_and_an_upgrade(ledger: Ledger, database_url: str, revision: str) -> None:
    going, unread = ledger.started(6), ledger.submit(b"a\nb\n")
    ledger.recut(going, 2)
    done, held = ledger.claim(going), ledger.claim(going)
    assert done and held
    ledger.record(done)
    before = ledger.rows("SELECT job_id, idx, seq, output, attempt FROM results ORDER BY idx")
    chunks = ledger.rows("SELECT id, state, attempt, lease_owner, lease_expires_at FROM chunks ORDER BY id")

    migrations.downgrade(database_url, revision)
    migrations.upgrade(database_url)

    assert ledger.rows("SELECT job_id, idx, seq, output, attempt FROM results ORDER BY idx") == before
    assert ledger.rows("SELECT id, state, attempt, lease_owner, lease_expires_at FROM chunks ORDER BY id") == chunks
    # The worker that held a chunk meanwhile still does.
    ledger.record(held)
    let_leases_run_out(ledger)
    finish(ledger)
    assert ledger.counts(going) == {"succeeded": 6} and ledger.counts(unread) == {"succeeded": 2}
    assert {ledger.job(going).status, ledger.job(unread).status} == {"completed"}
    assert is_sound(ledger, going) and is_sound(ledger, unread)


def test_twins_that_wait_are_computed_by_older_code(ledger: Ledger, database_url: str) -> None:
    ledger.window_items = 2
    job_id = ledger.submit(b"a\nb\na\nb\nb\na\n")
    assert ledger.ingest(job_id)
    assert [row.same_as for row in ledger.rows("SELECT same_as FROM items ORDER BY idx")] == [None, None, 0, 1, 1, 0]

    migrations.downgrade(database_url, "0005")

    assert {row.same_as for row in ledger.rows("SELECT same_as FROM items")} == {None}
    migrations.upgrade(database_url)
    finish(ledger)
    assert ledger.counts(job_id) == {"succeeded": 6} and is_sound(ledger, job_id)
