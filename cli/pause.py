"""`bushel pause`: let nothing more of a job start."""

import click

from cli import show
from cli.access import Target
from cli.options import as_job, offer_jobs


@click.command()
@click.argument("job_ids", type=as_job, shell_complete=offer_jobs, metavar="JOB…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON.")
@click.pass_obj
def pause(target: Target, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Pause one or more jobs. What runs is finished; `bushel resume` starts the rest. A window goes on meanwhile."""
    with target.client() as client:
        for job_id in job_ids:
            show.said(client.pause(job_id), as_json)
