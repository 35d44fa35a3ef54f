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


class Lines(logging.Handler):
    """Log lines on standard error as it is when they are written: a bar that is there stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


Thing = TypeVar("Thing")


def progress(things: Iterable[Thing], total: int | None, what: str) -> Iterator[Thing]:
    """The same things in the same order, while `what` is shown to advance. `total` is None where nobody knows."""
    if sys.stderr.isatty():
        return _shown(things, total, what)
    return _logged(things, total, what)


class Bar:
    """A bar on a terminal for a loop whose end may move; elsewhere nothing, the loop writes lines of its own."""

    def __init__(self, what: str) -> None:
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task = self._bar.add_task(what, total=None) if self._bar is not None else None

    def __enter__(self) -> "Bar":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # On standard error: standard output is for what the tool has found.
    return Progress(*columns, console=Console(stderr=True))


def _shown(things: Iterable[Thing], total: int | None, what: str) -> Iterator[Thing]:
    with _bar() as bar:
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
