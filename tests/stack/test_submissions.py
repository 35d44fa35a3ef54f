"""The API killed, or its disk failing, while it takes in files and jobs: what it has answered is there, and whole."""

import hashlib
import os
import random
import signal
import threading
import uuid
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from chaos.errors import Skipped
from chaos.faults.disk import failing_syncs
from cli.stack.postgres import Postgres
from db.session import Sessions
from models.registry import load
from tests.healthy import finish, is_sound
from tests.ledger import Ledger
from tests.stack.conftest import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.slow

CLIENTS, KILLS = 6, 4


@pytest.fixture
def ledger(stack: Stack, sessions: Sessions) -> Ledger:
    [tenant] = [row.id for row in Ledger(sessions, "", stack.folder).rows("SELECT id FROM tenants")]
    return Ledger(sessions, tenant, stack.folder / "files", load([stack.registry]))


def child(stack: Stack) -> int:
    """The process that serves requests."""
    found = eventually(lambda: psutil.Process(stack.processes["api"].pid).children(), 30)
    return max(process.pid for process in found)


class Client(threading.Thread):
    """Uploads and submits, each time until it is answered; `jobs` are those that were, with their lines."""

    def __init__(self, stack: Stack, seed: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.jobs: dict[str, list[str]] = {}
        self.cut = 0
        self._stack, self._chance, self._over = stack, random.Random(seed), over

    def run(self) -> None:
        while not self._over.is_set():
            given = [f"{'x' * 5_000} {number} {uuid.uuid4()}" for number in range(self._chance.randint(1, 20))]
            body: dict[str, object] = {"task": "translation", "model": "echo"}
            if self._chance.random() < 0.5:
                file = {"file": ("in.txt", "".join(f"{line}\n" for line in given).encode())}
                body["input_file_id"] = self._answered("/v1/files", files=file, data={"purpose": "batch"})
            else:
                body["inputs"] = given
            self.jobs[self._answered("/v1/jobs", json=body, headers={"idempotency-key": uuid.uuid4().hex})] = given

    def _answered(self, path: str, **how: object) -> str:
        while True:
            try:
                answer = self._stack.http.post(path, **how)  # type: ignore[arg-type]
            except httpx.ConnectError:
                continue
            except httpx.TransportError:
                self.cut += 1
                continue
            assert answer.is_success, answer.text
            return str(answer.json()["id"])


def test_an_api_killed_again_and_again_keeps_what_it_answered_and_nothing_by_half(stack: Stack, ledger: Ledger) -> None:
    stack.start_api()
    over, chance = threading.Event(), random.Random(10)
    clients = [Client(stack, seed, over) for seed in range(CLIENTS)]
    for client in clients:
        client.start()

    for _ in range(KILLS):
        eventually(lambda: stack._is_healthy(), 30)
        # At a moment drawn by chance; it is not waited for anything.
        over.wait(chance.uniform(0, 0.4))
        os.kill(child(stack), signal.SIGKILL)
    over.set()
    for client in clients:
        client.join(60)

    assert not any(client.is_alive() for client in clients)
    assert sum(client.cut for client in clients) >= KILLS
    promised = {job_id: given for client in clients for job_id, given in client.jobs.items()}
    assert {row.id for row in ledger.rows("SELECT id FROM jobs")} == set(promised)
    for row in ledger.rows("SELECT store_key, bytes, sha256 FROM files"):
        with ledger.store.open(row.store_key) as file:
            data = file.read()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (row.bytes, row.sha256)
    finish(ledger)
    for job_id, given in promised.items():
        assert ledger.counts(job_id) == {"succeeded": len(given)}
        assert is_sound(ledger, job_id)
        inputs = ledger.rows("SELECT input->>'text' AS text FROM items WHERE job_id = :job ORDER BY idx", job=job_id)
        assert [row.text for row in inputs] == given


def test_what_the_disk_does_not_take_is_not_acknowledged(stack: Stack, ledger: Ledger, tmp_path: Path) -> None:
    stack.start_api()
    before = stack.upload("before.txt", b"one\n")
    file = {"file": ("in.txt", b"two\n")}
    try:
        with failing_syncs([child(stack)], tmp_path / "syncs"):
            uploads = [stack.http.post("/v1/files", files=file, data={"purpose": "batch"}) for _ in range(3)]
            jobs = [stack.http.post("/v1/jobs", json={"task": "translation", "inputs": ["a"]}) for _ in range(3)]
    except Skipped as exc:
        pytest.skip(f"NOT TESTED, a disk that does not write through: {exc}")

    assert {answer.status_code for answer in (*uploads, *jobs)} <= {500, 503, 507}
    assert "INJECTED" in (tmp_path / "syncs").read_text()
    assert [row.id for row in ledger.rows("SELECT id FROM files")] == [before]
    assert ledger.rows("SELECT id FROM jobs") == []
    # What was written and not synced is not kept either, and once the disk is well everything is.
    after = stack.upload("after.txt", b"three\n")
    job_id = stack.submit(input_file_id=after)
    kept = {path.name for path in ledger.folder.rglob("*") if path.is_file()}
    assert kept == {before, after}
    finish(ledger)
    assert ledger.counts(job_id) == {"succeeded": 1}


def test_a_commit_that_the_disk_does_not_take_is_not_acknowledged(tmp_path: Path) -> None:
    """By the database as we set it up: it gives up rather than to say so."""
    tmp_path.chmod(0o755)
    with Postgres(tmp_path / "postgres") as server:
        url = server.url.replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (number integer)")
        insert(url, 1)
        assert server._child is not None and server._child.pid is not None
        postmaster = server._child.pid
        try:
            # Backends are started by the postmaster, and so this one's fail, too.
            with failing_syncs([postmaster], tmp_path / "syncs"), pytest.raises(psycopg.OperationalError):
                insert(url, 2)
        except Skipped as exc:
            pytest.skip(f"NOT TESTED, a disk that does not write through: {exc}")
        assert "PANIC" in (tmp_path / "postgres" / "postgres.log").read_text()

        # It comes back by itself. The second one may be there: nobody was told that it is, or is not.
        assert 1 in eventually(lambda: numbers(url), 60)
        insert(url, 3)
        assert 3 in numbers(url)


def insert(url: str, number: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO kept VALUES (%s)", (number,))


def numbers(url: str) -> list[int]:
    """Empty while the database does not answer."""
    try:
        with psycopg.connect(url, connect_timeout=3) as connection:
            return [number for (number,) in connection.execute("SELECT number FROM kept")]
    except psycopg.OperationalError:
        return []
