"""`bushel top`: the whole service, live."""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click
from rich.console import Console
from rich.live import Live

from cli import show
from cli.access import Target
from cli.board import Size, board, rooms
from cli.exits import Exit
from cli.glance import Glance, Looker, Watchman
from cli.keyboard import Keyboard

_HINT = "q quit   j k ↓ ↑ move through the jobs"
_SHORTEST_INTERVAL, _LONGEST_INTERVAL = 0.2, 3600.0
# The clock, and how old the figures are, go on between two looks.
_TICK_SECONDS = 1.0
_PAGE = 10


@click.command()
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    type=click.FloatRange(_SHORTEST_INTERVAL, _LONGEST_INTERVAL),
    metavar="SECONDS",
    help="How often to look.",
)
@click.option("--once", is_flag=True, help="Look once, print it in plain text, and end; also without a terminal.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for every look; with --once, for one.")
@click.pass_obj
def top(target: Target, interval: float, once: bool, as_json: bool) -> None:
    """Show workers, queues and jobs as they are now, until q or Ctrl-C.

    Queues and workers are everybody's, in numbers; jobs are those of your key: the open ones, running first, and
    those that ended lately. A server that goes away is said to be away, and the last figures stay.
    """
    with target.client(is_patient=False) as client:
        looker = Looker(client)
        first = looker.look()
        console = show.stdout()
        if as_json:
            _print_documents(looker, first, interval, once)
        elif once or not console.is_terminal or console.is_dumb_terminal:
            plain = show.plain()
            show.put(plain, board(first, Size(plain.width), time.time()))
        else:
            _follow(console, looker, first, interval)


def _print_documents(looker: Looker, first: Glance, interval: float, once: bool) -> None:
    click.echo(first.document())
    while not once:
        # Nothing is waited for: so often it was asked for.
        time.sleep(interval)
        click.echo(looker.look_again().document())


def _follow(console: Console, looker: Looker, first: Glance, interval: float) -> None:
    try:
        with (
            _alarm() as (bell, ring),
            Watchman(looker, first, interval, ring) as watchman,
            Keyboard(sys.stdin) as keyboard,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            _draw(console, live, watchman, keyboard, bell)
    except KeyboardInterrupt:
        # As everybody ends it who does not know of q: nothing was broken off, so there is nothing to say.
        raise click.exceptions.Exit(Exit.INTERRUPTED) from None


def _draw(console: Console, live: Live, watchman: Watchman, keyboard: Keyboard, bell: int) -> None:
    """Until q: at every key, every look, every change of the window's size, and every second."""
    passed_over = 0
    heard = [bell] if keyboard.fileno is None else [bell, keyboard.fileno]
    while watchman.failure is None:
        glance = watchman.glance
        size, now = Size(console.width, console.height), time.time()
        passed_over = max(0, min(passed_over, len(glance.jobs) - rooms(glance, size, now, _HINT).jobs))
        live.update(board(glance, size, now, passed_over, _HINT), refresh=True)
        ready, _, _ = select.select(heard, [], [], _TICK_SECONDS)
        if bell in ready:
            os.read(bell, 1024)
        for key in keyboard.pressed() if keyboard.fileno in ready else ():
            if key == "quit":
                return
            passed_over += {"down": 1, "up": -1, "page down": _PAGE, "page up": -_PAGE}.get(key, 0)
    raise watchman.failure


@contextmanager
def _alarm() -> Iterator[tuple[int, "Ring"]]:
    """What `select` wakes up by, and what rings it; a window of another size rings too.

    SIGTERM and a closed window end the command as Ctrl-C does, so that the terminal is left as it was.
    """
    bell, rope = os.pipe()
    os.set_blocking(rope, False)
    ring = Ring(rope)
    before = {signal.SIGWINCH: signal.signal(signal.SIGWINCH, lambda number, frame: ring())}
    before |= {each: signal.signal(each, _leave) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield bell, ring
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ring.close()
        os.close(bell)


def _leave(number: int, frame: FrameType | None) -> None:
    raise click.exceptions.Exit(128 + number)


class Ring:
    """Makes the bell's end readable, from any thread."""

    def __init__(self, rope: int) -> None:
        self._rope = rope

    def __call__(self) -> None:
        try:
            os.write(self._rope, b".")
        except BlockingIOError:
            # So many are waiting to be heard that one more changes nothing.
            return

    def close(self) -> None:
        os.close(self._rope)
