"""`bushel up`: the whole service on this machine, in the foreground, until Ctrl-C."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

from cli.access import Target
from cli.local import Access, read_access, write_access

if TYPE_CHECKING:
    from cli.stack.supervisor import Tone

_STYLES = {"info": "dim", "good": "green", "warning": "yellow", "bad": "bold red"}
_IGNORED_HERE = ("BUSHEL_DATABASE_URL", "BUSHEL_BROKER_URL")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="that before the command's name, or .bushel",
    help="Folder that holds everything: database, queue, files, converted models, logs.",
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(0, 64), help="Processes that run models.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Serve only this model. May be repeated.")
@click.option("--save-key/--no-save-key", default=True, help="Keep the first API key in DATA/client.json (mode 0600).")
@click.pass_obj
def up(
    target: Target, host: str, port: int, data: Path | None, workers: int, models: tuple[str, ...], save_key: bool
) -> None:
    """Run database, queue, API and workers on this machine until Ctrl-C.

    Everything lives in the data folder; a second start continues where the first one stopped, also
    after a crash. Ctrl-C stops in order, workers first; a second Ctrl-C hurries.

    \b
    Exit codes: 0 stopped as asked; 1 a part could not start; 130 interrupted while starting,
    or hurried by a second Ctrl-C.
    """
    if sys.platform == "win32":
        raise click.ClickException("`bushel up` needs Linux or macOS")
    from cli.stack.errors import StackError

    try:
        code = _run(host, port, (data or target.data).expanduser().absolute(), workers, models, save_key)
    except (StackError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc
    raise click.exceptions.Exit(code)


def _run(host: str, port: int, data: Path, workers: int, models: tuple[str, ...], save_key: bool) -> int:
    from cli.stack import parts
    from cli.stack.journal import journal
    from cli.stack.lock import FolderLock
    from cli.stack.supervisor import Action, Interrupted, Stage, Supervisor
    from telemetry.logs import LogFormat

    screen = Screen()
    parts.make_folders(data)
    with FolderLock(data):
        where = parts.layout(data, host, parts.check_port(host, port))
        names = parts.model_names(where, models)
        screen.note(f"data in {data}, logs in {where.logs}")
        for variable in _IGNORED_HERE:
            if variable in os.environ:
                screen.note(f"{variable} is set, but `bushel up` always runs its own; not used here")
        if whom := where.postgres.identity:
            screen.note(f"PostgreSQL refuses to run as root: it runs as the system user '{whom.name}'")
        # Before anything starts: whoever waits for us must not take the server of an earlier port for ours.
        _keep(data, where.url, None)

        made = False

        def make_first_key() -> None:
            nonlocal made
            if key := parts.first_key(where):
                made = True
                # Shown at once, before anything may fail: it is never made a second time.
                click.echo(f"API key: {key}")
                sys.stdout.flush()
                if save_key:
                    _keep(data, where.url, key)
                screen.note(f"the API key is shown once; {_kept_where(data, save_key)}; the database has only its hash")

        worker_parts = (parts.io_worker(where), *parts.model_workers(where, workers, names))
        plan = (
            Stage((where.postgres.part(),)),
            Stage((where.valkey.part(),)),
            Stage((parts.migrations(where),)),
            Action("first key", make_first_key),
            Stage((parts.api(where), *worker_parts)),
        )

        def when_up() -> None:
            screen.welcome(where.url)
            for part in worker_parts:
                screen.note(f"metrics of {part.name}: http://{parts.metrics_address(part)}/metrics")
            screen.note(f"metrics of the api, for a key with the scope admin: {where.url}/metrics")
            parts.write_targets(where, worker_parts)
            if (known := read_access(data)) is None or known.api_key is None:
                screen.note("the command line here has no key; make one: bushel keys create --save")
            elif not made:
                screen.note(f"its API key was made earlier and is in {data / 'client.json'}")

        with journal(where.logs, LogFormat(parts.log_format(where)), screen.say) as say:
            supervisor = Supervisor(plan, where.logs, say)
            try:
                supervisor.run(when_up)
            except Interrupted:
                screen.note("interrupted before everything was ready; stopped")
                return 130
        screen.note("stopped")
        return 130 if supervisor.was_hurried else 0


def _keep(data: Path, url: str, key: str | None) -> None:
    """Write the URL, and the key if there is a new one, for clients on this machine."""
    try:
        known = read_access(data)
    except ValueError:
        known = None
    write_access(data, Access(url, key or (known.api_key if known else None)))


def _kept_where(data: Path, save_key: bool) -> str:
    if not save_key:
        return "kept nowhere"
    return f"kept in {data / 'client.json'} (mode 0600) for the command line on this machine"


class Screen:
    """One line per event: coloured on a terminal, plain elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, name: str, text: str, tone: "Tone") -> None:
        self._console.print(f"[bold]{escape(name):<12}[/bold] [{_STYLES[tone]}]{escape(text)}[/]")

    def note(self, text: str) -> None:
        """A line that nobody depends on; see Supervisor about readers who have left."""
        with contextlib.suppress(OSError):
            self._console.print(f"[dim]{escape(text)}[/dim]")

    def welcome(self, url: str) -> None:
        """To stdout: that is what a script waits for."""
        click.echo(f"Bushel is up: {url}")
        sys.stdout.flush()
        self.note("Ctrl-C stops everything in order.")
