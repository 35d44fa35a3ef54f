"""Migrating where the service's user may not make roles: an administrator is told what to do, and then it goes on."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

import migrations
from cli.stack.postgres import Postgres
from db.errors import ConfigError
from db.session import confined, connect


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A cluster of its own: roles are the whole cluster's."""
    with Postgres(tmp_path_factory.mktemp("cluster")) as server:
        yield server


def test_the_lines_that_an_administrator_must_run_are_said_and_suffice(server: Postgres) -> None:
    host = make_url(server.url).query["host"]
    with psycopg.connect(host=str(host), user="postgres", dbname="postgres", autocommit=True) as administrator:
        administrator.execute('CREATE ROLE "Plain user" LOGIN')
        administrator.execute('CREATE DATABASE plain OWNER "Plain user"')
        administrator.execute("REVOKE bushel_tenant FROM bushel")
        administrator.execute("DROP ROLE bushel_tenant")
        url = make_url(server.url).set(username="Plain user", database="plain").render_as_string(hide_password=False)

        with pytest.raises(ConfigError) as told:
            migrations.upgrade(url)
        lines = [part for part in str(told.value).split("`") if part.endswith(";")]
        assert lines == ["CREATE ROLE bushel_tenant NOLOGIN;", 'GRANT bushel_tenant TO "Plain user";']
        # Nothing is half done.
        with pytest.raises(ConfigError):
            migrations.upgrade(url)
        administrator.execute(lines[0].encode())
        with pytest.raises(ConfigError, match="permission denied"):
            migrations.upgrade(url)
        administrator.execute(lines[1].encode())
        migrations.upgrade(url)

    engine = connect(url)
    with confined(engine, lambda: "nobody")() as session:
        assert session.execute(text("SELECT current_user, count(*) FROM jobs")).one() == ("bushel_tenant", 0)
    engine.dispose()


def test_a_server_of_an_earlier_version_gets_the_role_when_it_starts(server: Postgres) -> None:
    host = make_url(server.url).query["host"]

    with psycopg.connect(host=str(host), user="postgres", dbname="postgres") as administrator:
        found = administrator.execute("SELECT pg_has_role('bushel', 'bushel_tenant', 'MEMBER')").fetchone()

    # The test before took it away, and gave the role to another user.
    assert found == (False,)
    server.stop()
    server.start()
    with psycopg.connect(host=str(host), user="postgres", dbname="postgres") as administrator:
        found = administrator.execute("SELECT pg_has_role('bushel', 'bushel_tenant', 'MEMBER')").fetchone()
    assert found == (True,)
