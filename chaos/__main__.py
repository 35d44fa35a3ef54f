"""Hurt the service on purpose and say what it cost: `make chaos`.

    python -m chaos [--only NAME]... [--seed N] [--quick] [--json FILE] [--keep]
    python -m chaos --list

The exit status is 1 when a bar was not met. A scenario that this machine cannot run is named as SKIPPED.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from chaos import report, scenarios
from chaos.errors import ChaosFailed, Skipped
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms

logger = logging.getLogger("chaos")


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if asked.list:
        print("\n".join(f"{each.name:<16}{each.run.__doc__ or ''}" for each in scenarios.ALL))
        return 0
    chosen = [each for each in scenarios.ALL if not asked.only or each.name in asked.only]
    if unknown := set(asked.only) - {each.name for each in scenarios.ALL}:
        print(f"no scenario is called {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    print(f"{time.strftime('%Y-%m-%d')}, seed {asked.seed}, {'quick, ' if asked.quick else ''}{machine.describe()}\n")
    rows = [run(each, asked.seed, asked.quick, asked.keep) for each in chosen]
    print("\n\n".join(filter(None, (report.table(rows), report.recovery_table(rows)))) + "\n")
    print("\n".join(f"- {remark}" for remark in report.remarks(rows)))
    if asked.json:
        asked.json.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
    return int(any(row.problems for row in rows))


def run(scenario: Scenario, seed: int, is_quick: bool, is_kept: bool = False) -> Row:
    """One scenario in a folder of its own, which is kept if something was wrong."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"bushel-chaos-{scenario.name}-"))
    logger.info("%s: begins in %s", scenario.name, folder)
    try:
        row = scenario.run(Terms(folder / "stack", seed, is_quick))
    except Skipped as exc:
        row = Row(scenario.name, skipped=str(exc))
    except ChaosFailed as exc:
        row = Row(scenario.name, problems=[str(exc)])
    except Exception as exc:
        # The edge of a scenario: its own failure must not hide what the others found.
        logger.exception("%s broke down", scenario.name)
        row = Row(scenario.name, problems=[f"the scenario itself broke down: {exc!r}"])
    row.seconds = time.monotonic() - began
    logger.info("%s: %s after %.0f s %s", scenario.name, row.verdict, row.seconds, "; ".join(row.problems))
    if row.problems or is_kept:
        row.notes.append(f"logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return row


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this scenario; may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="what is drawn from chance is drawn from this")
    parser.add_argument("--quick", action="store_true", help="small sizes, for looking whether it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--keep", action="store_true", help="keep the folders, also of what was met")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    return parser


if __name__ == "__main__":
    sys.exit(main())
