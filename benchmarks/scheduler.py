"""Who gets the device, and when: small jobs behind a huge one, tenants beside each other, priorities, model swaps.

Method. A private service with one io worker and one worker of an `echo` model that takes a stated time for every item,
so that how long the work itself takes is known and nothing but scheduling is measured. Times are the database's: from
the creation of a job's row to the first and the last of its results.

behind       a job of a million items runs; ten jobs of 100 items each are submitted one after the other, as files, and
             nothing else. For each: seconds to its first and last result, and what its own work takes
priority     while the large job still runs, one more job of 100 items at priority 10, which is to say how soon what is
             urgent gets the device
tenants      one tenant has five jobs, another has one, all of the same size: what the one with five got of all results
             while both had work, and of those of every five seconds, which is several chunks
swaps        two models, room for only one of them in the worker (`BUSHEL_MAX_LOADED_MODELS=1`), each takes a second to
             load; jobs of the two are submitted alternately. How often a model was loaded, and how long all took; and
             the same with room for both, which is the least that can be. First come, first served would load one for
             every job

Every job must complete with all its items, and its audit must be right. The large job is watched to its end, and its
audit counts too.

Not fair: an `echo` has no cost of loading its weights but the second it is told to take, and its speed never varies.

    python -m benchmarks.scheduler [--items 1000000] [--seconds-per-item 0.0002]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine, results
from benchmarks.plot import Bar, draw
from benchmarks.publishing import add_options, publish, say
from benchmarks.service import BenchmarkFailed, Service, running
from benchmarks.tables import markdown

SMALL_JOBS, SMALL_ITEMS = 10, 100
PRIORITY = 10
MODELS = ("one", "other")
_LOAD_SECONDS = 1.0
_WINDOW_SECONDS = 5
_LIMIT_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Times:
    """Of a job, in seconds since its creation: its first result, its last one, its end."""

    items: int
    first: float
    last: float
    completed: float


@dataclass(frozen=True, slots=True)
class Swaps:
    """With room for so many models: loads of models in all, and seconds until all jobs were done."""

    room: int
    jobs: int
    loads: int
    seconds: float


@dataclass(slots=True)
class Found:
    small: list[Times] = field(default_factory=list)
    urgent: list[Times] = field(default_factory=list)
    large: list[Times] = field(default_factory=list)
    # What the tenant with five jobs got while both had work: of all, and of every few seconds.
    share: float = 0.0
    shares: list[float] = field(default_factory=list)
    swaps: list[Swaps] = field(default_factory=list)


@contextmanager
def serving(folder: Path, models: Mapping[str, Mapping[str, float]], room: int = 2) -> Iterator[Service]:
    """A service with one worker of these `echo` models, each with its options."""
    entries = []
    for name, options in models.items():
        said = ", ".join(f"{key} = {value}" for key, value in options.items())
        entries.append(
            f'[models.{name}]\ntask = "translation"\nsource = "."\nengine = "echo"\noptions = {{ {said} }}\n'
        )
    registry = folder / "registry.toml"
    registry.write_text("\n".join(entries))
    with running([*models], {"BUSHEL_REGISTRY": str(registry), "BUSHEL_MAX_LOADED_MODELS": str(room)}) as service:
        yield service


def submit(service: Service, folder: Path, items: int, model: str, **more: Any) -> str:
    """A job of so many lines, no two alike: what is the same would be computed once."""
    path = folder / f"{items}.txt"
    if not path.is_file():
        with path.open("w") as file:
            file.writelines(f"this is line {number} of many\n" for number in range(items))
    return service.submit(task="translation", model=model, input_file_id=service.upload(path), **more)


def settled(service: Service, job_id: str) -> Times:
    """Wait for the job, audit it, and say when what came."""
    service.watch(job_id, _LIMIT_SECONDS)
    service.check_audit(job_id)
    [(items, first, last, completed)] = service.query(
        "SELECT j.total, extract(epoch FROM min(r.finished_at) - j.created_at)::float8,"
        " extract(epoch FROM max(r.finished_at) - j.created_at)::float8,"
        " extract(epoch FROM j.completed_at - j.created_at)::float8"
        " FROM jobs j JOIN results r ON r.job_id = j.id WHERE j.id = %s GROUP BY j.id",
        job_id,
    )
    return Times(items, first, last, completed)


def behind(folder: Path, items: int, seconds_per_item: float, found: Found) -> None:
    """Ten small jobs, and one with a priority, behind a large one."""
    with serving(folder, {MODELS[0]: {"seconds_per_item": seconds_per_item}}) as service:
        settled(service, submit(service, folder, SMALL_ITEMS, MODELS[0]))
        large = submit(service, folder, items, MODELS[0])
        _until_it_runs(service, large, items)
        small = [submit(service, folder, SMALL_ITEMS, MODELS[0]) for _ in range(SMALL_JOBS)]
        found.small += [settled(service, job_id) for job_id in small]
        urgent = submit(service, folder, SMALL_ITEMS, MODELS[0], priority=PRIORITY)
        found.urgent.append(settled(service, urgent))
        if service.job(large)["status"] != "in_progress":
            raise BenchmarkFailed("the large job was over before the small ones were; give it more --items")
        say("the small jobs are done; waiting for the large one")
        found.large.append(settled(service, large))


def _until_it_runs(service: Service, job_id: str, items: int) -> None:
    until = time.monotonic() + _LIMIT_SECONDS
    while (job := service.job(job_id))["counts"]["succeeded"] == 0:
        if time.monotonic() > until or job["status"] not in ("validating", "in_progress"):
            raise BenchmarkFailed(f"the job of {items:,} items is {job['status']}, and none of them is done")
        # No event tells of a first result, and the stream of the counts comes at most once a second.
        time.sleep(0.1)


def tenants(folder: Path, items: int, seconds_per_item: float, found: Found) -> None:
    """One with five jobs beside one with one job, of the same size each."""
    with (
        serving(folder, {MODELS[0]: {"seconds_per_item": seconds_per_item}}) as many,
        many.seen_by("another") as single,
    ):
        settled(many, submit(many, folder, SMALL_ITEMS, MODELS[0]))
        jobs = [submit(many, folder, items, MODELS[0]) for _ in range(5)]
        other = submit(single, folder, items, MODELS[0])
        for service, job_id in [*((many, job_id) for job_id in jobs), (single, other)]:
            settled(service, job_id)
        rows = many.query(
            "WITH theirs AS (SELECT finished_at AS at, job_id = %s AS single FROM results WHERE job_id = ANY(%s)),"
            " together AS (SELECT * FROM theirs WHERE at BETWEEN (SELECT min(at) FROM theirs WHERE single)"
            " AND (SELECT max(at) FROM theirs WHERE single))"
            " SELECT count(*) FILTER (WHERE NOT single), count(*) FROM together"
            " GROUP BY floor(extract(epoch FROM at - (SELECT min(at) FROM together)) / %s) ORDER BY min(at)",
            other,
            [*jobs, other],
            _WINDOW_SECONDS,
        )
    found.share = sum(five for five, _ in rows) / sum(every for _, every in rows)
    found.shares = [five / every for five, every in rows]


def swaps(folder: Path, jobs: int, items: int, seconds_per_item: float, room: int) -> Swaps:
    """Jobs of two models in turn, on one worker with room for so many."""
    options = {"seconds_per_item": seconds_per_item, "load_seconds": _LOAD_SECONDS}
    with serving(folder, {name: options for name in MODELS}, room) as service:
        began = time.perf_counter()
        submitted = [submit(service, folder, items, MODELS[number % 2]) for number in range(jobs)]
        for job_id in submitted:
            settled(service, job_id)
        seconds = time.perf_counter() - began
        loads = sum(
            value
            for (name, labels), value in service.metrics("model worker").items()
            if name == "bushel_model_loads_total" and ("outcome", "loaded") in labels
        )
    if loads < len(MODELS):
        raise BenchmarkFailed(f"the worker says it loaded {loads:.0f} models, and both were needed")
    return Swaps(room, jobs, round(loads), seconds)


def run(options: argparse.Namespace) -> Found:
    found, pace = Found(), options.seconds_per_item
    with tempfile.TemporaryDirectory(prefix="bushel-scheduler-") as name:
        folder = Path(name)
        say(f"ten small jobs behind one of {options.items:,} items")
        behind(folder, options.items, pace, found)
        say("two tenants")
        tenants(folder, options.tenant_items, pace, found)
        for room in (1, 2):
            say(f"two models, room for {room}")
            found.swaps.append(swaps(folder, options.swap_jobs, options.swap_items, pace, room))
    return found


def table(found: Found, pace: float) -> str:
    """Times of the jobs, then shares, then swaps."""
    jobs = [
        (f"{len(found.small)} jobs of {SMALL_ITEMS} items behind it, median", _middle(found.small)),
        ("the slowest of them", max(found.small, key=lambda each: each.last)),
        (f"one more, at priority {PRIORITY}", found.urgent[0]),
        ("the large job", found.large[0]),
    ]
    rows = [
        [name, f"{one.items:,}", f"{one.items * pace:,.2f}", *(f"{each:,.2f}" for each in (one.first, one.last))]
        for name, one in jobs
    ]
    swapped = [
        [f"room for {one.room}", str(one.jobs), str(one.loads), str(one.jobs), f"{one.seconds:.1f}"]
        for one in found.swaps
    ]
    windows = f"between {min(found.shares):.0%} and {max(found.shares):.0%} of those of {_WINDOW_SECONDS} seconds"
    return "\n\n".join(
        (
            markdown(["", "items", "own work, s", "first result, s", "last result, s"], rows),
            f"Two tenants, one with five jobs and one with one: the one with five got {found.share:.0%} of the results "
            f"while both had work, and {windows}.",
            markdown(["two models, one worker", "jobs", "loads", "first come, first served", "seconds"], swapped),
        )
    )


def _middle(times: Sequence[Times]) -> Times:
    first, last, completed = (
        statistics.median(getattr(one, name) for one in times) for name in ("first", "last", "completed")
    )
    return Times(times[0].items, first, last, completed)


def figures(found: Found) -> dict[str, float]:
    return {
        "small jobs: last result, median s": _middle(found.small).last,
        "small jobs: last result, slowest s": max(one.last for one in found.small),
        "priority: last result, s": found.urgent[0].last,
        "large job: last result, s": found.large[0].last,
        "tenants: share of the one with five jobs": found.share,
        **{f"swaps: loads with room for {one.room}": one.loads for one in found.swaps},
        **{f"swaps: seconds with room for {one.room}": one.seconds for one in found.swaps},
    }


def picture(found: Found, path: Path) -> None:
    bars = [
        Bar(f"small job {number}", one.last, one.first, one.last, is_ours=True)
        for number, one in enumerate(found.small, 1)
    ]
    bars.append(Bar(f"at priority {PRIORITY}", found.urgent[0].last, found.urgent[0].first, found.urgent[0].last, True))
    title = f"behind a job of {found.large[0].items:,} items: seconds until the first and the last result"
    draw({title: bars}, "seconds since the job was created; the thin line begins at its first result", path)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--items", type=int, default=1_000_000, help="of the large job (default: %(default)s)")
    made.add_argument("--seconds-per-item", type=float, default=0.0002, help="of the echo (default: %(default)s)")
    made.add_argument("--tenant-items", type=int, default=50_000, help="of each tenant's jobs (default: %(default)s)")
    made.add_argument("--swap-jobs", type=int, default=12, help="jobs of two models in turn (default: %(default)s)")
    made.add_argument("--swap-items", type=int, default=5_000, help="items of each (default: %(default)s)")
    add_options(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    before = machine.facts()
    try:
        found = run(options)
    except BenchmarkFailed as exc:
        say(f"failed: {exc}")
        return 1
    settings = {name: value for name, value in vars(options).items() if name != "print_only"}
    result = results.found("scheduler", __doc__, before, settings, figures(found), asdict(found))
    what = "Seconds until the results of small jobs behind a large one"
    publish(result, table(found, options.seconds_per_item), partial(picture, found), options.print_only, what)
    return 0


if __name__ == "__main__":
    sys.exit(main())
