"""Too much at once, too slowly, or with no room left: who behaves is served, who does not is told why or cut off."""

import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.config import APISettings
from api.errors import scattered
from db import keys
from db.admission import Admission, Overloaded
from db.disk import Disks
from db.doorbell import RecordingDoorbell
from db.outages import outage
from db.session import Sessions, connect
from db.session import sessions as sessions_of
from db.store import FolderStore
from tests.conftest import NO_BROKER, REGISTRY, fresh_database, served
from tests.ledger import Ledger
from tests.waiting import eventually
from workers.finalize import Finalize
from workers.room import Watermark

MB = 2**20
JOB = {"task": "translation", "inputs": ["one"]}


# --- slow clients, under the real server --------------------------------------------------------


@dataclass
class Server:
    """The API under gunicorn, with four threads and little patience."""

    port: int
    key: str
    ledger: Ledger
    log: Path
    client: httpx.Client

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def kept(self) -> set[str]:
        """Everything that requests may have left: files of the store, finished or not, and rows."""
        paths = {str(path) for path in self.ledger.folder.rglob("*") if path.is_file()}
        return paths | {row.id for table in ("files", "jobs") for row in self.ledger.rows(f"SELECT id FROM {table}")}

    def ended(self, path: str) -> list[str]:
        """Statuses of all POSTs to the path, as the access log has them."""
        return re.findall(rf'"POST {path}" (\d+)', self.log.read_text())

    def head(self, method: str, path: str, *more: str) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: here", f"Authorization: Bearer {self.key}", *more, "", ""]
        return "\r\n".join(lines).encode()


_IMPATIENT = {
    "BUSHEL_HEADER_SECONDS": "2",
    "BUSHEL_UPLOAD_IDLE_SECONDS": "2",
    "BUSHEL_BODY_SECONDS": "4",
    "BUSHEL_API_THREADS": "4",
    "BUSHEL_SYNC_REQUESTS": "1",
    "BUSHEL_MAX_TRANSFERS": "2",
    "BUSHEL_MIN_FREE_BYTES": "0",
}
# Nobody is cut off for being slow, so that only what is held and how many there are can be in the way of others.
_FORGIVING = {
    "BUSHEL_HEADER_SECONDS": "600",
    "BUSHEL_UPLOAD_IDLE_SECONDS": "600",
    "BUSHEL_BODY_SECONDS": "600",
    "BUSHEL_API_THREADS": "1",
    "BUSHEL_SYNC_REQUESTS": "1",
    "BUSHEL_SYNC_WAIT_SECONDS": "20",
    "BUSHEL_MIN_FREE_BYTES": "0",
}


@pytest.fixture(scope="module")
def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests here, for it takes seconds to start; they look at what is new."""
    with _started(postgres, tmp_path_factory.mktemp("overload"), _IMPATIENT) as server:
        yield server


@pytest.fixture(scope="module")
def crowded(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with a single thread, all the patience there is, and few connections."""
    with _started(postgres, tmp_path_factory.mktemp("crowded"), _FORGIVING, "--worker-connections", "80") as server:
        yield server


@contextmanager
def _started(postgres: str, folder: Path, settings: Mapping[str, str], *options: str) -> Iterator[Server]:
    with fresh_database(postgres) as url:
        engine = connect(url, application="tests")
        with sessions_of(engine).begin() as session:
            key = keys.issue_key(session, "default", "tests")
            tenant = keys.tenant(session, "default")
        ledger = Ledger(sessions_of(engine), tenant, folder / "files")
        with _serving(url, folder, key, ledger, settings, *options) as server:
            yield server
        engine.dispose()


