"""`bushel keys`: API keys, directly in the database, because without a first key nobody could ask the API for one."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click
from rich.table import Table

from cli import show
from cli.access import Target, find_access
from cli.errors import CLIError, WrongUsage
from cli.local import Access, write_access

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.keys import KeyInfo


@click.group()
def keys() -> None:
    """Create, list, rotate and revoke API keys.

    Speaks to the database itself: that of BUSHEL_DATABASE_URL, or of the `bushel up` running on --data.
    """


@keys.command()
@click.option("--tenant", default="default", show_default=True, help="Made if there is none of this name.")
@click.option("--name", default="key", show_default=True, help="For you, to tell keys apart.")
@click.option("--days", type=click.IntRange(1), help="Let the key expire. Default: never.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["read", "submit", "admin"]),
    default=("read", "submit"),
    show_default=True,
    help="What the key is for; say it again for more. admin: the tenant's keys and audit log.",
)
@click.option("--save", is_flag=True, help="Also keep it in client.json of --data, for the command line here.")
@click.pass_obj
def create(target: Target, tenant: str, name: str, days: int | None, scopes: tuple[str, ...], save: bool) -> None:
    """Make a key and print it. It is never shown again."""
    from db.keys import Scope, create_key

    # Asked first: a key that is made and then cannot be kept is lost to the script that wanted it kept.
    known = find_access(target.url, target.data, {}) if save else None
    with session(target) as ledger:
        key = create_key(ledger, tenant, name, timedelta(days=days) if days else None, [Scope(each) for each in scopes])
    click.echo(key)
    kept = f"; kept in {write_access(target.data, Access(known.url, key))} (mode 0600)" if known else ""
    click.echo(f"shown once; the database has only its hash{kept}", err=True)


@keys.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(target: Target, tenant: str | None, as_json: bool) -> None:
    """List keys, without their secrets."""
    from db.keys import list_keys

    with session(target) as ledger:
        found = list_keys(ledger, tenant)
    if as_json:
        show.print_json([_as_json(key) for key in found])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "tenant", "name", "scopes", "created", "expires", "revoked", "last used"):
        table.add_column(column, no_wrap=True)
    for key in found:
        times = (key.created_at, key.expires_at, key.revoked_at, key.last_used_at)
        scopes = " ".join(key.scopes)
        table.add_row(key.id, key.tenant, key.name, scopes, *(show.moment(_unix(time)) for time in times))
    show.stdout().print(table)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option(
    "--grace-hours",
    type=click.FloatRange(0),
    default=24.0,
    show_default=True,
    help="How long the old secret opens beside the new one. 0: it ends at once.",
)
@click.pass_obj
def rotate(target: Target, key_id: str, grace_hours: float) -> None:
    """Give a key a new secret and print it. It is never shown again.

    Id, name, scopes and expiry stay.
    """
    from db.keys import rotate_key

    with session(target) as ledger:
        key = rotate_key(ledger, key_id, timedelta(hours=grace_hours))
    click.echo(key)
    ends = f"opens for {grace_hours:g} h more" if grace_hours else "opens nothing any more"
    click.echo(f"shown once; the old secret {ends}", err=True)


@keys.command()
@click.argument("key_ids", metavar="ID…", nargs=-1, required=True)
@click.pass_obj
def revoke(target: Target, key_ids: tuple[str, ...]) -> None:
    """End keys at once."""
    from db.keys import revoke_key

    with session(target) as ledger:
        for key_id in key_ids:
            revoke_key(ledger, key_id)
    click.echo(f"{len(key_ids)} revoked", err=True)


def _as_json(key: "KeyInfo") -> dict[str, object]:
    names = ("id", "tenant", "name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at")
    return {
        name: _unix(value) if isinstance(value := getattr(key, name), datetime) else value
        for name in (*names, "previous_expires_at")
    }


def _unix(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


@contextmanager
def session(target: Target) -> "Iterator[Session]":
    """A transaction on the ledger; what the database says against it is one line."""
    try:
        from sqlalchemy.exc import SQLAlchemyError

        from db.errors import LedgerError
        from db.session import connect, sessions
    except ModuleNotFoundError as exc:
        raise WrongUsage(f"`bushel keys` needs {exc.name}: pip install 'bushel[ledger]'") from exc
    try:
        url = database_url(target)
    except LedgerError as exc:
        raise WrongUsage(str(exc)) from exc
    engine = connect(url, pool=2, application="bushel-keys")
    try:
        with sessions(engine).begin() as ledger:
            yield ledger
    except LedgerError as exc:
        raise WrongUsage(str(exc)) from exc
    except SQLAlchemyError as exc:
        reason = str(getattr(exc, "orig", None) or exc).strip().splitlines()[0]
        raise CLIError(f"the database says: {reason}") from exc
    finally:
        engine.dispose()


def database_url(target: Target) -> str:
    from db import secret_files

    if url := secret_files.setting("BUSHEL_DATABASE_URL", os.environ):
        return url
    data = target.data.absolute()
    if sys.platform == "win32" or not (data / "postgres" / "data").exists():
        raise WrongUsage(f"there is no database in {data}; set BUSHEL_DATABASE_URL, or --data, or run `bushel up`")
    from cli.stack.postgres import Postgres

    return Postgres(data / "postgres").url
