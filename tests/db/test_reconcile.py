"""The safety net: what one pass picks up."""

import os
import time

from db import files, jobs
from db.doorbell import FINALIZE, WORK
from tests.ledger import Ledger
from workers.reconcile import Reconciler


def reconcile(ledger: Ledger) -> list[tuple[str, ...]]:
    """Run one pass; what it rang."""
    ledger.bell.rings.clear()
    Reconciler(ledger.sessions, ledger.store, ledger.bell).run()
    return ledger.bell.rings


def test_an_expired_lease_goes_back_and_is_rung_for(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    claim = ledger.claim(job_id)
    assert claim
    ledger.lapse(claim)

    rings = reconcile(ledger)

    assert (WORK, "echo") in rings
    assert ledger.counts(job_id) == {"queued": 3}
    [chunk] = ledger.rows("SELECT state, crashes FROM chunks")
    assert (chunk.state, chunk.crashes) == ("ready", 1)


def test_waiting_work_is_rung_for_again(ledger: Ledger) -> None:
    ledger.started(3)

    assert reconcile(ledger) == [(WORK, "echo")]


def test_a_paused_job_is_not_rung_for(ledger: Ledger) -> None:
    ledger.started(3)
    ledger.run("UPDATE jobs SET paused = true")

    assert reconcile(ledger) == []


def test_a_job_past_its_window_is_rung_for_its_end(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    ledger.run("UPDATE jobs SET expires_at = now() - interval '1 s'")

    assert reconcile(ledger) == [(FINALIZE, job_id)]
    assert ledger.job(job_id).status == "finalizing"


def test_a_settled_job_that_nobody_moved_is_ended(ledger: Ledger) -> None:
    job_id = ledger.started(1)
    ledger.run("DELETE FROM chunks")
    ledger.run("UPDATE jobs SET queued = 0, cancelled = 1")

    assert reconcile(ledger) == [(FINALIZE, job_id)]


def test_bytes_of_deleted_files_go_once_no_open_job_reads_them(ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\n")
    [file] = ledger.rows("SELECT id, store_key FROM files")
    with ledger.sessions.begin() as session:
        files.delete(session, ledger.tenant, file.id)

    reconcile(ledger)
    assert ledger.store.local_path(file.store_key).exists()
    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, job_id)
    ledger.finalize(job_id)
    reconcile(ledger)

    assert not ledger.store.local_path(file.store_key).exists()


def test_files_past_their_time_go(ledger: Ledger) -> None:
    ledger.upload(b"old")
    ledger.run("UPDATE files SET expires_at = now() - interval '1 s'")

    reconcile(ledger)

    assert list(ledger.folder.rglob("file-*")) == []


def test_a_pass_with_nothing_to_do_does_nothing(ledger: Ledger) -> None:
    assert reconcile(ledger) == []


def test_only_one_process_does_the_upkeep_at_a_time(ledger: Ledger) -> None:
    from db import upkeep

    ledger.started(1)
    with ledger.sessions.begin() as holder:
        assert upkeep.is_mine(holder)

        assert reconcile(ledger) == []


def test_old_idempotency_keys_and_dead_workers_are_forgotten(ledger: Ledger) -> None:
    job_id = ledger.started(1)
    ledger.run(
        "INSERT INTO idempotency_keys (tenant_id, key, request_sha256, job_id, created_at)"
        " VALUES (:tenant, 'k', 'x', :job, now() - interval '3 days')",
        tenant=ledger.tenant,
        job=job_id,
    )
    ledger.run(
        "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable, heartbeat_at)"
        " VALUES ('w', 'h', 1, 'cpu', '1', '[]', '[]', '{}', now() - interval '2 hours')"
    )

    reconcile(ledger)

    assert ledger.rows("SELECT 1 FROM idempotency_keys") == ledger.rows("SELECT 1 FROM workers") == []


def test_bytes_whose_row_was_never_committed_go_after_a_day(ledger: Ledger) -> None:
    """As a process leaves them that is killed between the two. What has a row stays, and so does what is not ours."""
    ledger.submit(b"kept\n")
    [kept] = ledger.rows("SELECT store_key FROM files")
    stray, young = (files.store_key(files.new_file_id()) for _ in range(2))
    inputs, foreign = jobs.inputs_key(jobs.new_job_id()), "files/somebody-elses"
    before_us = "files/file-0" + "0" * 24
    for key in (stray, young, inputs, foreign, before_us):
        with ledger.store.writer(key) as writer:
            writer.write(b"x")
    for key in (kept.store_key, stray, inputs, foreign, before_us):
        os.utime(ledger.folder / key, (time.time() - 90_000,) * 2)

    reconcile(ledger)

    left = {key for key in (kept.store_key, stray, young, inputs, foreign, before_us) if (ledger.folder / key).exists()}
    assert left == {kept.store_key, young, foreign, before_us}
