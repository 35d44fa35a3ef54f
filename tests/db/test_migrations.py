"""Migrations from nothing give exactly the tables that the code declares, and take them away again."""

import os
import subprocess
import sys

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

import migrations
from db.models import Base
from db.session import connect


def test_migrations_equal_the_models(database_url: str) -> None:
    engine = connect(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        differences = compare_metadata(context, Base.metadata)
    engine.dispose()

    assert differences == []


def test_checks_and_partial_indexes_equal_the_models(database_url: str) -> None:
    """What Alembic does not compare: a schema made from the models has the same definitions."""
    engine = connect(database_url)
    query = text("""
        SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint
        WHERE connamespace = current_schema()::regnamespace AND conrelid <> 'alembic_version'::regclass
        UNION ALL
        SELECT indexname, replace(indexdef, current_schema() || '.', '') FROM pg_indexes
        WHERE schemaname = current_schema() AND tablename <> 'alembic_version'
        ORDER BY 1, 2
    """)
    with engine.begin() as connection:
        migrated = [tuple(row) for row in connection.execute(query)]
        connection.execute(text("CREATE SCHEMA declared"))
        connection.execute(text("SET search_path = declared"))
        Base.metadata.create_all(connection)
        connection.execute(text("CREATE TABLE alembic_version ()"))
        declared = [tuple(row) for row in connection.execute(query)]
    engine.dispose()

    assert migrated == declared


def test_down_and_up_again(database_url: str) -> None:
    engine = connect(database_url)

    migrations.downgrade(database_url, "base")
    with engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    assert migrations.pending(database_url) != []
    migrations.upgrade(database_url)

    assert migrations.pending(database_url) == []
    engine.dispose()


def test_a_ledger_with_jobs_goes_down_and_up_again(database_url: str) -> None:
    engine = connect(database_url)
    migrations.downgrade(database_url, "0001")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO tenants (id, name) VALUES ('ten', 'default')"))
        for job_id in ("old", "several"):
            connection.execute(
                text("""
                    INSERT INTO jobs (id, tenant_id, task, model, params, format, long_input, on_error)
                    VALUES (:job, 'ten', 'generation', 'a', '{}', '{}', 'error', 'fail')
                """),
                {"job": job_id},
            )
    migrations.upgrade(database_url)
    with engine.begin() as connection:
        found = connection.execute(text("SELECT dialect, interactive, model FROM jobs WHERE id = 'old'")).one()
        assert tuple(found) == ("bushel", False, "a")
        connection.execute(
            text("UPDATE jobs SET dialect = 'openai', model = NULL, parent_id = 'old' WHERE id = 'several'")
        )

    migrations.downgrade(database_url, "0001")
    migrations.upgrade(database_url)

    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, dialect, model FROM jobs ORDER BY id"))
        assert [tuple(row) for row in rows] == [("old", "bushel", "a"), ("several", "openai", "")]
    engine.dispose()


def test_migrators_that_start_together_do_no_harm(database_url: str) -> None:
    migrations.downgrade(database_url, "base")
    environment = {**os.environ, "BUSHEL_DATABASE_URL": database_url, "BUSHEL_BROKER_URL": "redis://127.0.0.1:1/0"}
    command = [sys.executable, "-m", "migrations"]

    together = [subprocess.Popen(command, env=environment) for _ in range(3)]

    assert [migrator.wait(60) for migrator in together] == [0, 0, 0]
    assert migrations.pending(database_url) == []


def test_the_command_goes_down_and_refuses_what_it_does_not_know(database_url: str) -> None:
    environment = {**os.environ, "BUSHEL_DATABASE_URL": database_url, "BUSHEL_BROKER_URL": "redis://127.0.0.1:1/0"}

    def migrate(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "migrations", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert migrate("downgrade", "0005").returncode == 0
    assert migrations.pending(database_url) != []
    unknown = migrate("chekc")
    assert unknown.returncode == 2 and "downgrade and the number" in unknown.stderr
    assert migrations.pending(database_url) != []
    assert migrate().returncode == 0
    assert migrations.pending(database_url) == []
