"""What event streams cost the others: `python -m benchmarks.streams`.

A private service (`benchmarks.service`: one API process with 16 threads, default settings) runs one large job after the
other on the echo engine, in turn by itself and with 200 open event streams, half of them of the job and half of all
jobs of the tenant. Each job is paused until its input is read and the streams are open. Meanwhile four clients poll its
status over kept connections, each five times a second. Latency is that of the polls, from the first byte sent to the
last one read. Memory is the resident set of the API's processes: before the job, and the largest seen while it runs.
The clients run on the same cores as the service, the streams' in a process of their own.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import resource
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks import machine
from benchmarks.ledger import MODEL, REGISTRY
from benchmarks.service import POLL_SECONDS, BenchmarkFailed, Service, checked, running
from benchmarks.tables import markdown

POLLERS, EVERY_SECONDS = 4, 0.2
MIB = 2**20


@dataclass
class Phase:
    """One run of the job: what the pollers met, and what the API took."""

    job_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    memory_before: int = 0
    memory: int = 0
    streams: dict[str, float] = field(default_factory=dict)


class Pollers:
    """Threads that ask for a job's status, and one that looks at the API's memory, until they are stopped."""

    def __init__(self, service: Service, job_id: str, phase: Phase) -> None:
        self._service, self._job_id, self._phase = service, job_id, phase
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._poll, args=(number,)) for number in range(POLLERS)]
        self._threads.append(threading.Thread(target=self._weigh))

    def __enter__(self) -> "Pollers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _poll(self, number: int) -> None:
        http = self._service.http
        with httpx.Client(base_url=http.base_url, headers=dict(http.headers), timeout=60, trust_env=False) as mine:
            self._enough.wait(EVERY_SECONDS * number / POLLERS)
            while not self._enough.is_set():
                begun = time.perf_counter()
                answer = mine.get(f"/v1/jobs/{self._job_id}")
                took = time.perf_counter() - begun
                self._phase.seconds.append(took)
                if answer.status_code != 200:
                    self._phase.errors[str(answer.status_code)] += 1
                self._enough.wait(max(0.0, EVERY_SECONDS - took))

    def _weigh(self) -> None:
        while not self._enough.wait(0.25):
            self._phase.memory = max(self._phase.memory, api_memory(self._service))


def api_memory(service: Service) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in service.pids()["API"])


def _follow(url: str, key: str, paths: list[str], is_open: Event, enough: Event, told: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    """In a process of its own: hold a stream of every path until it is enough, then say what came."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    told.put(asyncio.run(_follow_all(urlsplit(url), key, paths, is_open, enough)))


async def _follow_all(where: object, key: str, paths: list[str], is_open: Event, enough: Event) -> dict[str, float]:
    got = [0] * len(paths)
    states = [0] * len(paths)
    is_begun = [asyncio.Event() for _ in paths]

    async def follow(number: int) -> None:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)  # type: ignore[attr-defined]
        head = (f"GET {paths[number]} HTTP/1.1", "Host: here", f"Authorization: {key}", "Accept: text/event-stream")
        writer.write(("\r\n".join(head) + "\r\n\r\n").encode())
        try:
            if not (await reader.readline()).startswith(b"HTTP/1.1 200"):
                raise BenchmarkFailed("a stream was refused")
            while line := await reader.readline():
                got[number] += len(line)
                if line == b"event: job\n":
                    states[number] += 1
                    is_begun[number].set()
        finally:
            writer.close()

    tasks = [asyncio.create_task(follow(number)) for number in range(len(paths))]
    await asyncio.wait_for(asyncio.gather(*(each.wait() for each in is_begun)), 120)
    is_open.set()
    await asyncio.to_thread(enough.wait)
    # What ended the job may still be on its way.
    await asyncio.wait(tasks, timeout=3)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    bad = [each for each in outcomes if isinstance(each, Exception) and not isinstance(each, OSError)]
    if bad:
        raise bad[0]
    return {"states, fewest": min(states), "states, most": max(states), "MiB in all": sum(got) / MIB}


@contextmanager
def followed(service: Service, job_id: str, count: int, phase: Phase) -> Iterator[None]:
    """With so many streams open: every other one of the job, the others of all jobs."""
    if not count:
        yield
        return
    paths = ["/v1/events" if number % 2 else f"/v1/jobs/{job_id}/events" for number in range(count)]
    spawn = multiprocessing.get_context("spawn")
    is_open, enough, told = spawn.Event(), spawn.Event(), spawn.Queue()
    http = service.http
    where = (str(http.base_url), http.headers["authorization"], paths, is_open, enough, told)
    process = spawn.Process(target=_follow, args=where)
    process.start()
    try:
        if not is_open.wait(180):
            raise BenchmarkFailed("the streams did not open")
        yield
        enough.set()
        phase.streams = told.get(timeout=60)
    finally:
        enough.set()
        process.join(60)


