"""Event streams under the real server: hundreds of them and 16 threads, clients that take nothing, restarts."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from db import jobs, keys
from db.session import Sessions
from tests.following import Followed, following
from tests.ledger import Ledger
from tests.stack.conftest import Stack
from tests.waiting import eventually

STREAMS = 200
STREAM = {"accept": "text/event-stream"}


@pytest.fixture
def ledger(stack: Stack, sessions: Sessions, tmp_path: Path) -> Ledger:
    """The same database as the stack's, and a store beside its own."""
    with sessions.begin() as session:
        return Ledger(sessions, keys.tenant(session, "default"), tmp_path / "files")


@pytest.fixture
def api(stack: Stack) -> Iterator[Stack]:
    stack.environment |= {"BUSHEL_MIN_FREE_BYTES": "0"}
    stack.start_api("--threads", "16")
    yield stack


def head(stack: Stack, path: str, version: str = "1.1") -> bytes:
    lines = (
        f"GET {path} HTTP/{version}",
        "Host: here",
        f"Authorization: Bearer {stack.key}",
        f"Accept: {STREAM['accept']}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Crowd:
    """Many clients of one path in one thread, each with what it got."""

    def __init__(self, stack: Stack, path: str, count: int) -> None:
        self._stack, self._path = stack, path
        self.got = [bytearray() for _ in range(count)]
        self.ended = 0
        self._loop = asyncio.new_event_loop()
        self._enough = asyncio.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> "Crowd":
        self._running = self._pool.submit(self._loop.run_until_complete, self._all())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._enough.set)
        self._running.result(60)
        self._pool.shutdown()
        self._loop.close()

    async def _all(self) -> None:
        clients = [asyncio.create_task(self._one(number)) for number in range(len(self.got))]
        await self._enough.wait()
        for client in clients:
            client.cancel()
        for outcome in await asyncio.gather(*clients, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), repr(outcome)

    async def _one(self, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._stack.port)
        try:
            writer.write(head(self._stack, self._path))
            while piece := await reader.read(65_536):
                self.got[number] += piece
            self.ended += 1
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def all_have(self, what: bytes) -> bool:
        return all(what in got for got in self.got)


def body(answer: bytes) -> tuple[bytes, bytes]:
    """Header and body of a chunked answer; the body only as far as it is whole."""
    header, _, rest = bytes(answer).partition(b"\r\n\r\n")
    found = b""
    while (match := re.match(rb"([0-9a-fA-F]+)\r\n", rest)) is not None:
        size = int(match[1], 16)
        found += rest[match.end() : match.end() + size]
        assert rest[match.end() + size : match.end() + size + 2] in (b"\r\n", b"\r", b"")
        rest = rest[match.end() + size + 2 :]
    assert rest == b"", "bytes that are in no chunk"
    return header, found


def parsed(data: bytes) -> Followed:
    found = Followed()
    found.take(data.decode().split("\n"))
    return found


def api_memory(stack: Stack) -> int:
    master = psutil.Process(stack.processes["api"].pid)
    return sum(each.memory_info().rss for each in [master, *master.children()])


def test_two_hundred_streams_take_no_thread_and_all_hear_everything(api: Stack, ledger: Ledger) -> None:
    job_id = ledger.started(40)
    ledger.recut(job_id, 10)
    before = api_memory(api)
    with Crowd(api, f"/v1/jobs/{job_id}/events", STREAMS) as crowd:
        eventually(lambda: crowd.all_have(b'"type":"started"'), 60)

        # Twelve times as many as there are threads.
        begun = time.monotonic()
        for _ in range(50):
            assert api.http.get(f"/v1/jobs/{job_id}").status_code == 200
        each = (time.monotonic() - begun) / 50
        assert each < 1, f"{each:.2f} s a poll"
        threads = psutil.Process(api.processes["api"].pid).children()[0].num_threads()
        assert threads < 16 + 10, "a thread for every stream"
        while (claim := ledger.claim(job_id)) is not None:
            ledger.record(claim)
        assert ledger.finalize(job_id)
        eventually(lambda: crowd.ended == STREAMS, 60)
        grown = api_memory(api) - before

    expected = api.http.get(f"/v1/jobs/{job_id}").json()
    for got in crowd.got:
        header, data = body(got)
        assert header.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"transfer-encoding: chunked" in header.lower()
        assert got.endswith(b"0\r\n\r\n")
        seen = parsed(data)
        assert seen.types == ["created", "started", "finalizing", "completed"]
        assert seen.jobs[-1] == expected
        assert seen.end == {"id": job_id, "status": "completed"}
    assert grown < 100 * 2**20, f"{grown / 2**20:.0f} MiB"


