"""`bushel audit`: whether the server's books on a job add up."""

import click
from rich.table import Table

from cli import show
from cli.access import Target
from cli.exits import Exit
from cli.options import as_job, offer_jobs


@click.command()
@click.argument("job_id", type=as_job, shell_complete=offer_jobs, metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print the audit as JSON.")
@click.pass_obj
def audit(target: Target, job_id: str, as_json: bool) -> None:
    """Check that JOB has lost nothing and done nothing twice. Exit code 1 if a check fails."""
    with target.client() as client:
        found = client.audit(job_id)
    if as_json:
        show.print_json(found)
    else:
        show.stdout().print(_table(found.get("checks")))
        click.echo(f"{job_id}: {'everything adds up' if found.get('ok') else 'something does not add up'}", err=True)
    raise click.exceptions.Exit(Exit.OK if found.get("ok") else Exit.FAILED)


def _table(checks: object) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("check", "", "expected", "found"):
        table.add_column(column)
    for check in checks if isinstance(checks, list) else []:
        said = "ok" if check.get("ok") else "FAILED"
        # What agrees need not be read.
        values = ("", "") if check.get("ok") else (_line(check.get("expected")), _line(check.get("found")))
        table.add_row(str(check.get("name")), said, *values)
    return table


def _line(value: object) -> str:
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)
