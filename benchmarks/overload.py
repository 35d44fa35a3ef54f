"""What slow clients cost the others: `python -m benchmarks.overload`.

A private service (`benchmarks.service`: one API process with 16 threads, default settings) is polled by 500 clients
with kept-alive connections, each every few seconds. Phases without and with slow clients alternate in one run:

- slow headers: a request whose header comes a byte a second;
- slow bodies: an upload of 10 MB and a submission of 50 kB, announced whole and sent a byte a second;
- slow readers: a download of 30 MB of which a byte a second is taken.

Whoever of them is cut off or refused comes back after two seconds, so that there are always as many. Latency is that of
the pollers, from the first byte sent to the last one read; an error is any answer but 200, or a broken connection. The
clients run on the same cores as the service.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import os
import resource
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import machine
from benchmarks.service import running
from benchmarks.tables import markdown

FILE_BYTES = 30 * 2**20
_SLOW = {"slow header": 100, "slow upload": 50, "slow submission": 50, "slow reader": 20}


@dataclass
class Phase:
    """What the pollers met, and the slow ones."""

    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    # Seconds until each kind of slow client was cut off, and how often it was told that there was no place for it.
    lives: dict[str, list[float]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    begun: Counter[str] = field(default_factory=Counter)


class Clients:
    """All clients of one run, on raw sockets: 700 of them must not cost more than the service does."""

    def __init__(self, url: str, authorization: str, job_id: str, file_id: str) -> None:
        where = urlsplit(url)
        self._host, self._port = where.hostname or "127.0.0.1", where.port or 80
        self._key = authorization
        self._job_id, self._file_id = job_id, file_id

    def head(self, method: str, path: str, *more: str) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: here", f"Authorization: {self._key}", *more, "", ""]
        return "\r\n".join(lines).encode()

    async def poll(self, phase: Phase, every: float, first: float) -> None:
        """Ask again and again over one connection; after an error, over a new one."""
        request = self.head("GET", f"/v1/jobs/{self._job_id}")
        writer: asyncio.StreamWriter | None = None
        await asyncio.sleep(first)
        try:
            while True:
                began = time.perf_counter()
                try:
                    if writer is None:
                        reader, writer = await asyncio.open_connection(self._host, self._port)
                        began = time.perf_counter()
                    writer.write(request)
                    status = await _answer(reader)
                except (OSError, EOFError) as exc:
                    status = type(exc).__name__
                phase.seconds.append(time.perf_counter() - began)
                if status != "200":
                    phase.errors[status] += 1
                    if writer is not None:
                        writer.close()
                    writer = None
                await asyncio.sleep(max(0.0, every - (time.perf_counter() - began)))
        finally:
            if writer is not None:
                writer.close()

    def kinds(self) -> dict[str, Callable[[Phase], Coroutine[Any, Any, None]]]:
        form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        kind = "Content-Type: multipart/form-data; boundary=b"
        upload = self.head("POST", "/v1/files", kind, "Content-Length: 9999999")
        submit = self.head("POST", "/v1/jobs", "Content-Type: application/json", "Content-Length: 50000")
        header = self.head("GET", "/v1/jobs", "X-Filler: " + "x" * 5_000)
        return {
            "slow header": lambda phase: self._trickle(phase, "slow header", b"", header),
            "slow upload": lambda phase: self._trickle(phase, "slow upload", upload + form, b"x" * 9_000),
            "slow submission": lambda phase: self._trickle(phase, "slow submission", submit, b"[" * 9_000),
            "slow reader": lambda phase: self._sip(phase, "slow reader"),
        }

    async def _trickle(self, phase: Phase, kind: str, at_once: bytes, rest: bytes) -> None:
        while True:
            reader, writer = await asyncio.open_connection(self._host, self._port)
            began, phase.begun[kind] = time.perf_counter(), phase.begun[kind] + 1
            try:
                writer.write(at_once)
                for place in range(len(rest)):
                    writer.write(rest[place : place + 1])
                    with suppress(TimeoutError):
                        first = await asyncio.wait_for(reader.read(400), 1.0)
                        _note(phase, kind, first, time.perf_counter() - began)
                        break
            except OSError:
                _note(phase, kind, b"", time.perf_counter() - began)
            finally:
                writer.close()
            # Sooner than it is told to, and still not an attack of another kind.
            await asyncio.sleep(2)

    async def _sip(self, phase: Phase, kind: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                connection.setblocking(False)
                await loop.sock_connect(connection, (self._host, self._port))
                began, phase.begun[kind] = time.perf_counter(), phase.begun[kind] + 1
                await loop.sock_sendall(connection, self.head("GET", f"/v1/files/{self._file_id}/content"))
                first = await loop.sock_recv(connection, 400)
                if b" 503 " in first[:20]:
                    _note(phase, kind, first, time.perf_counter() - began)
                else:
                    await self._take_slowly(connection, loop)
                    _note(phase, kind, b"", time.perf_counter() - began)
            await asyncio.sleep(2)

    async def _take_slowly(self, connection: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """A byte a second, until the server has closed: then the kernel says so, whatever is left to read."""
        with suppress(OSError):
            while not _is_closed(connection):
                await asyncio.sleep(1)
                if not await loop.sock_recv(connection, 1):
                    return


def _is_closed(connection: socket.socket) -> bool:
    """TCP_INFO's first byte is the state; 1 is ESTABLISHED."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1