@contextmanager
def _serving(
    database_url: str, folder: Path, key: str, ledger: Ledger, settings: Mapping[str, str], *options: str
) -> Iterator[Server]:
    (folder / "registry.toml").write_text(REGISTRY)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "BUSHEL_DATABASE_URL": database_url,
        "BUSHEL_BROKER_URL": NO_BROKER,
        "BUSHEL_DATA": str(folder),
        "BUSHEL_REGISTRY": str(folder / "registry.toml"),
        **settings,
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "--bind", f"127.0.0.1:{port}"]
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options, "--no-control-socket", "api.app:create_app()"], env=environment, stdout=log, stderr=log
        )
    headers = {"Authorization": f"Bearer {key}"}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False) as client:
            eventually(lambda: _answers(client), 60)
            yield Server(port, key, ledger, folder / "api.log", client)
    finally:
        process.terminate()
        process.wait(30)
        sys.stdout.write((folder / "api.log").read_text(errors="replace")[-4000:])


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            found += piece
    return found


def trickle(connection: socket.socket, data: bytes, seconds: float, at_once: int = 1) -> float:
    """Send so many bytes ten times a second until the server has had enough; how long that took."""
    begun = time.monotonic()
    for place in range(0, len(data), at_once):
        connection.settimeout(0.1)
        try:
            connection.sendall(data[place : place + at_once])
            if connection.recv(1, socket.MSG_PEEK) == b"":
                break
            break
        except TimeoutError:
            assert time.monotonic() - begun < seconds, "nobody stopped it"
        except (ConnectionResetError, BrokenPipeError):
            break
    connection.settimeout(30)
    return time.monotonic() - begun


def test_headers_that_trickle_take_no_thread_and_are_cut_off(server: Server) -> None:
    head = server.head("GET", "/v1/jobs", "X-Filler: " + "x" * 2_000)
    with ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(40)]
        for connection in slow:
            connection.sendall(head[:20])

        # Ten times as many as there are threads, and every one of them in the middle of its header.
        for _ in range(20):
            assert server.client.get("/v1/jobs").status_code == 200

        trickle(slow[0], head[20:], 60)
        for connection in slow:
            answer = everything(connection)
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            assert b'"request_timeout"' in answer


@pytest.mark.parametrize(
    ("path", "type"), [("/v1/files", "multipart/form-data; boundary=b"), ("/v1/jobs", "application/json")]
)
def test_bodies_that_trickle_are_cut_off_and_leave_nothing(server: Server, path: str, type: str) -> None:
    before = server.kept()
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' if "form" in type else b"["
    for size in (100_000, 5 * MB):
        with server.connect() as connection:
            connection.sendall(server.head("POST", path, f"Content-Type: {type}", f"Content-Length: {size}") + start)
            trickle(connection, b"x" * 5_000, 60)
            assert everything(connection).startswith(b"HTTP/1.1 408 ")

    assert server.kept() == before


def test_a_short_body_that_keeps_the_pace_must_be_whole_in_time_all_the_same(server: Server) -> None:
    head = server.head("POST", "/v1/jobs", "Content-Type: application/json", "Content-Length: 1000000")
    with server.connect() as connection:
        connection.sendall(head)
        # Several times the pace that is asked for, and still minutes for all of it.
        trickle(connection, b"x" * 400_000, 60, at_once=400)

        answer = everything(connection)

    assert answer.startswith(b"HTTP/1.1 408 ") and b"took longer than" in answer


def test_bodies_on_their_way_keep_nobody_out(crowded: Server) -> None:
    head = crowded.head("POST", "/v1/jobs", "Content-Type: application/json", "Content-Length: 100000")
    with ExitStack() as stack:
        slow = [stack.enter_context(crowded.connect()) for _ in range(100)]
        for connection in slow:
            # Who lost its place may be told so before it has sent anything.
            with suppress(ConnectionError):
                connection.sendall(head + b"[")

        # More than there are connections, all of them with a whole header, and nobody is cut off for slowness.
        for _ in range(5):
            assert httpx.get(f"{crowded.client.base_url}/healthz", timeout=20, trust_env=False).status_code == 200

        # The oldest went first; who came last is still there, and served.
        assert everything(slow[0]) == b""
        slow[-1].sendall(b"x" * 99_999)
        assert slow[-1].recv(12) == b"HTTP/1.1 400"


