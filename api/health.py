"""Is the process alive, and can it serve? For load balancers and people, without a key."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from kombu.connection import Connection
from kombu.exceptions import OperationalError as BrokerError
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

import migrations
from api.errors import SERVER, body
from api.services import Services, services
from api.wire import answer
from db.workers import ALIVE_SECONDS

logger = logging.getLogger(__name__)

tag = Tag(name="health", description="For load balancers and monitoring; no key needed.")
bp = APIBlueprint("health", __name__, abp_tags=[tag])

_BROKER_SECONDS = 1.0
# The schema changes once a release; asking costs a connection of its own.
_MIGRATIONS_SECONDS = 30.0


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class HealthCheck(BaseModel):
    """`required` checks decide about readiness; the others are told because they explain what one sees."""

    ok: bool
    required: bool
    message: str


class Readiness(BaseModel):
    """Whether requests can be served. `missing` names the required checks that fail."""

    status: Literal["ready", "not_ready"]
    missing: list[str]
    checks: dict[str, HealthCheck] = Field(description="database, migrations, store, disk, broker, workers")


class NotReady(Readiness):
    """The same, with an `error` as every answer of 400 or more has it."""

    error: dict[str, Any]


@bp.get("/healthz", endpoint="healthz", operation_id="healthz", responses={200: Alive}, security=[{}])
def healthz() -> Response:
    """Is the process alive

    Asks nothing else; a database that is down is no reason to restart the API.
    """
    return answer(Alive())


@bp.get("/readyz", endpoint="readyz", operation_id="readyz", responses={200: Readiness, 503: NotReady}, security=[{}])
def readyz() -> Response:
    """Can requests be served

    Database, schema and file store are required. Without the broker the API works on: jobs are taken in, and workers
    find them by themselves a little later. Without workers jobs are taken in and wait.
    """
    checks = examine(services())
    missing = [name for name, check in checks.items() if check.required and not check.ok]
    if not missing:
        return answer(Readiness(status="ready", missing=[], checks=checks))
    message = "not ready: " + "; ".join(f"{name}: {checks[name].message}" for name in missing)
    error = body(message, SERVER, "not_ready")["error"]
    return answer(NotReady(status="not_ready", missing=missing, checks=checks, error=error), 503)


def examine(service: Services) -> dict[str, HealthCheck]:
    return {
        "database": _required(lambda: _database(service)),
        "migrations": _required(lambda: _migrations(service.settings.database_url)),
        "store": _required(lambda: _store(service)),
        "disk": _required(lambda: _disk(service)),
        "broker": _reported(lambda: _broker(service.settings.broker_url)),
        "workers": _reported(lambda: _workers(service)),
    }


class _Unwell(Exception):
    """A check that fails, with the sentence that says why."""


def _required(check: Callable[[], str]) -> HealthCheck:
    return _checked(check, required=True)


def _reported(check: Callable[[], str]) -> HealthCheck:
    return _checked(check, required=False)


def _checked(check: Callable[[], str], required: bool) -> HealthCheck:
    try:
        return HealthCheck(ok=True, required=required, message=check())
    except _Unwell as exc:
        return HealthCheck(ok=False, required=required, message=str(exc))
    except SQLAlchemyError as exc:
        logger.warning("readiness: %s", exc, extra={"action": "not_ready"})
        return HealthCheck(ok=False, required=required, message="the database cannot be reached or is busy")


def _database(service: Services) -> str:
    with service.sessions() as session:
        version = session.execute(text("SHOW server_version")).scalar_one()
    return f"PostgreSQL {version}"


_migrations_lock = threading.Lock()
_migrated: dict[str, float] = {}


def _migrations(database_url: str) -> str:
    with _migrations_lock:
        if time.monotonic() - _migrated.get(database_url, -_MIGRATIONS_SECONDS) < _MIGRATIONS_SECONDS:
            return "up to date"
    pending = migrations.pending(database_url)
    if pending:
        raise _Unwell(f"{len(pending)} migrations are missing ({', '.join(pending)}); run `python -m migrations`")
    with _migrations_lock:
        _migrated[database_url] = time.monotonic()
    return "up to date"


def _store(service: Services) -> str:
    try:
        service.store.check()
    # Backends of the store have exceptions of their own, and all of them mean the same here.
    except Exception as exc:
        logger.warning("the file store cannot be written: %s", exc, extra={"action": "not_ready"})
        raise _Unwell("the file store cannot be written") from exc
    return "writable"


def _disk(service: Services) -> str:
    settings = service.settings
    try:
        rooms = service.disks.rooms()
    except OSError as exc:
        raise _Unwell("the file store's folder cannot be looked at") from exc
    free = min((room.free for room in rooms), default=None)
    if free is None:
        return "neither the file store nor the database is on a disk that is seen from here"
    told = ", ".join(f"{room.what}: {room.free:,} bytes free" for room in rooms)
    if free < settings.pause_free_bytes and free < settings.min_free_bytes:
        raise _Unwell(f"{told}; workers pause below {settings.pause_free_bytes:,} (BUSHEL_PAUSE_FREE_BYTES)")
    if free < settings.min_free_bytes:
        raise _Unwell(f"{told}; uploads and jobs are refused below {settings.min_free_bytes:,} (BUSHEL_MIN_FREE_BYTES)")
    return told


def _broker(broker_url: str) -> str:
    timeouts = {"socket_timeout": _BROKER_SECONDS, "socket_connect_timeout": _BROKER_SECONDS}
    connection = Connection(broker_url, transport_options=timeouts)  # type: ignore[no-untyped-call]
    try:
        # Not `connect`, which waits two seconds before its second try.
        connection.ensure_connection(  # type: ignore[no-untyped-call]
            max_retries=1, interval_start=0, interval_max=0, timeout=_BROKER_SECONDS
        )
    except (BrokerError, OSError, *connection.connection_errors) as exc:
        raise _Unwell("unreachable; workers find new jobs by themselves, only later") from exc
    finally:
        connection.release()  # type: ignore[no-untyped-call]
    return "reachable"


def _workers(service: Services) -> str:
    with service.sessions() as session:
        row = session.execute(
            text("""
                SELECT count(*) AS live, count(*) FILTER (WHERE models <> '[]') AS for_models FROM workers
                WHERE heartbeat_at > now() - :alive * interval '1 second'
            """),
            {"alive": ALIVE_SECONDS},
        ).one()
    if not row.live:
        raise _Unwell("no worker is running; jobs wait")
    if not row.for_models:
        raise _Unwell("no running worker serves a model; jobs are checked and then wait")
    return f"{row.live} running, {row.for_models} of them serve models"