def test_more_than_there_are_places_are_refused_and_the_api_goes_on(stack: Stack, ledger: Ledger) -> None:
    stack.environment |= {"BUSHEL_MAX_STREAMS": "20"}
    stack.start_api()
    job_id = ledger.started(1)
    with Crowd(stack, "/v1/events", 30) as crowd:
        eventually(lambda: sum(b"event: job" in got for got in crowd.got) == 20, 60)
        eventually(lambda: sum(b" 429 " in got[:20] for got in crowd.got) == 10, 60)
        assert stack.http.get(f"/v1/jobs/{job_id}").status_code == 200
        assert stack.http.get("/v1/events", headers=STREAM).status_code == 429
    # Who has gone gives its place back.
    eventually(lambda: _is_taken(stack), 60)


def _is_taken(stack: Stack) -> bool:
    with stack.http.stream("GET", "/v1/events", headers=STREAM) as answer:
        return answer.status_code == 200


def test_a_client_that_takes_nothing_is_cut_off_and_the_others_hear_everything(stack: Stack, ledger: Ledger) -> None:
    stack.environment |= {"BUSHEL_UPLOAD_IDLE_SECONDS": "3", "BUSHEL_MIN_FREE_BYTES": "0"}
    stack.start_api("--threads", "16")
    api = stack
    job_id = ledger.started(1)
    # More than all buffers between the ledger and the client hold.
    ledger.run(
        "INSERT INTO job_events (job_id, tenant_id, type, detail)"
        " SELECT :job, :tenant, 'paused', jsonb_build_object('why', repeat('x', 1000)) FROM generate_series(1, 6000)",
        job=job_id,
        tenant=ledger.tenant,
    )
    before = api_memory(api)
    with ExitStackOfSockets() as stuck:
        for _ in range(20):
            stuck.connect(api.port, head(api, f"/v1/jobs/{job_id}/events"))
        with following(api.http, f"/v1/jobs/{job_id}/events") as seen:
            eventually(lambda: len(seen.log) == 6_002, 120)
            # It took the place of none, and the stuck ones were let go of.
            eventually(lambda: api.log("api").count("cut off: nothing of it was taken") == 20, 120)
            grown = api_memory(api) - before
            with ledger.sessions.begin() as session:
                jobs.set_paused(session, ledger.tenant, job_id, is_paused=True)
            eventually(lambda: seen.jobs[-1]["paused"], 30)
            assert not seen.is_closed
        assert all(stuck.is_closed())

    assert [entry["id"] for entry in seen.log] == sorted(set(seen.ids), key=int)
    assert grown < 100 * 2**20, f"{grown / 2**20:.0f} MiB"


class ExitStackOfSockets:
    """Clients that ask and never read."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> "ExitStackOfSockets":
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def connect(self, port: int, request: bytes) -> None:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(request)
        self._sockets.append(connection)

    def is_closed(self) -> Iterator[bool]:
        """TCP_INFO's first byte is the state; 1 is ESTABLISHED."""
        for each in self._sockets:
            yield each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_client_goes_on_after_a_restart_without_a_gap(api: Stack, ledger: Ledger, how: str) -> None:
    made = [ledger.started(1)]
    with following(api.http, "/v1/events?after=0") as first:
        made.append(ledger.started(1))
        eventually(lambda: len(first.log) == 4, 30)
        if how == "killed":
            os.killpg(api.processes["api"].pid, 9)
            api.processes.pop("api").wait(30)
        else:
            assert api.stop("api") == 0
        eventually(lambda: first.is_closed, 30)
    # What happens while nobody tells it.
    for job_id in made:
        claim = ledger.claim(job_id)
        assert claim is not None
        ledger.record(claim)
        assert ledger.finalize(job_id)
    made.append(ledger.started(1))
    api.start_api("--threads", "16")

    with following(api.http, "/v1/events", **{"last-event-id": first.ids[-1]}) as second:
        eventually(lambda: len(second.log) == 6 and len(second.jobs) >= 3, 30)
        made.append(ledger.started(1))
        eventually(lambda: len(second.log) == 8, 30)

    rows = ledger.rows("SELECT id::text, job_id, type FROM job_events ORDER BY job_events.id")
    told = [(entry["id"], entry["job_id"], entry["type"]) for entry in first.log + second.log]
    assert told == [tuple(row) for row in rows]
    last = {job["id"]: job["status"] for job in second.jobs}
    assert last == dict(zip(made, ["completed", "completed", "in_progress", "in_progress"], strict=True))


