"""Where does the time of a job go, stage by stage, and does the device ever wait while there is work?

Method. One real job through a private service, whose model was loaded by a job before: mixed lines of held-out
sentences, or those of a file. The figures are the service's own, read from its workers' /metrics before and after the
job (docs/observability.md says what each means):

    ingest, finalize              once for the job, by the io worker
    queue wait                    from the start of the job to the claim of a chunk. The last chunks of a long job wait
                                  long without anything being wrong, so the mean is shown, not the sum
    read, tokenize                a chunk's items from the ledger, and their tokens
    device wait                   encoded, while the device is at the chunk before: good, as it finds the next at hand
    device                        the engine's generate
    detokenize, write             outputs to texts, and results into the ledger

Stages of different chunks run at the same time, so that their sum is more than the job took; "of the job" is a stage's
seconds over those from `in_progress` to `finalizing`.

The device's idle share while work is ready is from looks, five a second: from the first that finds items running to the
last that finds items queued, so that neither the first chunk's way to the device nor the last one's way to the ledger
counts. Batch fill is padded tokens over those that batches had room for, padding waste the share of padded tokens that
nobody asked for. Each round is a job of its own; medians are shown.

Not fair: looking costs the service some of the processors, so that it is a little slower than by itself.

    python -m benchmarks.stages [--model NAME] [--lines 6000] [--beams 1] [--rounds 3]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks import machine, results
from benchmarks.contender import contender, write_registry
from benchmarks.decoding import Decoding
from benchmarks.endtoend import EndToEnd
from benchmarks.heldout import read_lines
from benchmarks.plot import Bar, draw
from benchmarks.publishing import add_options, publish, say
from benchmarks.service import BenchmarkFailed, Sample, Service, running
from benchmarks.tables import markdown

STAGES = ("queue_wait", "read", "tokenize", "device_wait", "device", "detokenize", "write")
STEPS = ("ingest", "finalize")
_WARM_UP_LINES = 200
_LOOK_SECONDS = 0.2
_LIMIT_SECONDS = 3_600.0

Metrics = dict[Sample, float]


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a job while it ran, and the device's busy and idle seconds at that moment."""

    queued: int
    running: int
    busy: float
    idle: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A job: seconds of its stages and steps by name, and what its batches came to."""

    lines: int
    chunks: float
    wall_seconds: float
    running_seconds: float
    stages: dict[str, float]
    steps: dict[str, float]
    idle_share: float | None
    batches: float
    fill: float
    waste: float


def idle_share(looks: Sequence[Look]) -> float | None:
    """The device's idle part of the time in which work was ready; None where the looks do not tell.

    >>> idle_share([Look(9, 0, 0, 5), Look(9, 1, 1, 5), Look(3, 1, 4, 6), Look(0, 1, 5, 9)])
    0.25
    """
    begins = [place for place, look in enumerate(looks) if look.running]
    ends = [place for place, look in enumerate(looks) if look.queued]
    if not begins or not ends or begins[0] >= ends[-1]:
        return None
    first, last = looks[begins[0]], looks[ends[-1]]
    busy, idle = last.busy - first.busy, last.idle - first.idle
    return idle / (busy + idle) if busy + idle > 0 else None


def grown(before: Metrics, after: Metrics, name: str, **labels: str) -> float:
    """By how much a counter has grown, over all samples that have these labels. LookupError if there is none."""
    wanted = set(labels.items())
    found = [
        value - before.get(sample, 0.0)
        for sample, value in after.items()
        if sample[0] == name and wanted <= set(sample[1])
    ]
    if not found:
        raise LookupError(f"the worker tells nothing of {name} {labels}")
    return sum(found)


def measure(service: Service, model: str, lines: Sequence[str], decoding: Decoding, folder: Path) -> Measured:
    before, io_before = service.metrics("model worker"), service.metrics("io worker")
    job_id = EndToEnd(service, model, folder).submit(lines, decoding)
    looks = _looks(service, job_id)
    service.watch(job_id, _LIMIT_SECONDS)
    service.check_audit(job_id)
    after, io_after = service.metrics("model worker"), service.metrics("io worker")
    timeline = service.timeline(job_id)

    def batch(what: str) -> float:
        return grown(before, after, f"bushel_batch{what}_total", model=model)

    return Measured(
        lines=len(lines),
        chunks=grown(before, after, "bushel_stage_seconds_count", stage="device", model=model),
        wall_seconds=timeline.completed,
        running_seconds=timeline.finalizing - timeline.in_progress,
        stages={stage: grown(before, after, "bushel_stage_seconds_sum", stage=stage, model=model) for stage in STAGES},
        steps={step: grown(io_before, io_after, "bushel_step_seconds_sum", step=step) for step in STEPS},
        idle_share=idle_share(looks),
        batches=batch("es"),
        fill=batch("_padded_tokens") / batch("_room_tokens"),
        waste=1 - batch("_tokens") / batch("_padded_tokens"),
    )


def _looks(service: Service, job_id: str) -> list[Look]:
    looks: list[Look] = []
    until = time.monotonic() + _LIMIT_SECONDS
    while (job := service.job(job_id))["status"] in ("validating", "in_progress"):
        if time.monotonic() > until:
            raise BenchmarkFailed(f"{job_id} is {job['status']} after {_LIMIT_SECONDS:.0f} s: {job['counts']}")
        if job["status"] == "in_progress":
            now = service.metrics("model worker")
            busy, idle = (now["bushel_device_seconds_total", (("state", state),)] for state in ("busy", "idle"))
            looks.append(Look(job["counts"]["queued"], job["counts"]["running"], busy, idle))
        # Samples of a state that nothing announces: how many chunks wait beside how long the device was idle.
        time.sleep(_LOOK_SECONDS)
    return looks


def run(options: argparse.Namespace) -> list[Measured]:
    decoding = Decoding(options.beams, options.max_new_tokens)
    lines = read_lines(options.texts, options.lines)
    with tempfile.TemporaryDirectory(prefix="bushel-stages-") as name:
        folder = Path(name)
        spec = contender(options.model, folder)
        registry = write_registry(spec, folder / "registry.toml")
        with running([spec.name], {"BUSHEL_REGISTRY": str(registry)}) as service:
            say("warming up")
            measure(service, spec.name, lines[:_WARM_UP_LINES], decoding, folder)
            found = []
            for turn in range(options.rounds):
                found.append(measure(service, spec.name, lines, decoding, folder))
                say(f"round {turn + 1} of {options.rounds}: {found[-1].wall_seconds:.2f} s")
    return found


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def _idle(measured: Sequence[Measured]) -> float | None:
    known = [one.idle_share for one in measured if one.idle_share is not None]
    return _middle(known) if known else None


def table(measured: Sequence[Measured]) -> str:
    """Stages and steps; then the device and its batches in words."""
    running_seconds, chunks = (
        _middle([getattr(one, name) for one in measured]) for name in ("running_seconds", "chunks")
    )
    lines = measured[0].lines
    rows = []
    for step in STEPS:
        seconds = _middle([one.steps[step] for one in measured])
        rows.append([step, f"{seconds:.3f}", "", "", f"{seconds / lines * 1e6:,.0f}"])
    for stage in STAGES:
        seconds = _middle([one.stages[stage] for one in measured])
        is_wait = stage == "queue_wait"
        total = "" if is_wait else f"{seconds:.3f}"
        shares = ["", ""] if is_wait else [f"{seconds / running_seconds:.1%}", f"{seconds / lines * 1e6:,.0f}"]
        rows.append([stage.replace("_", " "), total, f"{seconds / chunks * 1e3:,.1f}", *shares])
    idle = _idle(measured)
    wall = _middle([one.wall_seconds for one in measured])
    batches, fill, waste = (_middle([getattr(one, name) for one in measured]) for name in ("batches", "fill", "waste"))
    said = (
        f"{lines:,} lines took {wall:.2f} s, of which the chunks ran {running_seconds:.2f} s, in {chunks:.0f} chunks "
        f"and {batches:.0f} batches. While work was ready, the device was idle "
        f"{'for less time than could be told' if idle is None else f'{idle:.1%} of the time'}. "
        f"Batches were {fill:.0%} full; {waste:.1%} of their tokens were padding."
    )
    header = ["", "seconds", "ms a chunk", "of the job", "µs an item"]
    return f"{markdown(header, rows)}\n\n{said}"


def figures(measured: Sequence[Measured]) -> dict[str, float]:
    named = {
        "batch fill": _middle([one.fill for one in measured]),
        "padding waste": _middle([one.waste for one in measured]),
        "device / running": _middle([one.stages["device"] / one.running_seconds for one in measured]),
    }
    idle = _idle(measured)
    return named if idle is None else named | {"device idle while work is ready": idle}


def picture(measured: Sequence[Measured], path: Path) -> None:
    bars = []
    for name in (*STEPS, *STAGES[1:]):
        seconds = [(one.stages | one.steps)[name] for one in measured]
        bars.append(Bar(name.replace("_", " "), _middle(seconds), min(seconds), max(seconds), is_ours=True))
    draw({f"{measured[0].lines:,} lines: seconds of each stage": bars}, "seconds, summed over the chunks", path)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--model", default="translation-balanced", help="(default: %(default)s)")
    made.add_argument("--lines", type=int, default=6_000, help="(default: %(default)s)")
    made.add_argument("--texts", type=Path, help="a file of lines instead of the sentences")
    made.add_argument("--beams", type=int, default=1, help="(default: %(default)s)")
    made.add_argument("--max-new-tokens", type=int, default=128, help="(default: %(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    add_options(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    before = machine.facts()
    try:
        measured = run(options)
    except BenchmarkFailed as exc:
        say(f"failed: {exc}")
        return 1
    settings = {name: value for name, value in vars(options).items() if name != "print_only"}
    rounds = [asdict(one) for one in measured]
    result = results.found("stages", __doc__, before, settings, figures(measured), rounds)
    publish(result, table(measured), partial(picture, measured), options.print_only, "Seconds of each stage of a job")
    return 0


if __name__ == "__main__":
    sys.exit(main())
