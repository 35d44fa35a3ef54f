"""A backup taken in the middle of the work goes on elsewhere, and has all that was accepted before it."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.stack.postgres import Postgres, program
from db import jobs
from db.errors import LeaseLost
from db.recording import record
from db.session import connect, sessions
from tests.healthy import finish, is_sound, let_leases_run_out
from tests.ledger import Ledger

RESULTS = "SELECT job_id, idx, seq, outcome, output, attempt, finished_at FROM results ORDER BY job_id, seq"


def dump(database_url: str, into: Path) -> None:
    _run("pg_dump", "--format=custom", f"--file={into}", f"--dbname={_plain(database_url)}")


def restore(backup: Path, database_url: str) -> None:
    _run("pg_restore", "--exit-on-error", f"--dbname={_plain(database_url)}", str(backup))


def _plain(database_url: str) -> str:
    return database_url.replace("postgresql+psycopg://", "postgresql://")


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@contextmanager
def elsewhere(tenant: str, backup: Path, folder: Path) -> Iterator[Ledger]:
    """The ledger that the backup holds, on another server beside a copy of the files."""
    with Postgres(folder / "postgres", settings={"fsync": "off"}) as server:
        restore(backup, server.url)
        engine = connect(server.url, pool=4, application="restored")
        yield Ledger(sessions(engine), tenant, folder / "files")
        engine.dispose()


def test_a_backup_from_the_middle_of_the_work_goes_on_where_it_was_taken(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    ended, going, unread, cancelled = ledger.started(3), ledger.started(8), ledger.submit(b"a\nb\n"), ledger.started(2)
    ledger.recut(going, 2)
    ended_claim = ledger.claim(ended)
    assert ended_claim
    ledger.record(ended_claim)
    ledger.finalize(ended)
    first, second, third = (ledger.claim(going) for _ in range(3))
    assert first and second and third
    ledger.record(first)
    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, cancelled)
    seen = ledger.rows(RESULTS)

    # Not committed when the backup is taken, so it has not happened there.
    with ledger.sessions.begin() as session:
        record(session, second.chunk_id, second.attempt, ledger.outcomes(second))
        dump(database_url, tmp_path / "backup")
    # After the database: every file that a row names is there by then, because bytes come before rows.
    shutil.copytree(ledger.folder, tmp_path / "elsewhere" / "files")
    after = ledger.submit(b"too late\n")

    (tmp_path / "elsewhere").chmod(0o755)
    with elsewhere(ledger.tenant, tmp_path / "backup", tmp_path / "elsewhere") as restored:
        assert restored.rows(RESULTS) == seen
        assert restored.counts(going) == {"queued": 2, "running": 4, "succeeded": 2}
        let_leases_run_out(restored)
        finish(restored)

        status = {row.id: row.status for row in restored.rows("SELECT id, status FROM jobs")}
        assert status == {ended: "completed", going: "completed", unread: "completed", cancelled: "cancelled"}
        assert restored.counts(going) == {"succeeded": 8}
        assert all(is_sound(restored, job_id) for job_id in status)
        assert [row for row in restored.rows(RESULTS) if row in seen] == seen
        assert restored.read(restored.job(ended).output_file_id) == b"out\n" * 3
        assert after not in status
        # A worker that was cut off from the old database and finds the new one: its lease is of the past.
        with restored.sessions.begin() as session, pytest.raises(LeaseLost):
            record(session, third.chunk_id, third.attempt, [])
    assert is_sound(ledger, going)
