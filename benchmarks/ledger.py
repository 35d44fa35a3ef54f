"""How fast the ledger takes items in, through and out again, and what an item costs when there are many of them.

Method. For every size and way of sending a private service is started from nothing: the embedded PostgreSQL with its
default, durable settings, Valkey, the API under gunicorn, one io worker, one worker of an `echo` model, which answers
with its input and costs almost nothing - so what is measured is everything around a model. A job of 1,000 items goes
first, so that the model is loaded and its speed known. Then distinct items (a custom_id and about 60 characters of text
each) are sent, watched, downloaded and checked:

    sent as     jsonl, csv: a file is uploaded and submitted as one job; inline: jobs of as many inputs as a request may
                carry (10,000), one POST after the other, all of which are then watched in turn
    upload      the file's bytes over the seconds of its POST, by the client's clock; inline has none
    ingest      items over the seconds from the job's creation to `in_progress`, its wait for the io worker included;
                inline: from before the first POST until the last job is `in_progress`
    recording   items over the seconds from `in_progress` to `finalizing`: claim, read, echo, write. Inline jobs run
                while later ones are still being sent: their items over the seconds from the first `in_progress` to the
                last `finalizing`
    finalizing  items over the seconds from `finalizing` to `completed`: settling and writing the output file
    status      seconds of each GET of the job, every 50 ms from one client: those that found it `validating`
                (ingesting), and those that found it `in_progress` (recording)
    download    GET of the job's results as JSONL, by the client's clock, into a file
    memory      VmHWM, which is the kernel's own record, summed over the processes of a role at the end of all this;
                "before" is the same after the job of 1,000 items
    cost        microseconds an item: the sum of ingest, recording, finalizing and download over the items

Ingest, recording and finalizing are by the database's clock. Client and service share the machine. Each size is
measured several times, sizes in turn, and medians are shown; `--large` is measured once and as JSONL alone. What came
back is checked against what was sent, in the results and in the output file, and the job by its audit; if anything is
wrong there are no numbers.

Not fair: an `echo` is as quick as no model is, so that claim, read and write come far more often than they ever will;
and nobody else uses the machine's disk here.

    python -m benchmarks.ledger [--lines 10000,100000] [--large 1000000] [--formats jsonl,csv,inline] [--repeat 3]
"""

import argparse
import csv
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from benchmarks import machine, memory, results
from benchmarks.plot import Bar, draw
from benchmarks.publishing import add_options, publish, say
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
FORMATS = ("jsonl", "csv", "inline")
# As many as a request may carry by default.
INLINE = 10_000
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
    """Items of one number, sent in one way through one fresh service. No upload is of no seconds."""

    form: str
    lines: int
    bytes: int
    jobs: int
    chunks: int
    upload_seconds: float
    ingest_seconds: float
    recording_seconds: float
    finalizing_seconds: float
    download_seconds: float
    download_bytes: int
    polls_ingesting: list[float]
    polls_recording: list[float]
    memory_before: dict[str, int]
    memory_peak: dict[str, int]

    @property
    def cost(self) -> float:
        """Microseconds an item, over all stages."""
        stages = self.ingest_seconds, self.recording_seconds, self.finalizing_seconds, self.download_seconds
        return sum(stages) / self.lines * 1e6


@dataclass(frozen=True, slots=True)
class Run:
    """Jobs that have completed: their ids, when the first POST of them began (Unix seconds), and looks at them."""

    jobs: list[str]
    began: float
    upload_seconds: float
    polls_ingesting: list[float]
    polls_recording: list[float]


def texts(count: int) -> Iterator[str]:
    """Sentences of about 60 characters, no two alike, the same ones every time."""
    chance, vocabulary = random.Random(count), _WORDS.split()
    for number in range(count):
        words = chance.choices(vocabulary, k=chance.randint(4, 16))
        yield f"{' '.join(words).capitalize()} {number}."


