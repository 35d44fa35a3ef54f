"""How long small requests take, and work until somebody begins it: `python -m benchmarks.requests`.

A private service (`benchmarks.service`: one API process with 16 threads, one io worker, one worker of an `echo` model)
with a finished job of many items in its tables is asked, one phase after the other:

- waits: a job of one input, in an idle service: from its row's creation to its result's, by the database's clock, which
  is the claim and a little more. With the broker, then once more by workers that nobody rings for;
- polls: GET of a job, the large one and small ones in turn, so many a second;
- submissions: POST of a job of one input, so many a second.

Requests are sent when they are due, whatever became of those before, by threads with connections that are kept; their
time counts from when they were due, so that a service that falls behind cannot hide it. The clients run on the same
cores as the service.

    python -m benchmarks.requests [--seconds 60] [--polls 300] [--submissions 50] [--stored 1000000] [--waits 100]
"""

import argparse
import itertools
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks import machine
from benchmarks.ledger import MODEL, REGISTRY
from benchmarks.service import Service, running
from benchmarks.tables import markdown

THREADS = 32
_SMALL = 50
_ITEM = "jsonb_build_object('text', repeat('word ', 12))"


@dataclass
class Phase:
    """What requests of one kind met."""

    name: str
    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def cells(self) -> list[str]:
        ordered = sorted(self.seconds)
        shown = [f"{1000 * ordered[int(share * (len(ordered) - 1))]:.1f}" for share in (0.5, 0.95, 0.99, 1.0)]
        return [self.name, f"{len(ordered):,}", str(self.errors.total()), *shown]


def paced(name: str, per_second: int, seconds: float, ask: Callable[[int], httpx.Response]) -> Phase:
    """Ask so often for so long. Lists and counters of Python take what several threads put in."""
    phase, numbers = Phase(name), itertools.count()
    began = time.perf_counter() + 0.1

    def send() -> None:
        while (number := next(numbers)) < per_second * seconds:
            due = began + number / per_second
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                answer = ask(number)
            except httpx.TransportError as exc:
                phase.errors[type(exc).__name__] += 1
                continue
            if answer.is_error:
                phase.errors[str(answer.status_code)] += 1
            phase.seconds.append(time.perf_counter() - due)

    threads = [threading.Thread(target=send) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return phase


def waits(service: Service, name: str, count: int) -> Phase:
    """One job after the other, each in a service that has nothing else to do."""
    phase = Phase(name)
    for number in range(count):
        job_id = service.submit(**_job(f"{name} {number}"))
        service.watch(job_id, 60)
        [(seconds,)] = service.query(
            "SELECT extract(epoch FROM min(r.finished_at) - j.created_at)::float8"
            " FROM jobs j JOIN results r ON r.job_id = j.id WHERE j.id = %s GROUP BY j.created_at",
            job_id,
        )
        phase.seconds.append(seconds)
    return phase


def store(service: Service, items: int) -> str:
    """A finished job with so many items and results, by SQL; its id."""
    job_id = service.submit(**_job("the large one"))
    service.watch(job_id, 60)
    for statement in (
        "INSERT INTO items (job_id, idx, custom_id, line, input, input_tokens)"
        f" SELECT %s, n, 'line-' || n, n + 1, {_ITEM}, 15 FROM generate_series(1, {items - 1}) n",
        "INSERT INTO results (job_id, idx, seq, outcome, output)"
        f" SELECT %s, n, n + 1, 'succeeded', {_ITEM} FROM generate_series(1, {items - 1}) n",
        f"UPDATE jobs SET total = {items}, succeeded = {items} WHERE id = %s",
    ):
        service.query(f"WITH made AS ({statement} RETURNING 1) SELECT count(*) FROM made", job_id)
    return job_id


def _job(text: str) -> dict[str, object]:
    return {"task": "translation", "model": MODEL, "inputs": [text]}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--polls", type=int, default=300, metavar="PER_SECOND")
    parser.add_argument("--submissions", type=int, default=50, metavar="PER_SECOND")
    parser.add_argument("--stored", type=int, default=1_000_000, metavar="ITEMS")
    parser.add_argument("--waits", type=int, default=100)
    asked = parser.parse_args(words)
    print(f"{time.strftime('%Y-%m-%d')}, {machine.describe()}\n")
    with tempfile.TemporaryDirectory() as folder:
        phases = _measured(asked, Path(folder))
    header = ["", "number", "errors", "p50 ms", "p95 ms", "p99 ms", "worst ms"]
    print(markdown(header, [each.cells() for each in phases]))
    return int(any(each.errors for each in phases))


def _measured(asked: argparse.Namespace, folder: Path) -> list[Phase]:
    registry = folder / "registry.toml"
    registry.write_text(REGISTRY)
    environment = {"BUSHEL_REGISTRY": str(registry)}
    with running([MODEL], environment) as service:
        small = [service.submit(**_job(f"small {number}")) for number in range(_SMALL)]
        service.watch(small[-1], 60)
        phases = [waits(service, "to the first result", asked.waits)]
        large = store(service, asked.stored)

        def poll(number: int) -> httpx.Response:
            job_id = large if number % 2 else small[number // 2 % _SMALL]
            return service.http.get(f"/v1/jobs/{job_id}")

        def submit(number: int) -> httpx.Response:
            return service.http.post("/v1/jobs", json=_job(f"submitted {number}"))

        phases.append(paced(f"polls, {asked.polls} a second", asked.polls, asked.seconds, poll))
        name = f"submissions, {asked.submissions} a second"
        phases.append(paced(name, asked.submissions, asked.seconds, submit))
    nobody = {"BUSHEL_BROKER_URL": f"redis+socket://{folder}/nobody.sock"}
    with running([MODEL], environment | nobody) as service:
        phases.insert(1, waits(service, "to the first result, without a broker", max(5, asked.waits // 5)))
    return phases


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
