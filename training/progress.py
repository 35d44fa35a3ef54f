"""How far a long loop is: a bar on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger("training")

LOG_SECONDS = 30.0

Thing = TypeVar("Thing")


def progress(things: Iterable[Thing], total: int | None, what: str) -> Iterator[Thing]:
    """The same things in the same order, while `what` is shown to advance. `total` is None where nobody knows."""
    if sys.stderr.isatty():
        return _shown(things, total, what)
    return _logged(things, total, what)


def _shown(things: Iterable[Thing], total: int | None, what: str) -> Iterator[Thing]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # On standard error: standard output is for what the tool has found.
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        for thing in things:
            yield thing
            bar.advance(task)


def _logged(things: Iterable[Thing], total: int | None, what: str) -> Iterator[Thing]:
    """Short loops say nothing; a long one says where it is every `LOG_SECONDS`."""
    said = time.monotonic()
    for done, thing in enumerate(things, start=1):
        yield thing
        if (now := time.monotonic()) - said >= LOG_SECONDS:
            said = now
            logger.info("%s: %d of %s", what, done, "?" if total is None else total)
