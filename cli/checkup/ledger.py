"""Everything that the doctor asks of PostgreSQL, in one connection."""

import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, LiteralString

if TYPE_CHECKING:
    import psycopg

_CONNECT_SECONDS = 3
# Of a statement. Nothing here takes a millisecond unless the server is in trouble.
_OPTIONS = "-c statement_timeout=3000 -c lock_timeout=1000 -c default_transaction_read_only=on -c timezone=UTC"
_KEY_ID = re.compile(r"bsh_([0-9a-z]{12})_")
_TENANT_ROLE = "bushel_tenant"

_SERVER = """
    SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS version,
        current_setting('server_encoding') AS encoding, current_user AS user, current_database() AS database,
        pg_is_in_recovery() AS is_standby, current_setting('fsync') = 'on' AS is_durable,
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most,
        EXISTS (SELECT 1 FROM pg_roles WHERE rolname = %(role)s) AS has_role
"""
_MEMBER = "SELECT pg_has_role(current_user, %s, 'MEMBER')"
_WALLS = """
    SELECT count(*) FILTER (WHERE NOT relrowsecurity) FROM pg_class
    WHERE relkind = 'r' AND oid IN (SELECT polrelid FROM pg_policy)
"""
_WORKERS = """
    SELECT id, version, device, models, loaded, unavailable, heartbeat_at > now() - interval '30 seconds' AS is_alive,
        extract(epoch FROM now() - heartbeat_at)::float8 AS silent_seconds
    FROM workers ORDER BY id
"""
_KEY = """
    SELECT tenants.name AS tenant, api_keys.name, scopes, expires_at, revoked_at FROM api_keys
    JOIN tenants ON tenants.id = api_keys.tenant_id WHERE api_keys.id = %s
"""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker by its own last words. Without models it reads inputs and writes results."""

    id: str
    version: str
    device: str
    models: tuple[str, ...]
    loaded: tuple[str, ...]
    unavailable: dict[str, str]
    is_alive: bool
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What the ledger knows of the key at hand."""

    tenant: str
    name: str
    scopes: tuple[str, ...]
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """`revision` is None in a database without a schema; `workers` and `key` are where their tables cannot be read."""

    version_number: int
    version: str
    encoding: str
    user: str
    database: str
    is_standby: bool
    is_durable: bool
    connections: int
    most_connections: int
    has_role: bool
    may_take_role: bool
    open_tables: int
    ahead_seconds: float
    revision: str | None
    workers: tuple[Worker, ...] | None
    key: KeyRow | None


def look(url: str, api_key: str | None) -> Ledger:
    """psycopg.Error when it cannot be reached or refuses; ModuleNotFoundError where psycopg is not installed."""
    import psycopg
    from psycopg.rows import dict_row

    plain = re.sub(r"^postgres(ql)?(\+psycopg)?://", "postgresql://", url)
    with psycopg.connect(
        plain,
        connect_timeout=_CONNECT_SECONDS,
        options=_OPTIONS,
        application_name="bushel-doctor",
        autocommit=True,
        row_factory=dict_row,
    ) as connection:
        server = connection.execute(_SERVER, {"role": _TENANT_ROLE}).fetchone()
        assert server is not None
        may_take = server["has_role"] and bool(_rows(connection, _MEMBER, _TENANT_ROLE)[0]["pg_has_role"])
        revisions = _known_rows(connection, "SELECT version_num FROM alembic_version")
        workers = _known_rows(connection, _WORKERS)
        found = _KEY_ID.match(api_key or "")
        keys = _known_rows(connection, _KEY, found[1]) if found else None
        return Ledger(
            version_number=server["number"],
            version=server["version"].split()[0],
            encoding=server["encoding"],
            user=server["user"],
            database=server["database"],
            is_standby=server["is_standby"],
            is_durable=server["is_durable"],
            connections=server["connections"],
            most_connections=server["most"],
            has_role=server["has_role"],
            may_take_role=may_take,
            open_tables=_rows(connection, _WALLS)[0]["count"],
            ahead_seconds=_ahead(connection),
            revision=revisions[0]["version_num"] if revisions else None,
            workers=None if workers is None else tuple(map(_worker, workers)),
            key=_key(keys[0]) if keys else None,
        )


def _ahead(connection: "psycopg.Connection[dict[str, Any]]") -> float:
    """How far the server's clock is before ours. The best of three: an answer that came late says less."""
    found: list[tuple[float, float]] = []
    for _ in range(3):
        before = time.time()
        there = _rows(connection, "SELECT extract(epoch FROM clock_timestamp())::float8 AS at")[0]["at"]
        after = time.time()
        found.append((after - before, there - (before + after) / 2))
    return min(found)[1]


def _known_rows(
    connection: "psycopg.Connection[dict[str, Any]]", query: LiteralString, *values: object
) -> list[dict[str, Any]] | None:
    """None where the schema has no such table or column yet, or the role may not read it."""
    import psycopg

    try:
        return _rows(connection, query, *values)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InsufficientPrivilege):
        return None


def _rows(
    connection: "psycopg.Connection[dict[str, Any]]", query: LiteralString, *values: object
) -> list[dict[str, Any]]:
    return connection.execute(query, values).fetchall()


def _worker(row: dict[str, Any]) -> Worker:
    return Worker(
        row["id"],
        row["version"],
        row["device"],
        tuple(row["models"]),
        tuple(row["loaded"]),
        dict(row["unavailable"]),
        row["is_alive"],
        row["silent_seconds"],
    )


def _key(row: dict[str, Any]) -> KeyRow:
    return KeyRow(row["tenant"], row["name"], tuple(row["scopes"]), row["expires_at"], row["revoked_at"])