def test_bodies_that_fill_the_memory_before_they_are_whole_make_room_for_others(crowded: Server) -> None:
    head = crowded.head("POST", "/v1/jobs", "Content-Type: application/json", "Content-Length: 1000000")
    with ExitStack() as stack:
        slow = [stack.enter_context(crowded.connect()) for _ in range(70)]
        for connection in slow:
            connection.sendall(head + b"x" * 999_999)

        assert crowded.client.get("/v1/jobs").status_code == 200

        # The oldest was told to come again; who came last has lost nothing.
        refused = everything(slow[0])
        assert refused.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in refused
        slow[-1].sendall(b"x")
        assert slow[-1].recv(12) == b"HTTP/1.1 400"


def test_requests_that_wait_for_a_thread_are_held_in_bounded_memory(crowded: Server) -> None:
    like = ("Content-Type: application/json", "Content-Length: 1000000", "Connection: close")
    no_json = crowded.head("POST", "/v1/jobs", *like) + b"x" * 1_000_000
    question = b'{"model": "echo-chat", "messages": [{"role": "user", "content": "hello"}]}'
    kind = ("Content-Type: application/json", f"Content-Length: {len(question)}")
    with ExitStack() as stack:
        # Nobody works for it, so it has the only thread for as long as one waits.
        asking = stack.enter_context(crowded.connect())
        asking.sendall(crowded.head("POST", "/v1/chat/completions", *kind) + question)
        eventually(lambda: crowded.ledger.rows("SELECT 1 FROM jobs WHERE interactive"))

        waiting = [stack.enter_context(crowded.connect()) for _ in range(70)]
        for connection in waiting:
            # Who is refused is told so while it still sends.
            with suppress(ConnectionError):
                connection.sendall(no_json)
        answers = [everything(connection) for connection in waiting]

        # There is room for 32 MiB of them, which are read once the thread is free; the others knew at once.
        read = [answer for answer in answers if answer.startswith(b"HTTP/1.1 400 ")]
        refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503 ")]
        assert 25 <= len(read) <= 33 and len(read) + len(refused) == len(answers)
        assert all(b"\r\nRetry-After: " in answer for answer in refused)
        assert crowded.client.post("/v1/jobs", json=JOB).status_code == 202


def test_uploads_that_are_aborted_leave_nothing_behind(server: Server) -> None:
    before, ended = server.kept(), len(server.ended("/v1/files"))
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + b"x" * MB
    head = server.head("POST", "/v1/files", "Content-Type: multipart/form-data; boundary=b", "Content-Length: 9000000")
    for sent in (len(head) - 2, len(head), len(head) + 10, len(head) + len(body)):
        with server.connect() as connection:
            connection.sendall((head + body)[:sent])

    eventually(lambda: len(server.ended("/v1/files")) == ended + 3, 60)
    # There are two places; what comes before one is free again is told so.
    assert set(server.ended("/v1/files")[ended:]) <= {"400", "503"}
    assert server.kept() == before


def test_long_transfers_leave_threads_for_the_others(server: Server) -> None:
    large = {"file": ("large.txt", b"x" * 30 * MB)}
    file_id = server.client.post("/v1/files", files=large, data={"purpose": "batch"}).json()["id"]
    download = server.head("GET", f"/v1/files/{file_id}/content")
    with ExitStack() as stack:
        slow = []
        for _ in range(2):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(download)
            assert connection.recv(12) == b"HTTP/1.1 200"
            slow.append(connection)

        refused = server.client.get(f"/v1/files/{file_id}/content")
        too_many = server.client.post("/v1/files", files=large, data={"purpose": "batch"})
        others = [server.client.post("/v1/jobs", json=JOB), server.client.get("/v1/jobs")]

        for answer in (refused, too_many):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "too_many_transfers")
            assert int(answer.headers["retry-after"]) >= 2
        assert [answer.status_code for answer in others] == [202, 200]

        # Who takes nothing is cut off in the end, by a reset: nothing is kept for it. Its place is free for others.
        eventually(lambda: all(_is_reset(connection) for connection in slow), 60)
        eventually(lambda: server.client.get(f"/v1/files/{file_id}/content").status_code == 200, 60)