def test_the_streams_of_another_tenant_are_not_there(api: Stack, ledger: Ledger) -> None:
    job_id = ledger.started(1)
    with ledger.sessions.begin() as session:
        other = keys.issue_key(session, "other", "tests")
    with httpx.Client(
        base_url=api.http.base_url, headers={"authorization": f"Bearer {other}"}, timeout=60, trust_env=False
    ) as stranger:
        answers = [
            stranger.get(f"/v1/jobs/{id}/events", headers=STREAM) for id in (job_id, "job_0mgcxk2l9h4t8v2c6y0q1w5r3")
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        with following(stranger, "/v1/events") as theirs, following(api.http, "/v1/events") as mine:
            eventually(lambda: mine.jobs, 30)
            claim = ledger.claim(job_id)
            assert claim is not None
            ledger.record(claim)
            ledger.finalize(job_id)
            eventually(lambda: "completed" in mine.types, 30)
            assert theirs.jobs == theirs.log == []


def test_a_key_that_is_revoked_ends_its_streams(api: Stack, ledger: Ledger) -> None:
    ledger.started(1)
    with ledger.sessions.begin() as session:
        mine = keys.issue_key(session, "default", "mine")
    with (
        httpx.Client(
            base_url=api.http.base_url, headers={"authorization": f"Bearer {mine}"}, timeout=60, trust_env=False
        ) as client,
        following(client, "/v1/events") as seen,
        following(api.http, "/v1/events") as other,
    ):
        eventually(lambda: seen.jobs and other.jobs, 30)
        assert api.http.delete(f"/v1/keys/{mine[4:16]}").status_code == 200
        eventually(lambda: seen.is_closed, 30)

        assert not other.is_closed
        assert client.get("/v1/events", headers=STREAM).status_code == 401


def test_a_client_of_http_1_0_gets_its_bytes_without_chunks(api: Stack, ledger: Ledger) -> None:
    job_id = ledger.started(1)
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
        connection.sendall(head(api, f"/v1/jobs/{job_id}/events", "1.0"))
        got = connection.recv(65_536)
        # What it sends meanwhile is no request: this connection has its answer.
        connection.sendall(head(api, "/v1/jobs"))
        claim = ledger.claim(job_id)
        assert claim is not None
        ledger.record(claim)
        assert ledger.finalize(job_id)
        while piece := connection.recv(65_536):
            got += piece

    header, _, data = got.partition(b"\r\n\r\n")
    assert header.startswith(b"HTTP/1.0 200 OK")
    assert b"transfer-encoding" not in header.lower()
    assert data.count(b"HTTP/1") == 0
    seen = parsed(data)
    assert seen.types == ["created", "started", "finalizing", "completed"]
    assert seen.end == {"id": job_id, "status": "completed"}


def test_a_client_that_goes_on_sending_is_cut_off(api: Stack, ledger: Ledger) -> None:
    job_id = ledger.started(1)
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
        connection.sendall(head(api, f"/v1/jobs/{job_id}/events"))
        assert connection.recv(65_536)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(10_000):
                connection.sendall(b"x" * 65_536)


def test_a_job_is_followed_through_real_workers(api: Stack) -> None:
    api.start_worker()
    job_id = api.submit(inputs=[f"line {number}" for number in range(60)], model="echo-slow")

    with following(api.http, f"/v1/jobs/{job_id}/events") as seen:
        eventually(lambda: seen.is_closed, 120)

    assert seen.types == ["created", "started", "finalizing", "completed"]
    done = [job["counts"]["succeeded"] for job in seen.jobs]
    assert done == sorted(done) and done[-1] == 60
    assert any(job["counts"]["running"] for job in seen.jobs), "it was seen running"
    assert seen.jobs[-1] == api.job(job_id)
    assert _shown(seen.jobs[-1]) == ("completed", 1.0)


def _shown(job: dict[str, Any]) -> tuple[str, float]:
    assert msgspec.json.encode(job)
    return job["status"], job["progress"]
