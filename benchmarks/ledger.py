"""How fast the ledger takes a file in, through and out again, and whether memory grows with the file.

Method. For every size a private service is started from nothing: the embedded PostgreSQL with its default, durable
settings, Valkey, the API under gunicorn, one io worker, one worker of an `echo` model, which answers with its input
and costs almost nothing - so what is measured is everything around a model. A job of 1,000 lines goes first, so that
the model is loaded and its speed known. Then a JSONL file of distinct lines (a custom_id and about 60 characters of
text each) is uploaded, submitted, watched, downloaded and checked:

    upload      the file's bytes over the seconds of its POST, by the client's clock
    ingest      lines over the seconds from the job's creation to `in_progress`, its wait for the io worker included
    recording   lines over the seconds from `in_progress` to `finalizing`: claim, read, echo, write
    finalizing  lines over the seconds from `finalizing` to `completed`: settling and writing the output file
    status      seconds of each GET of the job while it runs, every 50 ms from one client
    download    GET of the job's results as JSONL, by the client's clock, into a file
    memory      VmHWM, which is the kernel's own record, summed over the processes of a role at the end of all this;
                "before" is the same after the job of 1,000 lines

Ingest, recording and finalizing are by the database's clock. Client and service share the machine. Each size is
measured several times, sizes in turn, and medians are shown. What came back is checked against what was sent, in
the results and in the output file, and the job by its audit; if anything is wrong there are no numbers.

    python -m benchmarks.ledger [--lines 10000,100000] [--repeat 3] [--json FILE]
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import machine, memory
from benchmarks.service import BenchmarkFailed, Service, running
from benchmarks.tables import markdown

MODEL = "echo"
REGISTRY = f"""
[models.{MODEL}]
task = "translation"
source = "."
engine = "echo"
default = true
"""
WARM_UP_LINES = 1_000
# Generous: below it nothing is judged slow, above it something stands still.
_SECONDS_PER_LINE, _SECONDS_AT_LEAST = 0.01, 120.0
_WORDS = (
    "the a this every no our their one train house river letter window market teacher garden bicycle morning winter "
    "question answer kitchen captain village doctor music was is has seems became stayed left arrived waited very "
    "rather never always almost late early quiet open broken empty green near behind under before without and but"
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One file through one fresh service."""

    lines: int
    bytes: int
    chunks: int
    upload_seconds: float
    ingest_seconds: float
    recording_seconds: float
    finalizing_seconds: float
    download_seconds: float
    download_bytes: int
    poll_p50: float
    poll_p99: float
    memory_before: dict[str, int]
    memory_peak: dict[str, int]


def texts(count: int) -> Iterator[str]:
    """Sentences of about 60 characters, no two alike, the same ones every time."""
    chance, vocabulary = random.Random(count), _WORDS.split()
    for number in range(count):
        words = chance.choices(vocabulary, k=chance.randint(4, 16))
        yield f"{' '.join(words).capitalize()} {number}."


def write_input(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts(count)):
            file.write(json.dumps({"custom_id": f"request-{number:07d}", "text": text}) + "\n")


def measure(count: int, folder: Path) -> Measurement:
    registry, source, results = folder / "registry.toml", folder / "input.jsonl", folder / "results.jsonl"
    registry.write_text(REGISTRY)
    with running([MODEL], {"BUSHEL_REGISTRY": str(registry)}) as service:
        write_input(source, WARM_UP_LINES)
        job_id, _ = _run(service, service.upload(source), WARM_UP_LINES)
        download(service, job_id, results)
        before = _peaks(service)

        write_input(source, count)
        upload_seconds, file_id = timed(lambda: service.upload(source))
        job_id, polls = _run(service, file_id, count)
        download_seconds, _ = timed(lambda: download(service, job_id, results))
        after = _peaks(service)

        service.check_audit(job_id)
        _check(results, count)
        output = folder / "output.jsonl"
        job = service.http.get(f"/v1/jobs/{job_id}").json()
        _stream(service, f"/v1/files/{job['output_file_id']}/content", output)
        _check(output, count)
        timeline = service.timeline(job_id)
        [(chunks,)] = service.query("SELECT count(*) FROM chunks WHERE job_id = %s", job_id)
    return Measurement(
        lines=count,
        bytes=source.stat().st_size,
        chunks=chunks,
        upload_seconds=upload_seconds,
        ingest_seconds=timeline.in_progress,
        recording_seconds=timeline.finalizing - timeline.in_progress,
        finalizing_seconds=timeline.completed - timeline.finalizing,
        download_seconds=download_seconds,
        download_bytes=results.stat().st_size,
        poll_p50=statistics.median(polls),
        poll_p99=statistics.quantiles(polls, n=100, method="inclusive")[98] if len(polls) > 1 else polls[0],
        memory_before=before,
        memory_peak=after,
    )


_T = TypeVar("_T")