def _is_reset(connection: socket.socket) -> bool:
    """TCP_INFO begins with the state, of which 7 is CLOSE."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 7


def test_a_slow_reader_of_a_short_answer_takes_no_thread(server: Server) -> None:
    server.ledger.run(
        "INSERT INTO files (id, tenant_id, purpose, filename, bytes, sha256, content_type, store_key)"
        " SELECT 'file-' || lpad(n::text, 26, '0'), :tenant, 'batch', repeat('n', 200), 1, '-', 'text/plain', 'k' || n"
        " FROM generate_series(1, 2500) n",
        tenant=server.ledger.tenant,
    )
    listing = server.head("GET", "/v1/files?limit=10000")
    with ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(listing)
            slow = connection
        assert slow.recv(12) == b"HTTP/1.1 200"

        for _ in range(5):
            assert server.client.get("/v1/jobs", timeout=10).status_code == 200

        # What was read in time was not cut short.
        whole = server.client.get("/v1/files?limit=10000").json()
        assert len(whole["data"]) >= 2_500
    server.ledger.run("DELETE FROM files WHERE store_key LIKE 'k%'")


def test_requests_sent_ahead_are_answered_in_order(server: Server) -> None:
    one, other = server.head("GET", "/v1/jobs/one"), server.head("GET", "/v1/jobs/other", "Connection: close")
    with server.connect() as connection:
        connection.sendall(b"\r\n" + one + other[:30])
        answers = connection.recv(65_536)
        connection.sendall(other[30:])
        answers += everything(connection)

    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"404", b"404"]
    assert answers.index(b"'one'") < answers.index(b"'other'")


def test_a_header_without_end_is_refused(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(server.head("GET", "/v1/jobs", *[f"X-{n}: {'x' * 8_000}" for n in range(12)]))
        assert everything(connection).startswith(b"HTTP/1.1 431 ")


def test_one_key_sent_over_and_over_with_lost_answers_makes_one_job(server: Server) -> None:
    body = b'{"task": "translation", "inputs": ["one"]}'
    head = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Idempotency-Key: again")
    request = server.head("POST", "/v1/jobs", *head) + body
    [began] = server.ledger.rows("SELECT now() AS now")[0]
    chance = random.Random(11)
    cuts = [chance.choice([len(request), len(request), chance.randrange(1, len(request))]) for _ in range(1_000)]
    reads = [chance.random() < 0.5 for _ in cuts]

    def post(cut: int, read: bool) -> bytes:
        with server.connect() as connection:
            connection.sendall(request[:cut])
            return connection.recv(65_536) if read and cut == len(request) else b""

    with ThreadPoolExecutor(16) as pool:
        answers = [answer for answer in pool.map(post, cuts, reads) if answer]

    [job] = server.ledger.rows("SELECT id FROM jobs WHERE created_at >= :began", began=began)
    assert len(answers) > 20
    # Of two at the same moment one may be told to come again, and then finds the job.
    assert {int(answer.split()[1]) for answer in answers} <= {202, 409, 503}
    assert sum(b" 202 " in answer for answer in answers) > len(answers) / 2
    assert all(job.id.encode() in answer for answer in answers if b" 202 " in answer[:20])
    # The last ones, whose answers nobody waited for, may still be at it.
    eventually(lambda: _spooled(server.ledger) == len(server.ledger.rows("SELECT 1 FROM jobs")), 60)


def _spooled(ledger: Ledger) -> int:
    return len(list(ledger.folder.glob("inputs/*")))


# --- as much as may ------------------------------------------------------------------------------


def test_a_full_queue_refuses_new_jobs_but_no_repetition(settings: APISettings, ledger: Ledger, key: str) -> None:
    few = settings.model_copy(update={"max_queued_tokens": 100})
    with served(few, RecordingDoorbell()) as api, api.client(key) as client:
        first = client.post("/v1/jobs", json=JOB, headers={"Idempotency-Key": "a"})
        assert first.status_code == 202
        ledger.started(10)
        ledger.run("UPDATE jobs SET queued_tokens = 5000 WHERE status = 'in_progress'")

        # What is known of the queue is at most a second old.
        refused = eventually(lambda: (answer := client.post("/v1/jobs", json=JOB)).is_error and answer, 30)
        again = client.post("/v1/jobs", json=JOB, headers={"Idempotency-Key": "a"})
        dry = client.post("/v1/jobs", json=JOB | {"dry_run": True})

        assert isinstance(refused, httpx.Response)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "service_overloaded")
        assert "BUSHEL_MAX_QUEUED_TOKENS" in refused.json()["error"]["message"]
        # Nothing is known of the speed.
        assert 600 <= int(refused.headers["retry-after"]) <= 900
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        assert dry.status_code == 202
        assert _spooled(ledger) == len(ledger.rows("SELECT 1 FROM jobs WHERE inputs_key IS NOT NULL"))

        ledger.run("UPDATE jobs SET queued_tokens = 10 WHERE status = 'in_progress'")
        eventually(lambda: client.post("/v1/jobs", json=JOB).status_code == 202, 30)


def test_the_time_to_wait_follows_the_measured_speed(sessions: Sessions, ledger: Ledger) -> None:
    ledger.started(10)
    ledger.run("UPDATE jobs SET queued_tokens = 5000")
    ledger.run("INSERT INTO model_rates (model, tokens_per_second, output_per_input) VALUES ('echo', 20, 1)")
    ledger.run(
        "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable, heartbeat_at)"
        " SELECT 'w' || n, 'h', n, 'cpu', '0', '[\"echo\"]', '[]', '{}', now() FROM generate_series(1, 2) n"
    )

    with sessions() as session, pytest.raises(Overloaded) as caught:
        Admission(4_900).admit(session, 100)

    # 200 tokens have to go, and two workers take ten a second each.
    assert caught.value.retry_after == pytest.approx(10.0)


def test_a_file_counts_by_its_size_until_it_is_read(sessions: Sessions, ledger: Ledger) -> None:
    ledger.submit(b"word " * 1_000)

    with sessions() as session:
        with pytest.raises(Overloaded) as caught:
            Admission(1_000).admit(session, 10)
        Admission(1_300).admit(session, 10)

    assert caught.value.queued == 1_250


def test_a_job_larger_than_the_limit_is_taken_when_nothing_waits(sessions: Sessions, ledger: Ledger) -> None:
    admission = Admission(10)
    with sessions() as session:
        admission.admit(session, 1_000)
        with pytest.raises(Overloaded):
            admission.admit(session, 1)


def test_nobody_is_told_to_come_back_too_soon_or_all_at_once() -> None:
    said = {scattered(2) for _ in range(200)}

    assert min(said) >= 2 and max(said) <= 5 and len(said) > 1
    assert all(60 <= scattered(60) <= 90 for _ in range(50))


# --- no room -------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of its own for the folder."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"NOT TESTED, a full disk: no tmpfs can be mounted here ({mounted.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_nearly_full_disk_refuses_and_heals_without_a_restart(
    settings: APISettings, ledger: Ledger, key: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", 8 * MB) as disk:
        ballast = disk / "ballast"
        tight = settings.model_copy(
            update={"store_url": disk.as_uri(), "min_free_bytes": 2 * MB, "pause_free_bytes": MB}
        )
        with served(tight, RecordingDoorbell()) as api, api.client(key) as client:
            file_id = _upload(client, 1_000).json()["id"]
            from_file = {"task": "translation", "input_file_id": file_id}
            ballast.write_bytes(b"x" * 6 * MB)

            refused = [
                _upload(client, 1_000),
                client.post("/v1/jobs", json=JOB),
                client.post("/v1/jobs", json=from_file),
            ]
            ready = client.get("/readyz")

            for answer in refused:
                assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")
                assert "delete files or jobs" in answer.json()["error"]["message"]
                assert int(answer.headers["retry-after"]) >= 60
            assert (ready.status_code, ready.json()["missing"]) == (503, ["disk"])
            assert "BUSHEL_MIN_FREE_BYTES" in ready.json()["checks"]["disk"]["message"]
            assert client.get(f"/v1/files/{file_id}/content").status_code == 200

            ballast.unlink()
            assert client.get("/readyz").status_code == 200
            assert _upload(client, 1_000).status_code == 200
            assert client.post("/v1/jobs", json=from_file).status_code == 202


def _upload(client: httpx.Client, size: int) -> httpx.Response:
    return client.post("/v1/files", files={"file": ("a.txt", b"x" * size)}, data={"purpose": "batch"})


def test_an_upload_that_fills_the_disk_is_a_507_and_leaves_nothing(
    settings: APISettings, key: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", 4 * MB) as disk:
        # The size is not told beforehand, so that only the disk itself can refuse.
        def endless() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
            for _ in range(64):
                yield b"x" * 256 * 1024
            yield b"\r\n--b--\r\n"

        tight = settings.model_copy(update={"store_url": disk.as_uri()})
        with served(tight, RecordingDoorbell()) as api, api.client(key) as client:
            kind = {"Content-Type": "multipart/form-data; boundary=b"}
            try:
                status = client.post("/v1/files", content=endless(), headers=kind).status_code
            except httpx.TransportError:
                # The test's server closes on a body that nobody reads any more.
                status = 507
            assert status == 507
            eventually(lambda: not [path for path in disk.rglob("*") if path.is_file()], 20)
            assert _upload(client, 1_000).status_code == 200


def test_a_job_whose_files_find_no_room_waits_and_then_ends(ledger: Ledger, tmp_path: Path) -> None:
    job_id = ledger.started(20_000)
    while claim := ledger.claim(job_id):
        ledger.record(claim, output={"text": "out " * 20, "finish_reason": "stop"})
    with small_disk(tmp_path / "small", MB) as disk:
        store = FolderStore(disk)
        watermark = Watermark(Disks(store, tmp_path), kept=0)
        finalize = Finalize(ledger.sessions, store, ledger.bell, "finalizer", has_room=watermark.has_room)

        assert finalize.run(job_id) is False
        assert ledger.job(job_id).status == "finalizing"
        assert [path for path in disk.rglob("*") if path.is_file()] == []
        begun = ledger.job(job_id).step_attempt
        # It is not even begun while there is less room than it was seen to take.
        assert finalize.run(job_id) is False
        assert ledger.job(job_id).step_attempt == begun

        subprocess.run(["mount", "-o", f"remount,size={64 * MB}", str(disk)], check=True)
        assert finalize.run(job_id) is True
    assert ledger.job(job_id).status == "completed"


def test_a_worker_pauses_below_the_mark_and_goes_on_above_it(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "small", 4 * MB) as disk:
        watermark = Watermark(Disks(FolderStore(disk), tmp_path), kept=2 * MB)
        assert watermark.has_room()

        (disk / "ballast").write_bytes(b"x" * 3 * MB)
        assert eventually(lambda: not watermark.has_room(), 10)
        assert "BUSHEL_PAUSE_FREE_BYTES" in caplog.text

        (disk / "ballast").unlink()
        assert eventually(watermark.has_room, 10)
        assert "work goes on" in caplog.text


# --- what PostgreSQL says when it is in trouble --------------------------------------------------


def failing(sessions: Sessions, *statements: str) -> DBAPIError:
    with sessions() as session, pytest.raises(DBAPIError) as caught:
        for statement in statements:
            session.execute(text(statement))
    return caught.value


def raising(sqlstate: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = 'no'; END $$"


@pytest.mark.parametrize(
    ("statements", "code"),
    [
        pytest.param(["SET LOCAL statement_timeout = 10", "SELECT pg_sleep(5)"], "database_busy", id="timeout"),
        pytest.param(
            ["SET TRANSACTION READ ONLY", "UPDATE jobs SET version = 0"], "database_read_only", id="read only"
        ),
        pytest.param([raising("53100")], "insufficient_storage", id="disk full"),
        pytest.param([raising("53200")], "database_busy", id="out of memory"),
        pytest.param([raising("53300")], "database_busy", id="too many connections"),
        pytest.param([raising("55P03")], "database_busy", id="lock timeout"),
        pytest.param([raising("40P01")], "database_busy", id="deadlock"),
        pytest.param([raising("40001")], "database_busy", id="serialization"),
        pytest.param([raising("57P01")], "database_unavailable", id="shutting down"),
    ],
)
def test_trouble_of_the_database_is_told_from_errors_of_ours(
    sessions: Sessions, statements: list[str], code: str
) -> None:
    found = outage(failing(sessions, *statements))

    assert found is not None
    assert (found.code, found.is_full) == (code, code == "insufficient_storage")


def test_an_error_of_ours_is_no_outage(sessions: Sessions) -> None:
    assert outage(failing(sessions, "SELECT 1 / 0")) is None
    assert outage(failing(sessions, "SELECT nonsense")) is None
    assert outage(ValueError()) is None


def test_a_pool_without_a_free_connection_is_an_outage(database_url: str) -> None:
    engine = connect(database_url, pool=2)
    engine.pool._timeout = 0.1  # type: ignore[attr-defined]
    sessions = sessions_of(engine)
    with sessions() as one, sessions() as other, sessions() as third:
        one.execute(text("SELECT 1"))
        other.execute(text("SELECT 1"))
        with pytest.raises(PoolTimeout) as caught:
            third.execute(text("SELECT 1"))
    engine.dispose()

    found = outage(caught.value)
    assert found is not None and found.code == "database_busy"


def test_a_database_that_takes_no_writes_is_a_503_and_reads_go_on(
    client: httpx.Client, api: Any, settings: APISettings, ledger: Ledger
) -> None:
    name = settings.database_url.rsplit("/", 1)[1].split("?")[0]
    plain = settings.database_url.replace("postgresql+psycopg://", "postgresql://")
    assert client.get("/v1/jobs").status_code == 200
    # Old enough for the next request to note a new one.
    ledger.run("UPDATE api_keys SET last_used_at = now() - interval '1 hour'")

    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        _reconnect(connection)
        refused = client.post("/v1/jobs", json=JOB)
        read = [client.get(f"/v1/{path}").status_code for path in ("jobs", "files", "quota", "models")]
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        _reconnect(connection)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_read_only")
    assert int(refused.headers["retry-after"]) >= 10
    assert read == [200] * 4
    assert list(ledger.folder.glob("inputs/*")) == []
    assert client.post("/v1/jobs", json=JOB).status_code == 202


def test_a_disk_too_full_to_note_when_a_key_was_used_still_lets_files_be_deleted(
    client: httpx.Client, ledger: Ledger
) -> None:
    file_id = _upload(client, 1_000).json()["id"]
    ledger.run("UPDATE api_keys SET last_used_at = now() - interval '1 hour'")
    ledger.run(f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $f$ {_body(raising('53100'))} $f$")
    ledger.run("CREATE TRIGGER full_disk BEFORE UPDATE ON api_keys EXECUTE FUNCTION full_disk()")

    assert client.delete(f"/v1/files/{file_id}").status_code == 200
    assert client.get(f"/v1/files/{file_id}").status_code == 404


def _body(block: str) -> str:
    """A function's body of a DO statement."""
    return block.removeprefix("DO $$ ").removesuffix(" $$")


def _reconnect(connection: psycopg.Connection[Any]) -> None:
    """End the sessions that began before the setting; the pool tests each before use and makes new ones."""
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
