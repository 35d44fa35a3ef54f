"""What tests of several folders share: a real PostgreSQL, a fresh database for each test, and the API over HTTP."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy.engine import make_url
from werkzeug.serving import make_server

import migrations
from api.app import BushelAPI, create_app
from api.config import APISettings
from cli.stack.postgres import Postgres
from db import keys
from db.doorbell import RecordingDoorbell
from db.session import Sessions, connect
from db.session import sessions as sessions_of
from tests.ledger import Ledger

_TEMPLATE = "bushel_template"
_numbers = itertools.count(1)

# Nothing listens there, and that is known at once: port 1 is privileged and unused.
NO_BROKER = "redis://127.0.0.1:1/0"

REGISTRY = """
[models.echo]
task = "translation"
source = "."
engine = "echo"
default = true

[models.echo-many]
task = "translation"
source = "."
engine = "echo"
source_languages = ["en", "de"]
target_languages = ["en", "de", "fr"]

[models.echo-chat]
task = "generation"
source = "."
engine = "echo"
default = true
max_output_tokens = 512
description = "Says what it is told."
"""


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server whose template database has the whole schema. It forgets on power loss, for speed."""
    careless = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
    # Its workers belong to a superuser, and a database cannot be dropped while one of them is at it.
    careless["autovacuum"] = "off"
    with Postgres(tmp_path_factory.mktemp("postgres"), settings=careless) as server:
        _administer(server.url, f"CREATE DATABASE {_TEMPLATE}")
        migrations.upgrade(_named(server.url, _TEMPLATE))
        yield server.url


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """The URL of a new database with the whole schema, dropped afterwards."""
    name = f"test_{next(_numbers)}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
    yield _named(server, name)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(postgres: str) -> Iterator[str]:
    """A database of this test's own."""
    with fresh_database(postgres) as url:
        yield url


@pytest.fixture
def sessions(database_url: str) -> Iterator[Sessions]:
    engine = connect(database_url, pool=16, application="tests")
    yield sessions_of(engine)
    engine.dispose()


@pytest.fixture
def tenant(sessions: Sessions) -> str:
    with sessions.begin() as session:
        return keys.tenant(session, "default")


@pytest.fixture
def key(sessions: Sessions, tenant: str) -> str:
    with sessions.begin() as session:
        return keys.issue_key(session, "default", "tests")


@pytest.fixture
def ledger(sessions: Sessions, tenant: str, tmp_path: Path) -> Ledger:
    """The workers' side of the same database and store that `api` serves."""
    return Ledger(sessions, tenant, tmp_path / "files")


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> APISettings:
    registry = tmp_path / "registry.toml"
    registry.write_text(REGISTRY)
    return APISettings(
        database_url=database_url, broker_url=NO_BROKER, data=tmp_path, registry=registry, min_free_bytes=0
    )


@dataclass(frozen=True)
class LiveAPI:
    """The real application behind a real socket."""

    app: BushelAPI
    url: str
    bell: RecordingDoorbell

    def client(self, key: str | None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Plain HTTP; without this every client reads the system's certificates, which takes as long as a test.
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False, verify=False)


@contextmanager
def served(settings: APISettings, bell: RecordingDoorbell, port: int = 0) -> Iterator[LiveAPI]:
    """The API while the block lasts, on a port of its own unless one is named."""
    app = create_app(settings, bell)
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield LiveAPI(app, f"http://127.0.0.1:{server.server_port}", bell)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        app.close()


@pytest.fixture
def api(settings: APISettings) -> Iterator[LiveAPI]:
    with served(settings, RecordingDoorbell()) as api:
        yield api


@pytest.fixture
def client(api: LiveAPI, key: str) -> Iterator[httpx.Client]:
    with api.client(key) as client:
        yield client


@pytest.fixture
def stranger(api: LiveAPI, sessions: Sessions) -> Iterator[httpx.Client]:
    """A client of another tenant."""
    with sessions.begin() as session:
        other = keys.issue_key(session, "stranger", "tests")
    with api.client(other) as client:
        yield client


def _named(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)


def _administer(url: str, statement: str) -> None:
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        connection.execute(statement)
