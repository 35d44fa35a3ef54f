"""What the commands that make a job of another job share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cli import show, wire
from cli.client import Client
from cli.options import pairs, window
from cli.submit import await_end
from cli.watch import exit_code

Command = TypeVar("Command", bound=Callable[..., Any])


def again_options(command: Command) -> Command:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the job as JSON."),
        click.option("--wait", "waited", is_flag=True, help="Wait quietly until the job ends."),
        click.option("--watch", "watched", is_flag=True, help="Show progress until the job ends."),
        click.option("--metadata", multiple=True, metavar="K=V", help="Instead of the other's. May be repeated."),
        click.option("--window", "completion_window", metavar="TIME", help="Give up after 90m, 24h, 3d, or never."),
        click.option("--priority", type=click.IntRange(-100, 100), help="Higher goes first."),
    ):
        command = option(command)
    return command


def said(priority: int | None, completion_window: str | None, metadata: tuple[str, ...]) -> dict[str, object]:
    """Only what is to be otherwise."""
    body: dict[str, object] = {}
    if priority is not None:
        body["priority"] = priority
    if completion_window is not None:
        body["completion_window"] = window(completion_window)
    if metadata:
        body["metadata"] = pairs(metadata, "--metadata")
    return body


def present(client: Client, job: wire.Job, watched: bool, waited: bool, as_json: bool) -> None:
    """Print the new job's id, wait for it where that is wanted, and leave with its exit code."""
    if not as_json:
        click.echo(job.id)
    if watched or waited:
        job = await_end(client, job, watched)
    if as_json:
        show.print_json(job.raw)
    raise click.exceptions.Exit(exit_code(job))