def write_input(path: Path, count: int) -> None:
    """As JSONL or, by the path's name, as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            rows = csv.writer(file)
            rows.writerow(["id", "text"])
            rows.writerows((_id(number), text) for number, text in enumerate(texts(count)))
            return
        for number, text in enumerate(texts(count)):
            file.write(json.dumps({"custom_id": _id(number), "text": text}) + "\n")


def _id(number: int) -> str:
    return f"request-{number:07d}"


def measure(form: str, count: int, folder: Path) -> Measurement:
    registry, source, found = folder / "registry.toml", folder / f"input.{_type(form)}", folder / "results.jsonl"
    registry.write_text(REGISTRY)
    with running([MODEL], {"BUSHEL_REGISTRY": str(registry)}) as service:
        write_input(source, WARM_UP_LINES)
        warm = _run(service, form, source, WARM_UP_LINES)
        download(service, warm.jobs, found)
        before = _peaks(service)

        write_input(source, count)
        run = _run(service, form, source, count)
        download_seconds, _ = timed(partial(download, service, run.jobs, found))
        after = _peaks(service)

        check(found, count, per_job=INLINE if form == "inline" else count)
        for job_id in run.jobs:
            service.check_audit(job_id)
        if form == "jsonl":
            _check_output(service, run.jobs[0], count, folder / "output.jsonl")
        [(ingest, recording, finalizing, chunks)] = service.query(
            "SELECT extract(epoch FROM max(in_progress_at))::float8 - %s,"
            " extract(epoch FROM max(finalizing_at) - min(in_progress_at))::float8,"
            " extract(epoch FROM max(completed_at) - max(finalizing_at))::float8,"
            " (SELECT count(*) FROM chunks WHERE job_id = ANY(%s)) FROM jobs WHERE id = ANY(%s)",
            _epoch(service, run, form),
            run.jobs,
            run.jobs,
        )
    return Measurement(
        form=form,
        lines=count,
        bytes=source.stat().st_size,
        jobs=len(run.jobs),
        chunks=chunks,
        upload_seconds=run.upload_seconds,
        ingest_seconds=ingest,
        recording_seconds=recording,
        finalizing_seconds=finalizing,
        download_seconds=download_seconds,
        download_bytes=found.stat().st_size,
        polls_ingesting=run.polls_ingesting,
        polls_recording=run.polls_recording,
        memory_before=before,
        memory_peak=after,
    )


def _type(form: str) -> str:
    return "jsonl" if form == "inline" else form


def _epoch(service: Service, run: Run, form: str) -> float:
    """When ingest began: a file's with its job's row, that of inline inputs with the first request."""
    if form == "inline":
        return run.began
    [(created,)] = service.query("SELECT extract(epoch FROM created_at)::float8 FROM jobs WHERE id = %s", run.jobs[0])
    return float(created)


_T = TypeVar("_T")


def timed(action: Callable[[], _T]) -> tuple[float, _T]:
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


def _run(service: Service, form: str, source: Path, count: int) -> Run:
    limit = max(_SECONDS_AT_LEAST, count * _SECONDS_PER_LINE)
    upload_seconds = 0.0
    if form == "inline":
        bodies = list(_bodies(source))
        began = time.time()
        jobs = [service.submit(task="translation", model=MODEL, inputs=inputs) for inputs in bodies]
    else:
        upload_seconds, file_id = timed(partial(service.upload, source))
        began = time.time()
        layout = {"type": "csv", "id_column": "id"} if form == "csv" else "jsonl"
        jobs = [service.submit(task="translation", model=MODEL, input_file_id=file_id, format=layout)]
    looks = [service.watch(job_id, limit) for job_id in jobs]
    ingesting, recording = (
        [seconds for watched in looks for seconds in watched.poll_seconds(status)]
        for status in ("validating", "in_progress")
    )
    return Run(jobs, began, upload_seconds, ingesting, recording)


def _bodies(source: Path) -> Iterator[list[dict[str, str]]]:
    with source.open("rb") as file:
        while lines := list(islice(file, INLINE)):
            yield [json.loads(line) for line in lines]


def download(service: Service, jobs: Sequence[str], target: Path) -> None:
    """The results of all of them, one behind the other."""
    part = target.with_suffix(".part")
    target.write_bytes(b"")
    for job_id in jobs:
        service.download(f"/v1/jobs/{job_id}/results", part if len(jobs) > 1 else target)
        if len(jobs) > 1:
            with target.open("ab") as whole:
                whole.write(part.read_bytes())


def check(path: Path, count: int, per_job: int) -> None:
    """Every line is there once, in the order of the input, and says what the echo of its input says."""
    with path.open("rb") as file:
        for number, sent in enumerate(texts(count)):
            line = json.loads(file.readline() or b"{}")
            found = line.get("index"), line.get("custom_id"), line.get("status"), (line.get("output") or {}).get("text")
            if found != (number % per_job, _id(number), "succeeded", sent):
                raise BenchmarkFailed(f"line {number + 1} of the results is {found}, not the echo of {sent!r}")
        if rest := file.readline():
            raise BenchmarkFailed(f"the results have more lines than the input: {rest[:200]!r}")


def _check_output(service: Service, job_id: str, count: int, target: Path) -> None:
    service.download(f"/v1/files/{service.job(job_id)['output_file_id']}/content", target)
    check(target, count, per_job=count)


def _peaks(service: Service) -> dict[str, int]:
    return {role: memory.peak(pids) for role, pids in service.pids().items()}


Found = dict[tuple[str, int], list[Measurement]]
Value = Callable[[Measurement], float | None]


def _percentile(seconds: Sequence[float], share: int) -> float | None:
    """In milliseconds; None where there were too few looks to say."""
    if len(seconds) < 2:
        return None
    return statistics.quantiles(seconds, n=100, method="inclusive")[share - 1] * 1e3


def _rate(amount: Callable[[Measurement], float], seconds: Callable[[Measurement], float]) -> Value:
    return lambda one: amount(one) / seconds(one) if seconds(one) > 0 else None


def values() -> dict[str, tuple[Value, str]]:
    """What is shown of a measurement, by its name: where it is from and how it is written."""
    shown: dict[str, tuple[Value, str]] = {
        "upload, MB/s": (_rate(lambda one: one.bytes / 1e6, lambda one: one.upload_seconds), ",.0f"),
        "ingest, items/s": (_rate(lambda one: one.lines, lambda one: one.ingest_seconds), ",.0f"),
        "recording, items/s": (_rate(lambda one: one.lines, lambda one: one.recording_seconds), ",.0f"),
        "finalizing, items/s": (_rate(lambda one: one.lines, lambda one: one.finalizing_seconds), ",.0f"),
        "download, items/s": (_rate(lambda one: one.lines, lambda one: one.download_seconds), ",.0f"),
        "download, MB/s": (_rate(lambda one: one.download_bytes / 1e6, lambda one: one.download_seconds), ",.1f"),
        "cost, µs an item": (lambda one: one.cost, ",.1f"),
    }
    for share in (50, 99):
        shown[f"status while ingesting, p{share} ms"] = (partial(_poll, "polls_ingesting", share), ",.1f")
        shown[f"status while recording, p{share} ms"] = (partial(_poll, "polls_recording", share), ",.1f")
    for role in ("API", "io worker", "model worker"):
        shown[f"{role}: before, MiB"] = (lambda one, role=role: one.memory_before[role] / 2**20, ",.1f")  # type: ignore[misc]
        shown[f"{role}: peak, MiB"] = (lambda one, role=role: one.memory_peak[role] / 2**20, ",.1f")  # type: ignore[misc]
    return shown


def _poll(name: str, share: int, one: Measurement) -> float | None:
    return _percentile(getattr(one, name), share)


def median(value: Value, measured: Sequence[Measurement]) -> float | None:
    """Of the rounds that have it."""
    there = [each for each in map(value, measured) if each is not None]
    return statistics.median(there) if there else None


def table(found: Found) -> str:
    """Medians, one table a way of sending, one column a size; then the last size against the first."""
    parts = []
    for form in dict.fromkeys(form for form, _ in found):
        sizes = sorted(size for each, size in found if each == form)
        rows = [
            _row(name, value, how, [found[form, size] for size in sizes]) for name, (value, how) in values().items()
        ]
        ratio = [f"{_short(sizes[-1])} : {_short(sizes[0])}"] if len(sizes) > 1 else []
        header = ["", *(f"{size:,}" for size in sizes), *ratio]
        parts.append(f"**{form}**\n\n{markdown(header, [row for row in rows if any(row[1:])])}")
    return "\n\n".join(parts)


def _row(name: str, value: Value, how: str, columns: Sequence[Sequence[Measurement]]) -> list[str]:
    medians = [median(value, measured) for measured in columns]
    cells = ["" if each is None else format(each, how) for each in medians]
    first, last = medians[0], medians[-1]
    ratio = f"{last / first:.2f}" if first and last else ""
    return [name, *cells, *([ratio] if len(columns) > 1 else [])]


def _short(size: int) -> str:
    """
    >>> _short(10_000), _short(1_000_000), _short(1_500)
    ('10k', '1M', '1,500')
    """
    for unit, word in ((1_000_000, "M"), (1_000, "k")):
        if size % unit == 0:
            return f"{size // unit}{word}"
    return f"{size:,}"


def figures(found: Found) -> dict[str, float]:
    """All medians by way, size and name, and what an item costs among many beside what it costs among few."""
    named: dict[str, float] = {}
    for (form, size), measured in found.items():
        for name, (value, _) in values().items():
            middle = median(value, measured)
            if middle is not None:
                named[f"{form}, {_short(size)}: {name}"] = middle
    for form in dict.fromkeys(form for form, _ in found):
        sizes = sorted(size for each, size in found if each == form)
        if len(sizes) > 1:
            first, last = (_cost(found[form, size]) for size in (sizes[0], sizes[-1]))
            named[f"{form}: cost of an item, {_short(sizes[-1])} : {_short(sizes[0])}"] = last / first
    return named


def _cost(measured: Sequence[Measurement]) -> float:
    return statistics.median(one.cost for one in measured)


def picture(found: Found, path: Path) -> None:
    panels = {}
    for stage in ("ingest", "recording", "download"):
        value, _ = values()[f"{stage}, items/s"]
        bars = []
        for (form, size), measured in found.items():
            rates = [each for each in map(value, measured) if each is not None]
            bars.append(Bar(f"{form}, {_short(size)}", statistics.median(rates), min(rates), max(rates), is_ours=True))
        panels[f"{stage}: items a second"] = bars
    draw(panels, "items a second, median; the thin line is the least and the most of the rounds", path)


def run(lines: Sequence[int], large: Sequence[int], formats: Sequence[str], repeat: int) -> Found:
    """Sizes and ways in turn, so that whatever else the machine does meets all of them."""
    found: Found = {(form, size): [] for form in formats for size in lines}
    found |= {(formats[0], size): [] for size in large}
    for turn in range(repeat):
        for form, size in found:
            if turn and size in large:
                continue
            say(f"round {turn + 1} of {repeat}: {size:,} items as {form}")
            with tempfile.TemporaryDirectory(prefix="bushel-ledger-") as folder:
                found[form, size].append(measure(form, size, Path(folder)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=_numbers, default=[10_000, 100_000], help="sizes (default: 10000,100000)")
    parser.add_argument("--large", type=_numbers, default=[1_000_000], help="sizes measured once (default: 1000000)")
    parser.add_argument("--formats", type=_formats, default=[*FORMATS], help="(default: jsonl,csv,inline)")
    parser.add_argument("--repeat", type=int, default=3, help="times a size is measured (default: %(default)s)")
    add_options(parser)
    options = parser.parse_args(arguments)
    before = machine.facts()
    try:
        found = run(options.lines, options.large, options.formats, options.repeat)
    except BenchmarkFailed as exc:
        say(f"failed: {exc}")
        return 1
    settings = {name: value for name, value in vars(options).items() if name != "print_only"}
    rounds = [asdict(one) for measured in found.values() for one in measured]
    result = results.found("ledger", __doc__, before, settings, figures(found), rounds)
    publish(result, table(found), partial(picture, found), options.print_only, "Items a second of every stage")
    return 0


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


def _formats(text: str) -> list[str]:
    wanted = text.split(",")
    if unknown := set(wanted) - {*FORMATS}:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: it must be of {', '.join(FORMATS)}")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
