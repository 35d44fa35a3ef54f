"""`bushel resume`: let a paused job go on."""

import click

from cli import show
from cli.access import Target
from cli.options import as_job, offer_jobs


@click.command()
@click.argument("job_ids", type=as_job, shell_complete=offer_jobs, metavar="JOB…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON.")
@click.pass_obj
def resume(target: Target, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Resume one or more paused jobs."""
    with target.client() as client:
        for job_id in job_ids:
            show.said(client.resume(job_id), as_json)
