"""`bushel retry`: run again what did not succeed."""

import click

from cli.access import Target
from cli.again import again_options, present, said
from cli.options import as_job, offer_jobs, said_in_options


@click.command()
@click.argument("job_id", type=as_job, shell_complete=offer_jobs, metavar="JOB")
@again_options
@click.pass_obj
def retry(
    target: Target,
    job_id: str,
    priority: int | None,
    completion_window: str | None,
    metadata: tuple[str, ...],
    watched: bool,
    waited: bool,
    as_json: bool,
) -> None:
    """Make a job of those items of JOB that failed, expired or were cancelled, and print its id.

    JOB must have ended, and stays as it is; the new job has only those items. Their ids and lines are the same.
    """
    body = said(priority, completion_window, metadata)
    with target.client() as client, said_in_options():
        present(client, client.retry(job_id, body), watched, waited, as_json)
