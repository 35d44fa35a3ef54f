"""Which server a command talks to, with which key."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from cli.errors import WrongUsage
from cli.local import Access, read_access
from db import secret_files
from db.errors import ConfigError

if TYPE_CHECKING:
    from cli.client import Client

DEFAULT_URL = "http://127.0.0.1:8765"


@dataclass(frozen=True, slots=True)
class Target:
    """What the options before the command's name say."""

    url: str | None
    data: Path
    # Said on the command line, and not by the environment or by nobody.
    is_data_said: bool = False

    @classmethod
    def of(cls, root: click.Context) -> "Target":
        """As the context of `bushel` itself has it."""
        is_said = root.get_parameter_source("data") is ParameterSource.COMMANDLINE
        data = root.params.get("data") or Path(".bushel")
        return cls(root.params.get("url"), data.expanduser(), is_said)

    def client(self, is_patient: bool = True) -> "Client":
        # The library that talks HTTP takes longer to import than all the rest of what --help needs.
        from cli.client import Client

        access = find_access(self.url, self.data, os.environ, self.is_data_said)
        return Client(access.url, access.api_key, is_patient=is_patient)


def find_access(url: str | None, data: Path, environment: Mapping[str, str], is_data_said: bool = False) -> Access:
    """`--url`, then BUSHEL_URL, then what `bushel up` left in the data folder, then its default address.

    The key is BUSHEL_API_KEY, or in the file BUSHEL_API_KEY_FILE, or the data folder's; the latter only for the server
    it was made for, so that pointing the command at another server sends it no key of this one.
    """
    try:
        local = read_access(data)
    except ValueError as exc:
        raise WrongUsage(str(exc)) from exc
    if local is None and is_data_said and not url and not environment.get("BUSHEL_URL"):
        raise WrongUsage(f"{data} has no client.json: no `bushel up` has run on it; name its folder, or --url")
    chosen = _with_scheme(url or environment.get("BUSHEL_URL") or (local.url if local else DEFAULT_URL))
    try:
        key = secret_files.setting("BUSHEL_API_KEY", environment)
    except ConfigError as exc:
        raise WrongUsage(str(exc)) from exc
    if not key and local is not None and local.url.rstrip("/") == chosen.rstrip("/"):
        key = local.api_key
    return Access(chosen, key or None)


def _with_scheme(url: str) -> str:
    """
    >>> _with_scheme("localhost:8765"), _with_scheme("https://bushel.example")
    ('http://localhost:8765', 'https://bushel.example')
    """
    return url if "://" in url else f"http://{url}"
