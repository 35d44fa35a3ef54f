"""What checks import, imported before they begin: in several threads at once the halves of a package can meet."""

import importlib

from cli.checkup.scene import Kind

_OF_ALL = ("httpx", "cli.checkup.answers")
_OF_SERVERS = ("psycopg", "redis", "api.config", "workers.config", "alembic.script", "migrations", "fsspec", "psutil")


def load(kind: Kind) -> None:
    """As far as they are installed; a check that lacks one says so."""
    for name in (*_OF_ALL, *(() if kind is Kind.CLIENT else _OF_SERVERS)):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
