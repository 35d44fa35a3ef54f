"""`bushel doctor` on PostgreSQL and the broker: away, closed, old, or set up so that Bushel cannot work."""

from pathlib import Path

import pytest
import redis
from sqlalchemy import text as sql

import migrations
from api.config import APISettings
from cli.stack.postgres import Postgres
from cli.stack.valkey import Valkey
from db.doorbell import RecordingDoorbell
from tests.cli.examining import PASSWORD, SPELLED, examine
from tests.conftest import NO_BROKER, _administer, served
from tests.ledger import Ledger

Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("bare")


def test_a_wrong_password_of_the_database_is_told_with_what_to_do(
    tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "hba.conf"
    rules.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    tmp_path.chmod(0o755)
    with Postgres(tmp_path / "pg", settings={"hba_file": str(rules)}) as server:
        _administer(server.url.replace("bushel@", "postgres@"), "ALTER ROLE bushel PASSWORD 'right-one'")
        monkeypatch.setenv("BUSHEL_DATABASE_URL", server.url.replace("bushel@", f"bushel:{SPELLED}@"))
        wrong = examine(capfd, "database", "schema")
        monkeypatch.setenv("BUSHEL_DATABASE_URL", server.url.replace("bushel@", "bushel:right-one@"))
        right = examine(capfd, "database")

    assert wrong.code == 1 and PASSWORD not in wrong.text and SPELLED not in wrong.text
    assert "password authentication failed" in wrong.told("database")
    assert "correct the password in BUSHEL_DATABASE_URL" in wrong.told("database")
    assert wrong.checks["schema"]["outcome"] == "info"
    assert right.code == 0, right.text


def test_a_database_that_was_stopped_is_told_by_itself_and_by_the_api(
    bare: Path, tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    with Postgres(tmp_path / "pg") as server:
        migrations.upgrade(server.url)
        settings = APISettings(database_url=server.url, broker_url=NO_BROKER, data=tmp_path, min_free_bytes=0)
        with served(settings, RecordingDoorbell()) as api:
            monkeypatch.setenv("BUSHEL_DATABASE_URL", server.url)
            monkeypatch.setenv("BUSHEL_BROKER_URL", NO_BROKER)
            monkeypatch.setenv("BUSHEL_URL", api.url)
            before = examine(capfd, "database", "api")
            server.stop()
            after = examine(capfd, "database", "schema", "models", "workers", "api", "clock")

    assert before.code == 0, before.text
    assert after.code == 1
    assert "No such file" in after.told("database") and "is it started" in after.told("database")
    assert "problem: it is not ready: database" in after.told("api")
    assert [after.checks[name]["outcome"] for name in ("schema", "models", "workers", "clock")] == [
        *("info", "ok", "info", "ok")
    ]


def test_a_schema_that_is_behind_ahead_or_missing_says_what_to_run(
    deployed: Path, database_url: str, postgres: str, ledger: Ledger, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger.sessions() as session:
        newest = str(session.execute(sql("SELECT version_num FROM alembic_version")).scalar_one())
    migrations.downgrade(database_url, "0003")
    behind = examine(capfd, "schema", "workers", "models", "key")
    ledger.run("UPDATE alembic_version SET version_num = '9999'")
    ahead = examine(capfd, "schema")
    monkeypatch.setenv("BUSHEL_DATABASE_URL", postgres)
    missing = examine(capfd, "schema", "workers", "models", "key")

    assert behind.code == ahead.code == missing.code == 1
    assert f"{int(newest) - 3} behind this code, which wants {newest} -> run: python -m migrations" in behind.told(
        "schema"
    )
    assert "at 9999, which this code does not know" in ahead.told("schema")
    assert "do not run migrations with this one" in ahead.told("schema")
    assert "problem: the database has no tables -> run: python -m migrations" in missing.told("schema")
    assert "the check itself failed" not in behind.text + missing.text


def test_tenants_that_the_database_keeps_apart_no_more_are_told(
    deployed: Path, ledger: Ledger, capfd: Captured
) -> None:
    before = examine(capfd, "schema")
    ledger.run("ALTER TABLE jobs DISABLE ROW LEVEL SECURITY")

    after = examine(capfd, "schema")

    assert "ok: tenants are kept apart" in before.told("schema")
    assert "problem: 1 tables have policies for tenants that are switched off" in after.told("schema")


def test_a_database_in_another_encoding_is_told(
    deployed: Path, postgres: str, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    _administer(postgres, "CREATE DATABASE old_letters ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    monkeypatch.setenv("BUSHEL_DATABASE_URL", postgres.replace("/bushel?", "/old_letters?"))

    found = examine(capfd, "database")
    _administer(postgres, "DROP DATABASE old_letters")

    assert found.code == 1 and "LATIN1" in found.told("database")


def test_what_is_wrong_with_the_broker_is_told(
    deployed: Path, valkey: Valkey, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = valkey.url.split(":")[2].partition("@")[0]
    monkeypatch.setenv("BUSHEL_BROKER_URL", valkey.url.replace(password, SPELLED))
    refused = examine(capfd, "broker")
    with redis.Redis.from_url(valkey.operator_url) as operator:
        operator.config_set("maxmemory-policy", "allkeys-lru")
        monkeypatch.setenv("BUSHEL_BROKER_URL", valkey.operator_url.replace("unix://", "redis+socket://"))
        evicting = examine(capfd, "broker")
        operator.config_set("maxmemory-policy", "noeviction")
    well = examine(capfd, "broker")

    assert refused.code == 1 and "it does not let us in" in refused.told("broker")
    assert SPELLED not in refused.text and PASSWORD not in refused.text
    assert evicting.code == 1 and "its maxmemory-policy is allkeys-lru" in evicting.told("broker")
    assert well.code == 0 and "may do more than it needs" in well.told("broker")