def timed(action: Callable[[], _T]) -> tuple[float, _T]:
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


def _run(service: Service, file_id: str, count: int) -> tuple[str, list[float]]:
    job_id = service.submit(task="translation", model=MODEL, input_file_id=file_id, format="jsonl")
    watched = service.watch(job_id, max(_SECONDS_AT_LEAST, count * _SECONDS_PER_LINE))
    return job_id, watched.poll_seconds


def download(service: Service, job_id: str, target: Path) -> None:
    _stream(service, f"/v1/jobs/{job_id}/results", target)


def _stream(service: Service, path: str, target: Path) -> None:
    with service.http.stream("GET", path) as answer, target.open("wb") as out:
        if answer.is_error:
            raise BenchmarkFailed(f"GET {path}: {answer.status_code} {answer.read().decode()}")
        for piece in answer.iter_raw():
            out.write(piece)


def _check(path: Path, count: int) -> None:
    """Every line is there once, in the order of the input, and says what the echo of its input says."""
    with path.open("rb") as file:
        for number, sent in enumerate(texts(count)):
            line = json.loads(file.readline() or b"{}")
            found = line.get("index"), line.get("custom_id"), line.get("status"), (line.get("output") or {}).get("text")
            if found != (number, f"request-{number:07d}", "succeeded", sent):
                raise BenchmarkFailed(f"line {number + 1} of the results is {found}, not the echo of {sent!r}")
        if rest := file.readline():
            raise BenchmarkFailed(f"the results have more lines than the input: {rest[:200]!r}")


def _peaks(service: Service) -> dict[str, int]:
    return {role: memory.peak(pids) for role, pids in service.pids().items()}


def report(found: dict[int, list[Measurement]]) -> str:
    """Medians, one column a size; then the last size against the first."""
    sizes = sorted(found)
    first, last = sizes[0], sizes[-1]

    def row(name: str, value: Callable[[Measurement], float], form: str, compare: bool = False) -> list[str]:
        medians = {size: statistics.median(map(value, found[size])) for size in sizes}
        ratio = f"{medians[last] / medians[first]:.2f}" if compare else ""
        return [name, *(format(medians[size], form) for size in sizes), *([ratio] if len(sizes) > 1 else [])]

    def peak_of(role: str) -> Callable[[Measurement], float]:
        return lambda one: one.memory_peak[role] / 2**20

    def before_of(role: str) -> Callable[[Measurement], float]:
        return lambda one: one.memory_before[role] / 2**20

    rows = [
        row("input, MB", lambda one: one.bytes / 1e6, ",.1f"),
        row("chunks", lambda one: one.chunks, ",.0f"),
        row("upload, MB/s", lambda one: one.bytes / 1e6 / one.upload_seconds, ",.0f"),
        row("ingest, lines/s", lambda one: one.lines / one.ingest_seconds, ",.0f"),
        row("recording, lines/s", lambda one: one.lines / one.recording_seconds, ",.0f"),
        row("finalizing, lines/s", lambda one: one.lines / one.finalizing_seconds, ",.0f"),
        row("download, lines/s", lambda one: one.lines / one.download_seconds, ",.0f"),
        row("download, MB/s", lambda one: one.download_bytes / 1e6 / one.download_seconds, ",.1f"),
        row("status p50, ms", lambda one: one.poll_p50 * 1e3, ",.1f"),
        row("status p99, ms", lambda one: one.poll_p99 * 1e3, ",.1f"),
    ]
    for role in found[first][0].memory_peak:
        rows.append(row(f"{role}: before, MiB", before_of(role), ",.1f"))
        rows.append(row(f"{role}: peak, MiB", peak_of(role), ",.1f", compare=True))
    ratio = [f"{last:,} : {first:,}"] if len(sizes) > 1 else []
    return markdown(["", *(f"{size:,} lines" for size in sizes), *ratio], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Ingest, recording, download and memory, without a model.")
    parser.add_argument("--lines", default="10000,100000", help="sizes, comma-separated (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="times each size is measured (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.lines.split(",")]
    found: dict[int, list[Measurement]] = {size: [] for size in sizes}
    about = machine.describe()
    try:
        for turn in range(options.repeat):
            for size in sizes:
                print(f"round {turn + 1} of {options.repeat}: {size:,} lines", file=sys.stderr, flush=True)
                with tempfile.TemporaryDirectory(prefix="bushel-ledger-") as folder:
                    found[size].append(measure(size, Path(folder)))
    except BenchmarkFailed as exc:
        print(f"failed: {exc}", file=sys.stderr)
        return 1
    print(f"{about}. Medians of {options.repeat}.\n\n{report(found)}")
    if options.json:
        write_json(options.json, about, found)
    return 0


def write_json(path: Path, about: str, found: dict[int, list[Measurement]]) -> None:
    content: dict[str, Any] = {
        "machine": about,
        "measurements": [asdict(one) for size in sorted(found) for one in found[size]],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
