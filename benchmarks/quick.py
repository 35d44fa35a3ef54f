"""Has something become slower? Small engine, ledger and scheduler benchmarks beside those that were kept.

Method. The same scripts as the large ones, at sizes that take two minutes together, compared with what `--keep` wrote
into benchmarks/results/quick.json at the same sizes. Ratios of two ways of one run (the service to tuned CTranslate2),
agreement, memory and counts are judged anywhere; seconds and rows a second only on the machine they were kept on, told
by its processor and how many of them there are. A figure is worse when it is so by more than its band (`RULES`). Exit
status 1 when one is worse, 2 when there is nothing to compare with.

    python -m benchmarks.quick [--keep]
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import engine, ledger, machine, results, scheduler
from benchmarks.comparison import Judged, NothingToCompare, compare, table
from benchmarks.publishing import say
from benchmarks.results import Result
from benchmarks.service import BenchmarkFailed

MODEL = "translation-balanced"
_ENGINE = ("--model", MODEL, "--lines", "1200", "--rows-n0", "0", "--rows-n1", "64", "--rounds", "3", "--device", "cpu")
_SCHEDULER = ("--items", "60000", "--tenant-items", "2000", "--swap-jobs", "6", "--swap-items", "1000")
_LEDGER_LINES = 20_000

RULES: Mapping[str, Judged] = {
    f"{MODEL}, greedy: {engine.SERVICE} / R": Judged(0.15),
    f"{MODEL}, greedy: {engine.ALONE} / R": Judged(0.10),
    f"{MODEL}, greedy: {engine.SERVICE}, chrF": Judged(0.02),
    "jsonl, 20k: ingest, items/s": Judged(0.25, is_own=True),
    "jsonl, 20k: recording, items/s": Judged(0.25, is_own=True),
    "jsonl, 20k: download, MB/s": Judged(0.25, is_own=True),
    "jsonl, 20k: model worker: peak, MiB": Judged(0.10, is_lower_better=True),
    "jsonl, 20k: io worker: peak, MiB": Judged(0.10, is_lower_better=True),
    "small jobs: last result, slowest s": Judged(0.35, is_lower_better=True, is_own=True),
    "swaps: loads with room for 1": Judged(0.34, is_lower_better=True),
}


def measure() -> dict[str, float]:
    """All figures of the three, by the names that they have there."""
    found = engine.figures(engine.run(engine.parser().parse_args(_ENGINE)))
    found |= ledger.figures(ledger.run([_LEDGER_LINES], [], ["jsonl"], 2))
    return found | scheduler.figures(scheduler.run(scheduler.parser().parse_args(_SCHEDULER)))


def is_same_machine(one: Result, other: Result) -> bool:
    return all(one.machine[what] == other.machine[what] for what in ("processor", "cpus"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="write these figures down for later runs, compare nothing")
    options = parser.parse_args(arguments)
    before = machine.facts()
    try:
        found = {name: value for name, value in measure().items() if name in RULES}
    except BenchmarkFailed as exc:
        say(f"failed: {exc}")
        return 1
    now = results.found("quick", __doc__, before, {}, found, None)
    if options.keep:
        print(f"kept in {results.write(now)}")
        return 0
    return judge(now, results.FOLDER)


def judge(now: Result, folder: Path) -> int:
    """Print the comparison with what is kept in the folder; the exit status."""
    kept = results.read("quick", folder)
    if kept is None:
        say(f"{folder} has no quick.json to compare with; make one with --keep")
        return 2
    try:
        compared = compare(now.figures, kept.figures, RULES, is_same_machine(now, kept))
    except NothingToCompare as exc:
        say(str(exc))
        return 2
    print(f"{now.about}; kept: {kept.about}\n\n{table(compared)}")
    return int(any(one.is_worse for one in compared))


if __name__ == "__main__":
    sys.exit(main())
