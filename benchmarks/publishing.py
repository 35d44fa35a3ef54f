"""Where a benchmark's findings go: the terminal, and unless told otherwise a JSON file, the page and a picture."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import page, results
from benchmarks.results import Result


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--print-only",
        action="store_true",
        help="write nothing: not benchmarks/results, nor docs/performance.md, nor the picture",
    )


def publish(result: Result, table: str, draw: Callable[[Path], None], is_print_only: bool, what: str) -> None:
    """Print the table under a line about the machine; keep it all unless it is to be printed only.

    `draw` makes the picture at the path it is given; `what` says what it shows.
    """
    print(f"\n{result.about}\n\n{table}", flush=True)
    if is_print_only:
        return
    picture = page.IMAGES / f"bench-{result.name}.svg"
    draw(picture)
    page.write(result.name, f"{result.about}.\n\n{table}\n\n![{what}](images/{picture.name})")
    say(f"kept in {results.write(result)}, {page.PAGE} and {picture}")


def say(text: str) -> None:
    """What goes on, for who waits."""
    print(text, file=sys.stderr, flush=True)
