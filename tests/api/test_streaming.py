"""What only a real server process shows: memory, broken connections, chunked bodies."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from api.config import APISettings
from tests.conftest import NO_BROKER
from tests.ledger import Ledger
from tests.waiting import eventually

MB = 2**20


@dataclass
class Server:
    """The API under gunicorn, as it is run for real."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    port: int
    files: Path

    def worker(self) -> psutil.Process:
        [child] = psutil.Process(self.process.pid).children()
        return child

    def peak_rss(self) -> int:
        """The most memory the worker ever held, as the kernel counted it."""
        status = Path(f"/proc/{self.worker().pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

    def stored(self) -> list[Path]:
        return [path for path in self.files.rglob("*") if path.is_file()]


@pytest.fixture
def server(settings: APISettings, key: str, tmp_path: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "BUSHEL_DATABASE_URL": settings.database_url,
        "BUSHEL_BROKER_URL": NO_BROKER,
        "BUSHEL_DATA": str(tmp_path),
        "BUSHEL_REGISTRY": str(settings.registry),
        "BUSHEL_MIN_FREE_BYTES": "0",
        "BUSHEL_UPLOAD_IDLE_SECONDS": "1",
        "BUSHEL_MAX_UPLOAD_BYTES": str(400 * MB),
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "--bind", f"127.0.0.1:{port}"]
    with (tmp_path / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--no-control-socket", "api.app:create_app()"], env=environment, stdout=log, stderr=log
        )
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False) as client:
        eventually(lambda: _answers(client), 30)
        yield Server(process, client, port, tmp_path / "files")
    process.terminate()
    process.wait(20)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


class Zeros:
    """A file of `size` bytes that takes no memory; lines of text, so that they are searched for boundaries."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._block = (b"x" * 98 + b"\r\n") * 655

    def read(self, size: int = -1) -> bytes:
        block = self._block[: min(self._left, len(self._block), size if size > 0 else len(self._block))]
        self._left -= len(block)
        return block


def test_memory_does_not_grow_with_what_is_uploaded_or_downloaded(server: Server, ledger: Ledger) -> None:
    server.client.post("/v1/files", files={"file": ("warm.txt", b"x")}, data={"purpose": "batch"})
    before = server.peak_rss()

    file = {"file": ("large.txt", Zeros(200 * MB))}
    answer = server.client.post("/v1/files", files=file, data={"purpose": "batch"})  # type: ignore[arg-type]

    assert (answer.status_code, answer.json()["bytes"]) == (200, 200 * MB)
    received = 0
    with server.client.stream("GET", f"/v1/files/{answer.json()['id']}/content") as download:
        for block in download.iter_raw():
            received += len(block)
    assert received == 200 * MB
    assert server.peak_rss() - before < 8 * MB


def test_memory_does_not_grow_with_the_results_streamed(server: Server, ledger: Ledger) -> None:
    job_id = ledger.started(1)
    ledger.run("DELETE FROM items")
    ledger.run(
        "INSERT INTO items (job_id, idx, custom_id, line, input, input_tokens)"
        " SELECT :job, n, 'line-' || n, n + 1, '{\"text\": \"a\"}', 1 FROM generate_series(0, 149999) n",
        job=job_id,
    )
    ledger.run(
        "INSERT INTO results (job_id, idx, seq, outcome, output) SELECT :job, n, n + 1, 'succeeded',"
        " jsonb_build_object('text', repeat('x', 300)) FROM generate_series(0, 149999) n",
        job=job_id,
    )
    ledger.run("ANALYZE")
    path = f"/v1/jobs/{job_id}/results"
    server.client.get(path, params={"limit": 10_000})
    before = server.peak_rss()

    lines = 0
    with server.client.stream("GET", path) as download:
        for block in download.iter_raw():
            lines += block.count(b"\n")

    assert lines == 150_000
    assert server.peak_rss() - before < 16 * MB


def _upload_head(server: Server, length: int) -> bytes:
    key = server.client.headers["Authorization"]
    return (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: {length}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    ).encode()


def test_an_upload_cut_off_in_the_middle_leaves_nothing(server: Server, ledger: Ledger) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(_upload_head(server, 50 * MB) + b"x" * MB)
        # Its bytes are on their way into the store when the client goes away.
        eventually(lambda: server.stored())

    eventually(lambda: not server.stored())
    assert ledger.rows("SELECT count(*) FROM files") == [(0,)]
    assert server.client.get("/v1/files").json()["data"] == []


def test_a_client_that_falls_silent_is_cut_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(_upload_head(server, 50 * MB) + b"x" * MB)
        answer = b""
        # Head and body may come apart, and the server closes after them.
        while part := connection.recv(65536):
            answer += part

    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in answer
    eventually(lambda: not server.stored())


def test_a_server_killed_during_an_upload_keeps_no_file_row(server: Server, ledger: Ledger) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(_upload_head(server, 50 * MB) + b"x" * MB)
        eventually(lambda: server.stored())
        old = server.worker()
        old.kill()

        eventually(lambda: not old.is_running() or old.status() == psutil.STATUS_ZOMBIE)

    assert ledger.rows("SELECT count(*) FROM files") == [(0,)]
    assert ledger.store.remove_unfinished(0) == 1
    assert server.stored() == []
    eventually(lambda: _answers(server.client), 20)


def test_a_body_without_a_length_is_taken_and_limited_too(server: Server) -> None:
    def body(size: int) -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        for _ in range(size // MB):
            yield b"y" * MB
        yield b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'

    headers = {"Content-Type": "multipart/form-data; boundary=b"}

    taken = server.client.post("/v1/files", content=body(3 * MB), headers=headers)
    assert (taken.status_code, taken.json()["bytes"]) == (200, 3 * MB)
    json_body = (b" " * MB for _ in range(17))
    refused = server.client.post("/v1/jobs", content=json_body, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/files"])
def test_a_body_in_broken_chunks_is_the_clients_fault(server: Server, path: str) -> None:
    kind = "application/json" if path == "/v1/batches" else "multipart/form-data; boundary=b"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {server.client.headers['Authorization']}\r\n"
    head += f"Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head.encode() + b"nine\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part

    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"type":"invalid_request_error"' in answer
    assert server.stored() == []


def test_an_upload_announced_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(_upload_head(server, 500 * MB))
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413")
    assert server.stored() == []


def test_a_broker_that_is_away_does_not_hold_up_a_job(server: Server) -> None:
    answers = [server.client.post("/v1/jobs", json={"task": "translation", "inputs": ["a"]}) for _ in range(5)]

    assert {answer.status_code for answer in answers} == {202}
    assert max(answer.elapsed.total_seconds() for answer in answers) < 1


def test_keys_are_not_logged(server: Server, key: str, tmp_path: Path) -> None:
    server.client.get("/v1/jobs")
    server.client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}x"})

    eventually(lambda: "GET /v1/jobs" in (tmp_path / "api.log").read_text())
    assert key.rsplit("_", 1)[1] not in (tmp_path / "api.log").read_text()
