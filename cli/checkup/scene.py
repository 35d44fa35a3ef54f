"""What is examined: which kind of installation this is, and where its parts are."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

from cli.access import DEFAULT_URL, Target, find_access
from cli.checkup.answers import Answers, ask
from cli.checkup.ledger import Ledger, look
from cli.checkup.once import Once
from cli.errors import WrongUsage
from cli.local import Access
from db import safeguards, secret_files
from db.errors import ConfigError

_SHORTEST_SECRET = 4
# Of the time of a check, what an answer of the API may take. It may want four; mostly the first one is there or none.
_SHARE = 0.3
AS_OWNER = "run this as the user who runs `bushel up`"


class Kind(StrEnum):
    """What a machine is for."""

    STACK = "bushel up"
    DEPLOYMENT = "deployment"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Scene:
    """Addresses are None where there is nothing yet, or no setting says; `unreadable` has what is wrong there."""

    kind: Kind
    data: Path
    environment: Mapping[str, str]
    access: Access
    # The user, or `bushel up`, has said where the API is; else it is only the usual place.
    is_url_known: bool
    database_url: str | None
    broker_url: str | None
    operator_url: str | None
    unreadable: tuple[str, ...]
    ledger: Once[Ledger]
    answers: Once[Answers]
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def has_started(self) -> bool:
        """Whether a `bushel up` has ever worked in the data folder."""
        return self.database_url is not None or os.path.lexists(self.data / "bushel.lock") or _is_closed(self.data)

    def start_advice(self, part: str) -> str:
        """What to do about a part of a `bushel up` that does not answer."""
        from cli.stack.lock import holder

        try:
            pid = holder(self.data)
        except PermissionError:
            return AS_OWNER
        if pid is None:
            return f"start it: bushel up --data {self.data}"
        return f"`bushel up` runs, and may be starting it; what it says: bushel logs --part {part} --data {self.data}"


class NoDatabase(Exception):
    """There is no address to look at."""


def survey(target: Target, environment: Mapping[str, str], seconds: float) -> Scene:
    """Look around. Whatever cannot be read is in `unreadable`, each with what to do. A check has `seconds`."""
    data = target.data.absolute()
    unreadable: list[str] = []
    kind = _kind(target, data, environment)
    access, is_known = _access(target, environment, unreadable)
    database, broker, operator = _addresses(kind, data, environment, unreadable)

    def ledger() -> Ledger:
        if database is None:
            raise NoDatabase
        return look(database, access.api_key)

    return Scene(
        kind=kind,
        data=data,
        environment=environment,
        access=access,
        is_url_known=is_known,
        database_url=database,
        broker_url=broker,
        operator_url=operator,
        unreadable=tuple(unreadable),
        ledger=Once(ledger),
        answers=Once(lambda: ask(access.url, access.api_key, _SHARE * seconds)),
        secrets=tuple(_secrets(database, broker, operator, access, environment)),
    )


def _kind(target: Target, data: Path, environment: Mapping[str, str]) -> Kind:
    names = ("BUSHEL_DATABASE_URL", "BUSHEL_BROKER_URL")
    if any(environment.get(name) or environment.get(f"{name}_FILE") for name in names):
        return Kind.DEPLOYMENT
    if target.url or sys.platform == "win32":
        return Kind.CLIENT
    if any(map(os.path.lexists, (data / "postgres", data / "bushel.lock"))) or _is_closed(data):
        return Kind.STACK
    is_elsewhere = environment.get("BUSHEL_URL") or os.path.lexists(data / "client.json")
    return Kind.CLIENT if is_elsewhere or importlib.util.find_spec("psycopg") is None else Kind.STACK


def _is_closed(data: Path) -> bool:
    """A folder that is there and that we may not enter is most likely that of a `bushel up` of another user."""
    return os.path.isdir(data) and not os.access(data, os.X_OK)


def _access(target: Target, environment: Mapping[str, str], unreadable: list[str]) -> tuple[Access, bool]:
    try:
        access = find_access(target.url, target.data, environment)
    except WrongUsage as exc:
        unreadable.append(str(exc))
        access = Access(target.url or environment.get("BUSHEL_URL") or DEFAULT_URL)
    return access, bool(target.url or environment.get("BUSHEL_URL") or access.url != DEFAULT_URL)


def _addresses(
    kind: Kind, data: Path, environment: Mapping[str, str], unreadable: list[str]
) -> tuple[str | None, str | None, str | None]:
    """Of the database and of the broker, for the service and for its operator."""
    if kind is Kind.DEPLOYMENT:
        database, broker = (_setting(name, environment, unreadable) for name in ("DATABASE_URL", "BROKER_URL"))
        return database, broker, None
    if kind is Kind.CLIENT:
        return None, None, None
    from cli.stack import postgres, valkey
    from cli.stack.errors import StackError

    try:
        found = valkey.urls_of_existing(data / "valkey") or (None, None)
        return (postgres.url_of_existing(data / "postgres"), *found)
    except (OSError, StackError) as exc:
        unreadable.append(f"{exc}; {AS_OWNER}")
        return None, None, None


def _setting(name: str, environment: Mapping[str, str], unreadable: list[str]) -> str | None:
    try:
        return secret_files.setting(f"BUSHEL_{name}", environment)
    except ConfigError as exc:
        unreadable.append(str(exc))
        return None


def _secrets(*places: object) -> list[str]:
    """Passwords and keys, as they are and as URLs spell them."""
    found: set[str] = set()
    for place in places:
        if isinstance(place, Access) and place.api_key:
            found.add(place.api_key)
        elif isinstance(place, Mapping):
            found.update(password for value in place.values() for password in _passwords(str(value)))
        elif isinstance(place, str):
            found.update(_passwords(place))
    spelled = found | {quote(secret, safe="") for secret in found}
    return sorted((secret for secret in spelled if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)


def _passwords(text: str) -> list[str]:
    if "://" not in text:
        return []
    try:
        return list(safeguards.passwords(text))
    except ValueError:
        # No URL; what of it looks like a password is hidden by its place.
        return []
