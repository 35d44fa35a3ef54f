"""`bushel usage`: what was used, as the server tells its tenant, or of all tenants from the database itself."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import click
from rich.table import Table

from cli import show, wire
from cli.access import Target
from cli.errors import WrongUsage

_GROUPS = ("day", "model", "task")
_AMOUNTS = ("succeeded", "failed", "input_tokens", "output_tokens", "total_tokens", "device_seconds", "joules")


@click.command()
@click.option(
    "--from", "first", metavar="DAY", help="First day, as 2026-11-24 (UTC). Default: 29 days before the last."
)
@click.option("--to", "last", metavar="DAY", help="Last day, itself included. Default: today.")
@click.option(
    "--by",
    default="day",
    show_default=True,
    metavar="GROUPS",
    help="Any of day, model and task, with commas between them, and tenant with --all-tenants; '' is the total alone.",
)
@click.option("--all-tenants", is_flag=True, help="Of all tenants, directly from the database, as `bushel quotas`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, without the total.")
@click.pass_obj
def usage(
    target: Target, first: str | None, last: str | None, by: str, all_tenants: bool, as_json: bool, as_csv: bool
) -> None:
    """Show what was used: items, tokens and time on devices, of jobs that were deleted too.

    \b
    Last month, model by model:
      bushel usage --from 2026-10-01 --to 2026-10-31 --by model
    """
    if as_json and as_csv:
        raise WrongUsage("--json and --csv are two forms of the same; choose one")
    groups = _groups(by, all_tenants)
    if all_tenants:
        found = _of_all(target, first, last, groups)
    else:
        wanted = {"from": first, "to": last, "group_by": ",".join(groups)}
        with target.client() as client:
            found = client.usage({name: value for name, value in wanted.items() if value is not None})
    if as_json:
        show.print_json(found)
    elif as_csv:
        click.echo(_csv(found, groups), nl=False)
    else:
        _print(found, groups)


def _groups(by: str, all_tenants: bool) -> list[str]:
    """
    >>> _groups("task, day", False), _groups("", True)
    (['day', 'task'], [])
    """
    known = ("tenant", *_GROUPS) if all_tenants else _GROUPS
    names = [name.strip() for name in by.split(",") if name.strip()]
    if "tenant" in names and not all_tenants:
        raise WrongUsage("--by tenant needs --all-tenants: a key is told only of its own tenant")
    if unknown := [name for name in names if name not in known]:
        raise WrongUsage(f"--by takes {', '.join(known)}, with commas between them, not {unknown[0]!r}")
    return [name for name in known if name in names]


def _of_all(target: Target, first: str | None, last: str | None, groups: Sequence[str]) -> wire.JSON:
    """In the form the server answers in."""
    from cli.keys import session
    from db.usage import USUAL_DAYS, Dimension, total, used

    until = _day(last, "--to") or datetime.now(UTC).date()
    since = _day(first, "--from") or until - timedelta(days=USUAL_DAYS - 1)
    if since > until:
        raise WrongUsage(f"--from ({since}) is after --to ({until})")
    with session(target) as ledger:
        rows = used(ledger, None, since, until, [Dimension(name) for name in groups])
    data = [
        {
            "tenant": row.tenant,
            "day": None if row.day is None else str(row.day),
            "model": row.model,
            "task": row.task,
            **row.amounts.shown(),
        }
        for row in rows
    ]
    return {
        "object": "usage",
        "from": str(since),
        "to": str(until),
        "group_by": list(groups),
        "data": data,
        "total": total(rows).shown(),
    }


def _day(said: str | None, option: str) -> date | None:
    if said is None:
        return None
    try:
        return datetime.strptime(said, "%Y-%m-%d").date()
    except ValueError as exc:
        raise WrongUsage(f"{option} must be a day, as 2026-11-24, not {said!r}") from exc


def _csv(found: wire.JSON, groups: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (*groups, *_AMOUNTS)
    writer.writerow(names)
    writer.writerows([row.get(name) for name in names] for row in wire.objects(found.get("data")))
    return text.getvalue()


def _print(found: wire.JSON, groups: Sequence[str]) -> None:
    rows, total = wire.objects(found.get("data")), wire.objects([found.get("total")])
    has_energy = any(row.get("joules") is not None for row in total)
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    for name in groups:
        table.add_column(name, no_wrap=True, footer="total" if name == groups[0] else "")
    cells = [_cells(row, has_energy) for row in total]
    titles = ("succeeded", "failed", "tokens in", "tokens out", "device time", *(["energy"] if has_energy else []))
    for title, sum_ in zip(titles, cells[0] if cells else [""] * len(titles), strict=True):
        table.add_column(title, justify="right", no_wrap=True, footer=sum_)
    for row in rows if groups else []:
        table.add_row(*(str(row.get(name)) for name in groups), *_cells(row, has_energy))
    show.put(show.stdout(), table)
    click.echo(f"{found.get('from')} to {found.get('to')}, days of UTC", err=True)


def _cells(row: wire.JSON, has_energy: bool) -> list[str]:
    counts = [f"{row.get(name) or 0:,}" for name in ("succeeded", "failed", "input_tokens", "output_tokens")]
    seconds, joules = row.get("device_seconds"), row.get("joules")
    taken = [f"{seconds:,.1f} s" if isinstance(seconds, int | float) else ""]
    if has_energy:
        taken.append(f"{joules:,.0f} J" if isinstance(joules, int | float) else "")
    return counts + taken
