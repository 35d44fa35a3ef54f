"""The real thing for tests: API, broker and workers as processes of their own, over a fresh database."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from cli.stack.process import die_with_parent
from cli.stack.valkey import Valkey
from db.keys import issue_key
from db.session import connect
from db.session import sessions as sessions_of
from tests.waiting import eventually

BIN = Path(sys.executable).parent

REGISTRY = """
[models.echo]
task = "translation"
source = "."
engine = "echo"
default = true
options = { markers = true }

[models.echo-slow]
task = "translation"
source = "."
engine = "echo"
options = { markers = true, seconds_per_item = 0.05, batch_tokens = 16 }
"""


class Stack:
    """Processes of one test, by name; the data folder and the addresses they share."""

    def __init__(self, folder: Path, database_url: str, broker_url: str, key: str) -> None:
        self.folder, self.key = folder, key
        self.registry = folder / "registry.toml"
        self.registry.write_text(REGISTRY)
        self.port = _free_port()
        self.environment = {
            **os.environ,
            "BUSHEL_DATABASE_URL": database_url,
            "BUSHEL_BROKER_URL": broker_url,
            "BUSHEL_DATA": str(folder),
            "BUSHEL_REGISTRY": str(self.registry),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"authorization": f"Bearer {key}"}, timeout=30
        )

    def start(self, name: str, command: Sequence[str | Path], **environment: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=log,
            stderr=log,
            env=self.environment | environment,
            start_new_session=True,
            # A test run that is killed must not leave its processes behind.
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        log.close()
        self.processes[name] = process
        return process

    def start_api(self, *options: str) -> None:
        self.start(
            "api",
            [
                *(BIN / "gunicorn", "-c", "python:api.gunicorn_conf", "--threads", "8"),
                *("--bind", f"127.0.0.1:{self.port}", *options, "api.app:create_app()"),
            ],
        )
        eventually(self._is_healthy, 120)

    def start_worker(self, name: str = "worker", queues: str = "", **environment: str) -> subprocess.Popen[bytes]:
        """A worker of all queues, or of those named; returns before it is ready."""
        command: list[str | Path] = [BIN / "celery", "-A", "workers.app", "worker", "--pool", "threads"]
        command += ["--concurrency", "2", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
        command += ["--hostname", f"{name}@test"]
        return self.start(name, command + (["-Q", queues] if queues else []), **environment)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str, seconds: float = 30) -> int:
        """Ask the process to stop, as a supervisor does; its exit status."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(seconds)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def submit(self, **body: Any) -> str:
        answer = self.http.post("/v1/jobs", json={"task": "translation", "on_error": "fail"} | body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def upload(self, name: str, data: bytes) -> str:
        answer = self.http.post("/v1/files", files={"file": (name, data)}, data={"purpose": "batch"})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}").json()
        return found

    def finished(self, job_id: str, seconds: float = 60) -> dict[str, Any]:
        """The job once it is final, with its audit passed."""
        final = {"completed", "failed", "expired", "cancelled"}
        job = eventually(lambda: (found := self.job(job_id))["status"] in final and found, seconds, every=0.1)
        audit = self.http.get(f"/v1/jobs/{job_id}/audit").json()
        assert audit["ok"], audit
        assert isinstance(job, dict)
        return job

    def results(self, job_id: str) -> list[dict[str, Any]]:
        answer = self.http.get(f"/v1/jobs/{job_id}/results", params={"include": "input"})
        return [msgspec.json.decode(line) for line in answer.content.splitlines()]

    def close(self) -> None:
        self.http.close()
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _is_healthy(self) -> bool:
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@contextmanager
def built(folder: Path, database_url: str, valkey: Valkey) -> Iterator[Stack]:
    """The parts, none started but the broker; whatever was started is stopped, and its logs go to the test's output."""
    engine = connect(database_url)
    with sessions_of(engine).begin() as session:
        key = issue_key(session, name="test")
    engine.dispose()
    stack = Stack(folder, database_url, valkey.url, key)
    try:
        yield stack
    finally:
        stack.close()
        for log in sorted(folder.glob("*.log")):
            sys.stdout.write(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}\n")


@pytest.fixture
def stack(tmp_path: Path, database_url: str, valkey: Valkey) -> Iterator[Stack]:
    with built(tmp_path, database_url, valkey) as stack:
        yield stack