def measure(service: Service, path: Path, streams: int, limit_seconds: float) -> Phase:
    phase = Phase()
    file_id = service.upload(path)
    # Of the memory, only what comes on top of having served at all is of interest.
    phase.memory = phase.memory_before = api_memory(service)
    job_id = service.submit(task="translation", model=MODEL, input_file_id=file_id)
    checked(service.http.post(f"/v1/jobs/{job_id}/pause"))
    until = time.monotonic() + limit_seconds
    while checked(service.http.get(f"/v1/jobs/{job_id}"))["status"] == "validating":
        if time.monotonic() > until:
            raise BenchmarkFailed(f"the input of {job_id} was not read in {limit_seconds:.0f} s")
        time.sleep(POLL_SECONDS)
    with followed(service, job_id, streams, phase), Pollers(service, job_id, phase):
        checked(service.http.post(f"/v1/jobs/{job_id}/resume"))
        phase.job_seconds.append(service.watch(job_id, limit_seconds).seconds)
    service.check_audit(job_id)
    if len(phase.seconds) < 20:
        raise BenchmarkFailed("the job ended before there was anything to measure; take more --lines")
    return phase


def _merged(phases: list[Phase]) -> Phase:
    """Everything that was measured with as many streams; memory as it was at first, and at most."""
    whole = Phase(memory_before=phases[0].memory_before, memory=max(phase.memory for phase in phases))
    for phase in phases:
        whole.job_seconds += phase.job_seconds
        whole.seconds += phase.seconds
        whole.errors += phase.errors
        whole.streams = phase.streams
    return whole


def _percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=1_000, method="inclusive")[round(share * 1_000) - 1] * 1_000


def report(alone: Phase, beside: Phase, streams: int) -> str:
    rows, shares = [], (0.5, 0.95, 0.99)
    took_alone, took_beside = (statistics.median(phase.job_seconds) for phase in (alone, beside))
    for name, phase in (("no stream", alone), (f"{streams} streams", beside)):
        took = [f"{_percentile(phase.seconds, share):.1f}" for share in shares]
        memory = [f"{phase.memory_before / MIB:.0f}", f"{phase.memory / MIB:.0f}"]
        counts = [str(len(phase.seconds)), str(sum(phase.errors.values()))]
        rows.append([name, f"{statistics.median(phase.job_seconds):.1f}", *counts, *took, *memory])
    ratios = [f"{_percentile(beside.seconds, share) / _percentile(alone.seconds, share):.2f}" for share in shares]
    rows.append(
        ["ratio", f"{took_beside / took_alone:.2f}", "", "", *ratios, "", f"{beside.memory / alone.memory:.2f}"]
    )
    header = ["", "job s", "polls", "errors", "p50 ms", "p95 ms", "p99 ms", "API MiB before", "API MiB at most"]
    said = ", ".join(f"{name} {value:,.0f}" for name, value in beside.streams.items())
    return f"{markdown(header, rows)}\n\nWhat the streams were told: {said}"


def _serving(folder: Path) -> AbstractContextManager[Service]:
    registry = folder / "registry.toml"
    registry.write_text(REGISTRY)
    return running([MODEL], {"BUSHEL_REGISTRY": str(registry)})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2, help="pairs of jobs, without and with streams")
    parser.add_argument("--limit-seconds", type=float, default=3_600)
    given = parser.parse_args()
    print(f"{machine.describe()}; {given.lines:,} items\n")
    with tempfile.TemporaryDirectory() as folder, _serving(Path(folder)) as service:
        path = Path(folder) / "lines.txt"
        with path.open("w") as file:
            file.writelines(f"this is line {number} of many\n" for number in range(given.lines))
        # The first of all is slower: connections, caches, modules.
        small = Path(folder) / "few.txt"
        small.write_text("one\ntwo\n")
        service.watch(service.submit(task="translation", model=MODEL, input_file_id=service.upload(small)), 300)
        phases: dict[int, list[Phase]] = {0: [], given.streams: []}
        for _, count in itertools.product(range(given.rounds), phases):
            phases[count].append(measure(service, path, count, given.limit_seconds))
    alone, beside = map(_merged, phases.values())
    print(report(alone, beside, given.streams))
    print(f"\n{machine.describe()}")


if __name__ == "__main__":
    main()
