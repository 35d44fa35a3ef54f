"""`bushel keys` on a real database."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import migrations
from cli.local import Access, read_access, write_access
from cli.main import run
from cli.stack.postgres import Postgres

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder on which PostgreSQL runs, as under `bushel up`."""
    data = tmp_path_factory.mktemp("data")
    with Postgres(data / "postgres") as server:
        migrations.upgrade(server.url)
        yield data


@pytest.fixture(autouse=True)
def _no_database_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUSHEL_DATABASE_URL", raising=False)


def test_a_key_is_printed_once_listed_without_its_secret_and_revoked(database: Path, capfd: Captured) -> None:
    data = ["--data", str(database)]

    assert run([*data, "keys", "create", "--tenant", "acme", "--name", "laptop", "--days", "3"]) == 0
    key = capfd.readouterr().out.strip()
    assert key.startswith("bsh_")
    assert run([*data, "keys", "list", "--tenant", "acme", "--json"]) == 0
    shown = capfd.readouterr().out
    [listed] = json.loads(shown)
    assert key not in shown
    assert (listed["name"], listed["tenant"], listed["revoked_at"]) == ("laptop", "acme", None)
    assert listed["expires_at"] - listed["created_at"] == pytest.approx(3 * 86400, abs=5)
    assert run([*data, "keys", "revoke", listed["id"]]) == 0
    run([*data, "keys", "list", "--tenant", "acme", "--json"])
    assert json.loads(capfd.readouterr().out)[0]["revoked_at"] is not None


def test_a_saved_key_is_kept_for_the_command_line_beside_the_url(database: Path, capfd: Captured) -> None:
    write_access(database, Access("http://127.0.0.1:1"))

    assert run(["--data", str(database), "keys", "create", "--save"]) == 0

    key = capfd.readouterr().out.strip()
    assert read_access(database) == Access("http://127.0.0.1:1", key)
    assert (database / "client.json").stat().st_mode & 0o777 == 0o600


def test_revoking_a_key_that_is_not_there_ends_with_2(database: Path, capfd: Captured) -> None:
    assert run(["--data", str(database), "keys", "revoke", "nonesuch"]) == 2
    assert "nonesuch" in capfd.readouterr().err


def test_a_folder_without_a_database_is_said(tmp_path: Path, capfd: Captured) -> None:
    assert run(["--data", str(tmp_path), "keys", "list"]) == 2
    assert f"there is no database in {tmp_path}" in capfd.readouterr().err


def test_a_database_that_is_down_is_one_line(tmp_path: Path, capfd: Captured) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)

    assert run(["--data", str(tmp_path), "keys", "list"]) == 1

    err = capfd.readouterr().err
    assert err.startswith("Error: the database says: ")
    assert len(err.splitlines()) == 1
