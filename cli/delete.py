"""`bushel delete`: forget jobs that have ended."""

import click

from cli.access import Target
from cli.options import as_job, offer_jobs


@click.command()
@click.argument("job_ids", type=as_job, shell_complete=offer_jobs, metavar="JOB…", nargs=-1, required=True)
@click.pass_obj
def delete(target: Target, job_ids: tuple[str, ...]) -> None:
    """Delete one or more jobs that have ended, with their inputs, results and result files.

    A job that still runs is refused; `bushel cancel` ends it.
    """
    with target.client() as client:
        for job_id in job_ids:
            client.delete_job(job_id)
            click.echo(f"{job_id} deleted", err=True)
