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


def test_a_key_has_the_scopes_that_are_said_and_may_read_and_submit_if_none_is(database: Path, capfd: Captured) -> None:
    data = ["--data", str(database)]

    run([*data, "keys", "create", "--tenant", "scoped"])
    run([*data, "keys", "create", "--tenant", "scoped", "--scope", "admin", "--scope", "read"])
    capfd.readouterr()
    run([*data, "keys", "list", "--tenant", "scoped", "--json"])

    assert [key["scopes"] for key in json.loads(capfd.readouterr().out)] == [["read", "submit"], ["read", "admin"]]
    assert run([*data, "keys", "create", "--scope", "root"]) == 2


def test_a_rotated_key_keeps_its_id_and_is_in_the_audit_log(database: Path, capfd: Captured) -> None:
    data = ["--data", str(database)]
    run([*data, "keys", "create", "--tenant", "turning"])
    old = capfd.readouterr().out.strip()

    assert run([*data, "keys", "rotate", old, "--grace-hours", "0"]) == 0
    new = capfd.readouterr().out.strip()
    assert new != old and new[:17] == old[:17]
    assert run([*data, "audit-log", "--tenant", "turning", "--json"]) == 0

    shown = capfd.readouterr().out
    assert old not in shown and new not in shown
    assert [(entry["action"], entry["actor"], entry["target"]) for entry in json.loads(shown)] == [
        ("key.rotated", "operator", old[4:16]),
        ("key.created", "operator", old[4:16]),
    ]
    assert run([*data, "audit-log"]) == 0
    assert "key.rotated" in capfd.readouterr().out


def test_quotas_are_set_shown_and_taken_back(database: Path, capfd: Captured) -> None:
    data = ["--data", str(database)]
    run([*data, "keys", "create", "--tenant", "held"])
    capfd.readouterr()

    assert run([*data, "quotas", "set", "held", "open_jobs=20", "queued_items=unlimited"]) == 0
    assert "unlimited" in capfd.readouterr().out
    assert run([*data, "quotas", "set", "held", "open_jobs=default"]) == 0
    run([*data, "quotas", "show", "held", "--json"])
    shown = capfd.readouterr().out
    assert json.loads(shown[shown.index("{") :])["queued_items"] == {"limit": "unlimited", "used": 0}
    assert json.loads(shown[shown.index("{") :])["open_jobs"] == {"limit": "default", "used": 0}

    for wrong in ("jobs=3", "open_jobs", "open_jobs=-1", "open_jobs=many", "requests_per_second=0", "open_jobs=٣"):
        assert run([*data, "quotas", "set", "held", wrong]) == 2, wrong
    assert run([*data, "quotas", "show", "nonesuch"]) == 2
    assert "there is no tenant 'nonesuch'" in capfd.readouterr().err


def test_a_folder_without_a_database_is_said(tmp_path: Path, capfd: Captured) -> None:
    assert run(["--data", str(tmp_path), "keys", "list"]) == 2
    assert f"there is no database in {tmp_path}" in capfd.readouterr().err


def test_a_database_that_is_down_is_one_line(tmp_path: Path, capfd: Captured) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)

    assert run(["--data", str(tmp_path), "keys", "list"]) == 1

    err = capfd.readouterr().err
    assert err.startswith("Error: the database says: ")
    assert len(err.splitlines()) == 1
