"""`bushel audit-log`: who did what in all tenants, directly from the database."""

import click
from rich.table import Table

from cli import show
from cli.access import Target
from cli.keys import session


@click.command("audit-log")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Most entries to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def audit_log(target: Target, tenant: str | None, limit: int, as_json: bool) -> None:
    """Show who did what: keys, quotas, webhooks, deletions, and requests whose key lacked the scope.

    Newest first. Speaks to the database itself, as `bushel keys` does. Not to be mistaken for `bushel audit`, which
    counts the rows of a job.
    """
    from db.audit_log import latest

    with session(target) as ledger:
        found = latest(ledger, limit, tenant)
    if as_json:
        show.print_json(
            [
                {
                    "at": told.entry.created_at.timestamp(),
                    "tenant": told.tenant,
                    "actor": told.entry.actor,
                    "action": told.entry.action,
                    "target": told.entry.object,
                    "detail": told.entry.detail,
                    "request_id": told.entry.request_id,
                    "address": told.entry.address,
                }
                for told in found
            ]
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("at", "tenant", "actor", "action", "target", "address"):
        table.add_column(column, no_wrap=True)
    for told in found:
        entry = told.entry
        at = show.moment(entry.created_at.timestamp())
        table.add_row(at, told.tenant, entry.actor, entry.action, entry.object, entry.address or "")
    show.stdout().print(table)
