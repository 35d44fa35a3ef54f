"""How to split this machine's cores for a model, found by measuring and remembered beside it."""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# A batch should be over well within the second in which a cancelled job has to stop.
LONGEST_BATCH_SECONDS = 0.4
# Until one more doubling of the batch is worth less than this, larger batches only cost memory and delay.
WORTHWHILE = 1.05


@dataclass(frozen=True, slots=True)
class Measurement:
    tokens_per_second: float
    batch_seconds: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The settings that were fastest, and how fast that was."""

    inter_threads: int
    intra_threads: int
    batch_tokens: int
    tokens_per_second: float = 0.0
    batch_seconds: float = 0.0


Measure = Callable[[tuple[int, int], int], Measurement]


def choose(threads: Sequence[tuple[int, int]], budgets: Sequence[int], measure: Measure, seconds: float) -> Calibration:
    """The best of `threads` (replicas, cores each) at the smallest budget, then the best of `budgets` with those.

    Stops with the best so far when `seconds` are over, or when batches get too long.
    """
    deadline = time.monotonic() + seconds
    best = None
    for pair in threads:
        if best is not None and time.monotonic() > deadline:
            break
        found = _as_calibration(pair, budgets[0], measure(pair, budgets[0]))
        best = found if best is None or found.tokens_per_second > best.tokens_per_second else best
    if best is None:
        raise ValueError("no threads to choose from")
    pair = (best.inter_threads, best.intra_threads)
    for budget in budgets[1:]:
        # Twice the tokens will take about twice the time, so the limit can be foreseen.
        if time.monotonic() > deadline or best.batch_seconds * budget / best.batch_tokens > LONGEST_BATCH_SECONDS:
            break
        found = _as_calibration(pair, budget, measure(pair, budget))
        if (
            found.batch_seconds <= LONGEST_BATCH_SECONDS
            and found.tokens_per_second > best.tokens_per_second * WORTHWHILE
        ):
            best = found
    return best


def _as_calibration(pair: tuple[int, int], budget: int, measured: Measurement) -> Calibration:
    rate, seconds = round(measured.tokens_per_second, 1), round(measured.batch_seconds, 4)
    return Calibration(pair[0], pair[1], budget, rate, seconds)


def thread_candidates(cpus: int) -> list[tuple[int, int]]:
    """(replicas, cores each) that use all cores, most replicas first: one core each wins for small models.

    >>> thread_candidates(2)
    [(2, 1), (1, 2)]
    >>> thread_candidates(16)
    [(16, 1), (8, 2), (4, 4), (1, 16)]
    """
    pairs = [(cpus // each, each) for each in (1, 2, 4) if each < cpus]
    return [*pairs, (1, cpus)]


def cpu_count() -> int:
    """The cores this process may use: by affinity, and by a container's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text("ascii").split()
        if limit != "max":
            cores = min(cores, max(1, math.ceil(int(limit) / int(period))))
    return cores


def recall(path: Path, key: str) -> Calibration | None:
    """The calibration stored for this kind of machine. A file that cannot be read is measured anew."""
    try:
        return Calibration(**json.loads(path.read_text("utf-8"))[key])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def remember(path: Path, key: str, calibration: Calibration) -> None:
    """Store atomically, beside those of other kinds of machines that share the folder."""
    try:
        known = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        known = {}
    known[key] = asdict(calibration)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(known, file, indent=1)
    os.replace(temporary, path)
