"""`bushel status`: one job in full, or the latest jobs."""

import itertools

import click
from rich.console import Console
from rich.text import Text

from cli import show, wire
from cli.access import Target
from cli.client import Client
from cli.failures import show_failures
from cli.options import TASKS, as_job, offer_jobs
from cli.watch import exit_code

STATUSES = ("validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


@click.command()
@click.argument("job_id", type=as_job, shell_complete=offer_jobs, metavar="[JOB]", required=False)
@click.option("--status", "wanted", type=click.Choice(STATUSES), help="List only jobs in this status.")
@click.option("--task", type=click.Choice([*TASKS, "embedding"]), help="List only jobs of this task.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many jobs to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(target: Target, job_id: str | None, wanted: str | None, task: str | None, limit: int, as_json: bool) -> None:
    """Show JOB, or list the latest jobs.

    For one job, the exit code is 1 when it has ended and not every item succeeded.
    """
    with target.client() as client:
        if job_id is None:
            jobs = list(itertools.islice(client.jobs(wanted, task), limit))
            if as_json:
                show.print_json([job.raw for job in jobs])
            elif jobs:
                show.put(show.stdout(), show.job_table(jobs))
                for reason in show.stalled(jobs):
                    click.echo(f"waiting: {reason}", err=True)
            else:
                click.echo("no jobs", err=True)
            return
        job = client.job(job_id)
        if as_json:
            show.print_json(job.raw)
        else:
            console = show.stdout()
            show.put(console, show.panel(job))
            _show_record(console, client, job)
            show.problems(console, job)
            show.scores(console, job)
            show_failures(console, client, job)
    raise click.exceptions.Exit(exit_code(job))


def _show_record(console: Console, client: Client, job: wire.Job) -> None:
    """How far the estimate of a running job may be trusted."""
    if job.is_final or job.eta_seconds is None or (found := client.track_record()) is None:
        return
    if (record := wire.record(found, job.model)) is not None:
        console.print(Text(show.track_record(record), style="dim"))
