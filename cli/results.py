"""`bushel results`: what a job has produced, whole or as it comes."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from cli import show, wire
from cli.access import Target
from cli.client import Client
from cli.errors import WrongUsage
from cli.exits import Exit
from cli.options import as_job, offer_jobs
from cli.output import check_delimiter, check_writable, format_of, is_packed, is_stdout, whole_file
from cli.watch import states


@click.command()
@click.argument("job_id", type=as_job, shell_complete=offer_jobs, metavar="JOB")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("-"),
    metavar="FILE",
    help="Default: standard output. The end of the name sets the format; .gz after it packs.",
)
@click.option("--format", "form", type=click.Choice(["jsonl", "csv", "txt"]), help="Default: by FILE's name, or jsonl.")
@click.option("--follow", is_flag=True, help="Go on until the job ends; FILE is continued where it was cut off.")
@click.option("--include-input", is_flag=True, help="Write every item's input beside its output.")
@click.option("--report", is_flag=True, help="Write the scores line by line instead, of a job with references.")
@click.pass_obj
def results(
    target: Target, job_id: str, output: Path, form: str | None, follow: bool, include_input: bool, report: bool
) -> None:
    """Write the results of JOB to FILE, or to standard output.

    In the order of the input. While the job runs, what is finished so far is written, and standard
    error says so. With --follow, in the order in which items finish.

    \b
    Exit codes: 0 all items succeeded, or the job still runs; 1 some failed, were cancelled or expired.
    """
    chosen = form or format_of(output) or "jsonl"
    check_writable(output)
    if report:
        if form not in (None, "jsonl") or follow or include_input or is_packed(output):
            raise WrongUsage("--report is a jsonl file of its own: it goes with -o alone, and without .gz")
        if format_of(output) not in (None, "jsonl"):
            raise WrongUsage(f"--report is a jsonl file; name it .jsonl instead of {output.name}")
        _save_report(target, job_id, output)
        return
    if follow and chosen != "jsonl":
        raise WrongUsage("--follow writes jsonl: in csv and txt a line cannot say which item it belongs to")
    if follow and is_packed(output):
        raise WrongUsage("--follow cannot continue a .gz file; leave --follow out, or write it unpacked")
    with target.client() as client:
        job = client.job(job_id)
        if follow:
            job = _until_accepted(client, job)
        if job.has_nothing:
            tell_nothing(job, output)
            raise click.exceptions.Exit(Exit.FAILED)
        if follow:
            _follow(client, job, output, include_input)
        else:
            if chosen == "csv":
                check_delimiter(output, delimiter_of(job))
            if not save(client, job_id, output, chosen, include_input):
                click.echo(f"{job_id} still runs: these are the results so far", err=True)
            tell_left_out(job, chosen)
        job = client.job(job_id)
    raise click.exceptions.Exit(Exit.FAILED if job.is_final and not job.went_well else Exit.OK)


def _save_report(target: Target, job_id: str, output: Path) -> None:
    with target.client() as client:
        job = client.job(job_id)
        if job.report_file_id is None:
            why = "has no references" if job.is_final else "has not ended"
            raise WrongUsage(f"{job_id} {why}, so that nothing of it is scored")
        if is_stdout(output):
            client.copy_file(job.report_file_id, sys.stdout.buffer)
        else:
            client.download(job.report_file_id, output)


def delimiter_of(job: wire.Job) -> str:
    """What separates the cells when the server writes this job's results as a table."""
    form = job.raw.get("format")
    said = form.get("delimiter") if isinstance(form, dict) and form.get("type") == "csv" else None
    return said if isinstance(said, str) else ","


def tell_left_out(job: wire.Job, form: str) -> None:
    """Of several outputs of an input, which a line of a table or a text has no room for."""
    if form != "jsonl" and job.outputs_per_input > 1:
        wanted = f"`bushel results {job.id} --format jsonl` has all {job.outputs_per_input}"
        click.echo(f"{form} has the first output of each input; {wanted}", err=True)


def tell_nothing(job: wire.Job, output: Path) -> None:
    """Why there is no output: what was wrong with the input."""
    console = show.stderr()
    show.problems(console, job)
    place = "" if is_stdout(output) else f" to {output}"
    click.echo(f"{job.id} failed before it had any item: nothing is written{place}", err=True)


def save(client: Client, job_id: str, output: Path, form: str, include_input: bool = False) -> bool:
    """Write the results there are, in input order; True if the job will have no more.

    A file appears under its name only when it is whole; one of that name stays as it is until then.
    """
    with whole_file(output) as out:
        if form != "jsonl":
            return client.write_results(job_id, out, form, include_input)
        lines = client.result_lines(job_id, include_input=include_input)
        for _, line in lines:
            out.write(line.encode())
        return lines.is_complete


def tail(client: Client, job: wire.Job, output: Path, include_input: bool) -> None:
    """Append results as they finish, until the job has ended."""
    _check_continuation(client, job.id, output, include_input)
    with _continued(output) as (out, cursor):
        for _ in states(client, job):
            lines = client.result_lines(job.id, cursor, "finished", include_input)
            for _, line in lines:
                out.write(line.encode())
            out.flush()
            cursor = lines.cursor
            if lines.is_complete:
                return


def _until_accepted(client: Client, job: wire.Job) -> wire.Job:
    """The job when its input has been read: before that, nobody knows whether there will be results."""
    return next(now for now in states(client, job) if now.status != "validating")


def _follow(client: Client, job: wire.Job, output: Path, include_input: bool) -> None:
    try:
        tail(client, job, output, include_input)
    except KeyboardInterrupt:
        if is_stdout(output):
            click.echo(f"{job.id} is not affected; all its results: bushel results {job.id}", err=True)
        else:
            click.echo(f"{job.id} is not affected; the same command continues {output}", err=True)
        raise click.exceptions.Exit(Exit.INTERRUPTED) from None


def _check_continuation(client: Client, job_id: str, output: Path, include_input: bool) -> None:
    """WrongUsage if the file begins otherwise than these results do: going on would cut and mix up another file."""
    if is_stdout(output) or not output.is_file() or not output.stat().st_size:
        return
    first = next((line for _, line in client.result_lines(job_id, None, "finished", include_input)), "").encode()
    with output.open("rb") as file:
        found = file.readline(len(first) + 1)
    if not first or (found != first and not (first.startswith(found) and not found.endswith(b"\n"))):
        raise WrongUsage(f"{output} holds something else than the results of {job_id}; choose another file")


@contextmanager
def _continued(output: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """The file, at the end of its last whole line, and the `seq` of that line."""
    if is_stdout(output):
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
