"""`bushel results`: what a job has produced, whole or as it comes."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from cli import wire
from cli.access import Target
from cli.client import Client
from cli.errors import WrongUsage
from cli.exits import Exit

_POLL_SECONDS = 1.0


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("-"), metavar="FILE")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv", "txt"]), help="Default: by FILE's name, or jsonl.")
@click.option("--follow", is_flag=True, help="Go on until the job ends; FILE is continued where it was cut off.")
@click.option("--include-input", is_flag=True, help="Write every item's input beside its output.")
@click.pass_obj
def results(target: Target, job_id: str, output: Path, form: str | None, follow: bool, include_input: bool) -> None:
    """Write the results of JOB to FILE, or to standard output.

    In the order of the input. While the job runs, what is finished so far is written, and standard
    error says so. With --follow, in the order in which items finish.

    \b
    Exit codes: 0 all items succeeded, or the job still runs; 1 some failed, were cancelled or expired.
    """
    chosen = form or format_of(output)
    with target.client() as client:
        if follow:
            if chosen != "jsonl":
                raise WrongUsage("--follow writes jsonl: in csv and txt a line cannot say which item it belongs to")
            tail(client, job_id, output, include_input)
        elif not save(client, job_id, output, chosen, include_input):
            click.echo(f"{job_id} still runs: these are the results so far", err=True)
        job = client.job(job_id)
    raise click.exceptions.Exit(Exit.FAILED if job.is_final and not job.went_well else Exit.OK)


def format_of(output: Path) -> str:
    """By the name's end; jsonl says most. A table gets the delimiter its input had."""
    return {".csv": "csv", ".tsv": "csv", ".txt": "txt"}.get(output.suffix.lower(), "jsonl")


def save(client: Client, job_id: str, output: Path, form: str, include_input: bool = False) -> bool:
    """Write the results there are, in input order; True if the job will have no more.

    A file appears under its name only when it is whole.
    """
    with _whole_file(output) as out:
        if form != "jsonl":
            return client.write_results(job_id, out, form, include_input)
        lines = client.result_lines(job_id, include_input=include_input)
        for _, line in lines:
            out.write(line.encode())
        return lines.is_complete


def tail(client: Client, job_id: str, output: Path, include_input: bool) -> None:
    """Append results as they finish, until the job has ended."""
    with _continued(output) as (out, after):
        cursor = after
        while True:
            lines = client.result_lines(job_id, cursor, "finished", include_input)
            for _, line in lines:
                out.write(line.encode())
            out.flush()
            cursor = lines.cursor
            if lines.is_complete:
                return
            time.sleep(_POLL_SECONDS)


@contextmanager
def _whole_file(output: Path) -> Iterator[BinaryIO]:
    if str(output) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = output.with_name(f".{output.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _continued(output: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """The file, at the end of its last whole line, and the `seq` of that line."""
    if str(output) == "-":
        yield sys.stdout.buffer, None
        return
    with output.open("r+b" if output.exists() else "w+b") as file:
        after: int | None = None
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            after = _seq(line, output)
            end += len(line)
        file.seek(end)
        file.truncate()
        yield file, after
        os.fsync(file.fileno())


def _seq(line: bytes, output: Path) -> int:
    try:
        return wire.result(json.loads(line)).seq
    except (ValueError, KeyError, TypeError) as exc:
        raise WrongUsage(f"{output} holds something else than results; choose another file") from exc
