"""The safety net: what one pass picks up."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from db import files, jobs, keys, owner
from db.doorbell import FINALIZE, WORK
from db.session import connect
from db.session import sessions as sessions_of
from tests.conftest import fresh_database
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


def test_a_file_that_cannot_be_deleted_keeps_no_other_from_going(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """However many of them are the oldest: they rest, and the others get their turn."""
    stuck = [ledger.upload(b"stuck") for _ in range(3)]
    for file_id in stuck:
        _make_undeletable(ledger.folder / files.store_key(file_id))
    ledger.run("UPDATE files SET deleted_at = now() - interval '1 hour'")
    gone = ledger.upload(b"gone")
    with ledger.sessions.begin() as session:
        files.delete(session, ledger.tenant, gone)
    reconciler = Reconciler(ledger.sessions, ledger.store, ledger.bell, files_at_once=2)

    for _ in range(3):
        reconciler.run()

    assert ledger.rows("SELECT id FROM files WHERE bytes_removed_at IS NOT NULL") == [(gone,)]
    said = [record.getMessage() for record in caplog.records if "cannot be deleted" in record.getMessage()]
    assert len(said) == 3 and all("10 minutes" in line for line in said)
    for file_id in stuck:
        _make_undeletable(ledger.folder / files.store_key(file_id), undo=True)
    # A new process has not met them yet; this one would, ten minutes later.
    reconcile(ledger)
    assert ledger.rows("SELECT id FROM files WHERE bytes_removed_at IS NULL") == []


def test_leftovers_that_cannot_be_deleted_keep_no_other_from_going(ledger: Ledger) -> None:
    folder = ledger.folder / ".unfinished"
    for name in ("a", "b", "c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    _make_undeletable(folder / "b")
    for name in ("a", "b", "c"):
        os.utime(folder / name, (time.time() - 90_000,) * 2)
    parts, key = ledger.folder / "parts", jobs.inputs_key(jobs.new_job_id())
    _make_undeletable(parts / "stuck")
    os.utime(parts / "stuck", (time.time() - 900_000,) * 2)
    with ledger.store.writer(key) as writer:
        writer.write(b"x")
    os.utime(ledger.folder / key, (time.time() - 90_000,) * 2)

    reconcile(ledger)

    assert [path.name for path in folder.iterdir()] == ["b"]
    assert not (ledger.folder / key).exists()


def _make_undeletable(path: Path, undo: bool = False) -> None:
    """A folder in its place: whoever we are, it is no file that could be unlinked."""
    if undo:
        return path.rmdir()
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)


def test_a_job_that_cannot_be_deleted_keeps_no_other_from_going(ledger: Ledger) -> None:
    first, *_ = _outlived(ledger, 3)
    ledger.run("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = '57014'; END $$
    """)
    ledger.run(
        f"CREATE TRIGGER slow BEFORE DELETE ON jobs FOR EACH ROW WHEN (old.id = '{first}') EXECUTE FUNCTION refuse()"
    )
    ledger.upload(b"old")
    ledger.run("UPDATE files SET expires_at = now() - interval '1 s'")
    reconciler = Reconciler(ledger.sessions, ledger.store, ledger.bell, timedelta(days=1), jobs_at_once=1)

    for _ in range(3):
        reconciler.run()

    assert ledger.rows("SELECT id FROM jobs") == [(first,)]
    assert ledger.rows("SELECT FROM files WHERE bytes_removed_at IS NULL") == []


def test_a_job_that_somebody_else_is_deleting_is_not_waited_for(ledger: Ledger) -> None:
    first, _ = _outlived(ledger, 2)
    reconciler = Reconciler(ledger.sessions, ledger.store, ledger.bell, timedelta(days=1))

    with ledger.sessions() as other:
        jobs.delete(other, ledger.tenant, first)
        began = time.monotonic()
        reconciler.run()
        took = time.monotonic() - began
        assert ledger.rows("SELECT id FROM jobs") == [(first,)]
        other.rollback()

    # Whoever waits for a lock gives up after ten.
    assert took < 5
    Reconciler(ledger.sessions, ledger.store, ledger.bell, timedelta(days=1)).run()
    assert ledger.rows("SELECT id FROM jobs") == []


def _outlived(ledger: Ledger, count: int) -> list[str]:
    """Jobs older than a day's retention, the oldest first."""
    found = []
    for number in range(count):
        job_id = ledger.started(1)
        claim = ledger.claim(job_id)
        assert claim
        ledger.record(claim)
        ledger.finalize(job_id)
        ledger.run(
            "UPDATE jobs SET created_at = now() - :age * interval '1 day', completed_at = now() - interval '2 days'"
            " WHERE id = :job",
            age=9 - number,
            job=job_id,
        )
        found.append(job_id)
    return found


def test_strays_stay_in_a_store_that_belongs_to_another_ledger(
    ledger: Ledger, postgres: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when what a backup held is tried out and pointed at the store that is in use."""
    reconcile(ledger)
    with fresh_database(postgres) as url:
        engine = connect(url, pool=2)
        restored = sessions_of(engine)
        with restored.begin() as session:
            keys.tenant(session, "default")
        # After the backup was taken, so the rows are in the one ledger only.
        live = ledger.upload(b"live")
        os.utime(ledger.folder / files.store_key(live), (time.time() - 90_000,) * 2)

        Reconciler(restored, ledger.store, ledger.bell).run()
        assert ledger.read(live) == b"live"
        [said] = [record for record in caplog.records if getattr(record, "action", "") == "store_not_ours"]
        assert "remove the file 'ledger' from the store" in said.getMessage()

        ledger.store.delete(owner.KEY)
        Reconciler(restored, ledger.store, ledger.bell).run()
        assert not (ledger.folder / files.store_key(live)).exists()
        engine.dispose()


def test_a_ledger_is_not_the_one_it_was_restored_from(ledger: Ledger, postgres: str, database_url: str) -> None:
    with ledger.sessions() as session:
        mine = owner.my_id(session)
    with fresh_database(postgres) as url:
        engine = connect(url, pool=1)
        with sessions_of(engine)() as session:
            theirs = owner.my_id(session)
        engine.dispose()

    assert mine != theirs and mine.partition("-")[0] == theirs.partition("-")[0]