def _note(phase: Phase, kind: str, answer: bytes, seconds: float) -> None:
    if b" 503 " in answer[:20]:
        phase.refused[kind] += 1
    else:
        phase.lives.setdefault(kind, []).append(seconds)


async def _answer(reader: asyncio.StreamReader) -> str:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return head[9:12].decode()


async def _poll(clients: Clients, pollers: int, every: float, seconds: float) -> Phase:
    phase = Phase()
    polls = [asyncio.create_task(clients.poll(phase, every, every * n / pollers)) for n in range(pollers)]
    await _end(polls, seconds)
    return phase


async def _be_slow(clients: Clients, slow: dict[str, int], seconds: float) -> Phase:
    phase, kinds = Phase(), clients.kinds()
    tasks = [asyncio.create_task(kinds[kind](phase)) for kind, count in slow.items() for _ in range(count)]
    await _end(tasks, seconds)
    return phase


async def _end(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    """Stop them all after a time, and raise what one died of, if it was not the server that ended it."""
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, (asyncio.CancelledError, OSError)):
            raise outcome


def _slowly(clients: Clients, slow: dict[str, int], seconds: float) -> Phase:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return asyncio.run(_be_slow(clients, slow, seconds))


def _phase(clients: Clients, pollers: int, every: float, slow: dict[str, int], seconds: float) -> Phase:
    """The slow ones in a process of their own, so that their bytes do not hold up the clock of the pollers."""
    if not slow:
        return asyncio.run(_poll(clients, pollers, every, seconds))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        slowly = pool.submit(_slowly, clients, slow, seconds + 5)
        # Let them take what they can before anybody is measured.
        time.sleep(4)
        found = asyncio.run(_poll(clients, pollers, every, seconds))
        return _merged([found, slowly.result()])


def _merged(phases: list[Phase]) -> Phase:
    whole = Phase()
    for phase in phases:
        whole.seconds += phase.seconds
        whole.errors += phase.errors
        whole.refused += phase.refused
        whole.begun += phase.begun
        for kind, lives in phase.lives.items():
            whole.lives.setdefault(kind, []).extend(lives)
    return whole


def _percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=1_000, method="inclusive")[round(share * 1_000) - 1] * 1_000


def report(alone: Phase, beside: Phase) -> str:
    rows = [
        [name, f"{len(phase.seconds):,}", str(phase.errors.total())]
        + [f"{_percentile(phase.seconds, share):.1f}" for share in (0.5, 0.95, 0.99)]
        for name, phase in (("pollers alone", alone), ("beside slow clients", beside))
    ]
    ratios = [_percentile(beside.seconds, share) / _percentile(alone.seconds, share) for share in (0.5, 0.95, 0.99)]
    rows.append(["ratio", "", "", *(f"{ratio:.2f}" for ratio in ratios)])
    polls = markdown(["", "polls", "errors", "p50 ms", "p95 ms", "p99 ms"], rows)
    cuts = [
        [kind, str(beside.begun[kind]), str(beside.refused[kind]), str(len(lives := beside.lives.get(kind, [])))]
        + ([f"{statistics.median(lives):.1f}", f"{max(lives):.1f}"] if lives else ["", ""])
        for kind in beside.begun
    ]
    errors = f"\nErrors: {dict(alone.errors + beside.errors)}\n" if alone.errors + beside.errors else ""
    header = ["slow clients", "begun", "refused (503)", "cut off", "after, median s", "worst s"]
    return f"{polls}\n{errors}\n{markdown(header, cuts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pollers", type=int, default=500)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two polls of one client")
    parser.add_argument("--seconds", type=float, default=45.0, help="length of a phase")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of phases, without and with slow clients")
    for kind, count in _SLOW.items():
        parser.add_argument(f"--{kind.replace(' ', '-')}", type=int, default=count)
    given = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    slow = {kind: getattr(given, kind.replace(" ", "_")) for kind in _SLOW}
    print(f"{machine.describe()}\n")
    with tempfile.TemporaryDirectory() as folder, running(["echo"], {}) as service:
        path = Path(folder) / "large.txt"
        path.write_bytes(os.urandom(FILE_BYTES // 2).hex().encode())
        file_id = service.upload(path)
        # Of a model that nobody serves: a poll of a job that waits looks at more than one of a job that has ended.
        job_id = service.submit(task="translation", inputs=["one", "two"])
        http = service.http
        clients = Clients(str(http.base_url), http.headers["authorization"], job_id, file_id)
        phases: list[list[Phase]] = [[], []]
        for _, kinds in itertools.product(range(given.rounds), ({}, slow)):
            done = _phase(clients, given.pollers, given.every, kinds, given.seconds)
            phases[bool(kinds)].append(done)
    print(report(*map(_merged, phases)))
    print(f"\n{machine.describe()}")


if __name__ == "__main__":
    main()
