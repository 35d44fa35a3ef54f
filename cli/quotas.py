"""`bushel quotas`: how much a tenant may have, directly in the database, because it is the operator's to say."""

from typing import TYPE_CHECKING

import click
from rich.table import Table

from cli import show as shown
from cli.access import Target
from cli.errors import WrongUsage
from cli.keys import session

if TYPE_CHECKING:
    from db.quotas import Amounts, Limits

_NAMES = ("open_jobs", "queued_items", "queued_tokens", "stored_bytes", "requests_per_second")
_MOST = 2**62


@click.group()
def quotas() -> None:
    """Show and set how much a tenant may have at once.

    Speaks to the database itself, as `bushel keys` does.
    """


@quotas.command()
@click.argument("tenant")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def show(target: Target, tenant: str, as_json: bool) -> None:
    """Show what a tenant may have, and what it has."""
    from db.quotas import of_tenant

    with session(target) as ledger:
        limits, used = of_tenant(ledger, tenant)
    _print(limits, used, as_json)


@quotas.command("set")
@click.argument("tenant")
@click.argument("wanted", metavar="QUOTA=LIMIT…", nargs=-1, required=True)
@click.pass_obj
def set_(target: Target, tenant: str, wanted: tuple[str, ...]) -> None:
    """Set limits: a number, `unlimited`, or `default` for what the service's settings say.

    \b
    QUOTA is open_jobs, queued_items, queued_tokens, stored_bytes or
    requests_per_second: bushel quotas set acme open_jobs=20 stored_bytes=default
    """
    from db.quotas import Quota, of_tenant, set_limits

    limits = {Quota(name): most for name, most in map(_parsed, wanted)}
    with session(target) as ledger:
        set_limits(ledger, tenant, limits)
        now, used = of_tenant(ledger, tenant)
    _print(now, used, as_json=False)


def _parsed(word: str) -> tuple[str, int | None]:
    """
    >>> _parsed("open_jobs=20"), _parsed("queued_items=default")
    (('open_jobs', 20), ('queued_items', None))
    """
    from db.quotas import UNLIMITED

    name, _, value = word.partition("=")
    if name not in _NAMES:
        raise WrongUsage(f"there is no quota {name!r}; there are {', '.join(_NAMES)}, as in open_jobs=20")
    if value in ("default", "unlimited"):
        return name, None if value == "default" else UNLIMITED
    least = 1 if name == "requests_per_second" else 0
    if not (value.isascii() and value.isdigit() and least <= int(value) <= _MOST):
        raise WrongUsage(f"{name} must be a whole number from {least}, `unlimited` or `default`, not {value!r}")
    return name, int(value)


def _print(limits: "Limits", used: "Amounts", as_json: bool) -> None:
    rows = [(name, getattr(limits, name), getattr(used, name, None)) for name in _NAMES]
    if as_json:
        shown.print_json({name: {"limit": _word(limit), "used": amount} for name, limit, amount in rows})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("quota")
    for column in ("limit", "used"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, limit, amount in rows:
        word = _word(limit)
        table.add_row(name, f"{word:,}" if isinstance(word, int) else word, "" if amount is None else f"{amount:,}")
    shown.stdout().print(table)


def _word(limit: int | None) -> int | str:
    from db.quotas import UNLIMITED

    if limit is None:
        return "default"
    return "unlimited" if limit == UNLIMITED else limit
