"""`bushel doctor`: what it finds in installations that are well, broken in every part, or not there at all."""

import doctest
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from sqlalchemy import text as sql

import migrations
from api.config import APISettings
from cli.checkup import machine
from cli.checkup.requirements import fits, needs, requirement
from cli.doctor import CHECKS
from cli.local import Access, write_access
from cli.main import run
from cli.stack.lock import FolderLock
from cli.stack.postgres import Postgres
from cli.stack.valkey import Valkey
from db import keys
from db.doorbell import RecordingDoorbell
from tests.cli.test_bare_install import ABSENT
from tests.cli.upping import up
from tests.conftest import NO_BROKER, REGISTRY, LiveAPI, _administer, served
from tests.ledger import Ledger

Captured = pytest.CaptureFixture[str]
PASSWORD = "hk2-very%secret"
SPELLED = "hk2-very%25secret"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No settings but those of the test; a data folder that nobody has used."""
    for name in [name for name in os.environ if name.startswith("BUSHEL_")]:
        monkeypatch.delenv(name)
    data = tmp_path / "data"
    monkeypatch.setenv("BUSHEL_DATA", str(data))
    return data


class Examined:
    """What the doctor said, and how it ended."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text
        self.content: dict[str, Any] = json.loads(text)
        self.checks = {check["name"]: check for check in self.content["checks"]}

    def told(self, name: str) -> str:
        return "\n".join(
            f"{each['outcome']}: {each['found']} -> {each['advice']}" for each in self.checks[name]["findings"]
        )


def examine(capfd: Captured, *only: str, options: tuple[str, ...] = (), seconds: str = "60") -> Examined:
    words = [word for name in only for word in ("--only", name)]
    code = run([*options, "doctor", "--json", "--seconds", seconds, *words])
    return Examined(code, capfd.readouterr().out)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def deployed(
    bare: Path, api: LiveAPI, key: str, valkey: Valkey, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """By settings: PostgreSQL, Valkey, the API, models that echo, a folder for files."""
    bare.mkdir(mode=0o700)
    (bare / "files").mkdir(mode=0o700)
    registry = bare / "registry.toml"
    registry.write_text(REGISTRY)
    monkeypatch.setenv("BUSHEL_DATABASE_URL", database_url)
    monkeypatch.setenv("BUSHEL_BROKER_URL", valkey.url)
    monkeypatch.setenv("BUSHEL_REGISTRY", str(registry))
    monkeypatch.setenv("BUSHEL_MIN_FREE_BYTES", "0")
    monkeypatch.setenv("BUSHEL_PAUSE_FREE_BYTES", "0")
    monkeypatch.setenv("BUSHEL_URL", api.url)
    monkeypatch.setenv("BUSHEL_API_KEY", key)
    return bare


def hear(ledger: Ledger, id: str, models: list[str], unavailable: dict[str, str] | None = None, ago: int = 0) -> None:
    """A worker's heartbeat."""
    ledger.run(
        "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable, heartbeat_at)"
        " VALUES (:id, 'h', 1, 'cpu', '0.1.0', CAST(:models AS jsonb), '[]', CAST(:unavailable AS jsonb),"
        " now() - :ago * interval '1 second')",
        id=id,
        models=json.dumps(models),
        unavailable=json.dumps(unavailable or {}),
        ago=ago,
    )


# Deployments


def test_a_deployment_that_is_well_has_no_problem(deployed: Path, ledger: Ledger, capfd: Captured) -> None:
    hear(ledger, "io", [])
    hear(ledger, "models", ["echo", "echo-many", "echo-chat"])

    found = examine(capfd)

    assert found.code == 0 and found.content["ok"] is True, found.text
    assert found.content["kind"] == "deployment"
    assert set(found.checks) == {check.name for check in CHECKS} - {"stack", "port"}
    # The tests' server forgets on a power failure, which is told.
    assert [line for line in found.told("database").splitlines() if not line.startswith("ok")] == [
        "warning: fsync is off: a power failure can lose everything -> set fsync = on in postgresql.conf"
    ]
    assert {"python", "settings", "schema", "models", "workers", "key", "clock"} <= {
        name for name, check in found.checks.items() if check["outcome"] in ("ok", "info")
    }
    assert "scopes read, submit, admin" in found.told("key")
    assert "echo: here; served by 1" in found.told("models")
    # Its user has so few rights that it may not ask for more than the answer.
    assert "it answers" in found.told("broker")


def test_looking_changes_nothing(deployed: Path, ledger: Ledger, database_url: str, capfd: Captured) -> None:
    def state() -> tuple[object, object]:
        files = sorted((str(path), path.stat().st_mtime_ns, path.stat().st_mode) for path in deployed.rglob("*"))
        with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
            # Of keys, the API notes when they were used.
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            rows = {
                name: connection.execute(
                    f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM \"{name}\" t"
                ).fetchone()
                for (name,) in tables
                if name != "api_keys"
            }
        return files, rows

    examine(capfd)
    before = state()
    examine(capfd)

    assert state() == before


def test_the_words_are_aligned_and_have_colours_only_on_a_terminal(deployed: Path, capfd: Captured) -> None:
    assert run(["doctor", "--only", "python", "--only", "workers"]) == 1

    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("Looking at a deployment by settings")
    assert lines[1].startswith("python   ok      CPython")
    assert lines[2].startswith("workers  problem no worker is alive: jobs wait")
    assert lines[3].startswith("                 -> start one")
    assert lines[-1] == "1 problem"
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    ("url", "broker", "said"),
    [
        pytest.param("postgresql://u:{}@127.0.0.1:1/x", "redis://u:{}@127.0.0.1:1/0", "refused", id="nobody there"),
        pytest.param("postgresql://u:{}@/x?host=/none", "redis+socket://u:{}@/none/x", "No such file", id="no socket"),
        pytest.param("postgresql://u:{}@no.invalid/x", "redis://u:{}@no.invalid/0", "no.invalid", id="no such name"),
        pytest.param("mysql://u:{}@h/x", "amqp://u:{}@h", "", id="other servers"),
        pytest.param("postgresql://u@h/x?password={}", "redis://u:{}@127.0.0.1:x/0", "", id="no URLs"),
    ],
)
def test_with_everything_down_the_rest_is_told_and_no_password(
    bare: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch, url: str, broker: str, said: str
) -> None:
    monkeypatch.setenv("BUSHEL_DATABASE_URL", url.format(SPELLED))
    monkeypatch.setenv("BUSHEL_BROKER_URL", broker.format(SPELLED))
    monkeypatch.setenv("BUSHEL_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("BUSHEL_API_KEY", f"bsh_{PASSWORD}")

    found = examine(capfd)
    run(["doctor", "--seconds", "60"])
    text = capfd.readouterr()

    assert found.code == 1
    assert [name for name in ("database", "broker", "api") if found.checks[name]["outcome"] != "problem"] == []
    assert said in found.told("database") or "127.0.0.1:1" in url
    assert found.checks["python"]["outcome"] == found.checks["machine"]["outcome"] == "ok"
    assert "the check itself failed" not in found.text
    for output in (found.text, text.out, text.err):
        assert PASSWORD not in output and SPELLED not in output


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


def test_servers_that_take_connections_and_never_answer_hold_nothing_up(
    bare: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(50)
        where = f"127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setenv("BUSHEL_DATABASE_URL", f"postgresql://u:{SPELLED}@{where}/x")
        monkeypatch.setenv("BUSHEL_BROKER_URL", f"redis://u:{SPELLED}@{where}/0")
        monkeypatch.setenv("BUSHEL_URL", f"http://{where}")
        started = time.monotonic()
        patient = examine(capfd)
        took = time.monotonic() - started
        hasty = examine(capfd, "database", "python", seconds="0.3")

    assert patient.code == hasty.code == 1 and took < 60
    assert [name for name in ("database", "broker", "api") if patient.checks[name]["outcome"] != "problem"] == []
    assert "not done after" not in patient.text
    assert "not done after 0.3 s" in hasty.told("database")
    assert hasty.checks["python"]["outcome"] == "ok"


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


def test_models_that_are_not_here_not_served_or_cannot_be_loaded_are_told(
    deployed: Path, ledger: Ledger, capfd: Captured
) -> None:
    far = '[models.far]\ntask = "translation"\nsource = "nobody/nothing"\nrevision = "main"\n'
    (deployed / "models.toml").write_text(far)
    hear(ledger, "io", [])
    hear(ledger, "one", ["echo", "echo-many"], {"echo-many": "the disk is wet"})
    hear(ledger, "gone", ["echo"], ago=120)

    found = examine(capfd, "models", "workers")
    (deployed / "models.toml").write_text("[models.far]\n")
    spoiled = examine(capfd, "models")

    assert found.code == spoiled.code == 1
    assert "problem: far: nobody/nothing is not downloaded -> bushel models pull far" in found.told("models")
    assert "warning: echo-chat: here, and no worker serves it" in found.told("models")
    assert "problem: echo-many: no worker can load it: the disk is wet -> bushel models check echo-many" in found.told(
        "models"
    )
    assert "warning: gone has not been heard of for 12" in found.told("workers")
    assert "far" in spoiled.told("models") and "models/registry.toml explains" in spoiled.told("models")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        pytest.param("BUSHEL_DATABSE_POOL", "3", "did you mean BUSHEL_DATABASE_POOL?", id="mistyped"),
        pytest.param("BUSHEL_LOG_LEVLE_FILE", "x", "did you mean BUSHEL_LOG_LEVEL_FILE?", id="mistyped, of a file"),
        pytest.param("BUSHEL_SOMETHING_ELSE", "3", "nobody reads it -> unset it", id="unknown"),
        pytest.param("BUSHEL_POLL_SECONDS", "often", "problem: BUSHEL_POLL_SECONDS: Input should be", id="bad value"),
        pytest.param("BUSHEL_MAX_UPLOAD_BYTES", "0", "problem: BUSHEL_MAX_UPLOAD_BYTES: ", id="too small, of the API"),
        pytest.param("BUSHEL_API_KEY_FILE", "/none/key", "BUSHEL_API_KEY", id="a file that is not there"),
    ],
)
def test_settings_that_are_wrong_are_named(
    deployed: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    before = examine(capfd, "settings")
    monkeypatch.setenv(name, value)

    after = examine(capfd, "settings")

    assert before.checks["settings"]["outcome"] == "ok", before.text
    assert said in after.told("settings")
    assert after.code == (0 if said.endswith("unset it") or said.startswith("did") else 1)


def test_a_key_that_opens_nothing_or_little_is_told(
    deployed: Path, ledger: Ledger, key: str, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger.sessions.begin() as session:
        little = keys.issue_key(session, "default", "little", scopes=[keys.Scope.SUBMIT])
    monkeypatch.setenv("BUSHEL_API_KEY", little)
    lacking = examine(capfd, "key")
    with ledger.sessions.begin() as session:
        keys.revoke_key(session, little)
    revoked = examine(capfd, "key")
    monkeypatch.delenv("BUSHEL_API_KEY")
    none = examine(capfd, "key")

    assert lacking.code == 0 and "the scopes of this key: submit" in lacking.told("key")
    assert revoked.code == 1 and "little of tenant default, scopes submit: revoked" in revoked.told("key")
    assert little not in lacking.text + revoked.text
    assert "there is none" in none.told("key")


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own, as small or as closed as the options say."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED, a full or closed disk: no tmpfs can be mounted here ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_and_one_that_cannot_be_written_are_told(
    deployed: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BUSHEL_MIN_FREE_BYTES")
    monkeypatch.delenv("BUSHEL_PAUSE_FREE_BYTES")
    with mounted(deployed / "files", "size=256m"):
        little = examine(capfd, "store")
        (deployed / "files" / "big").write_bytes(bytes(200 * 2**20))
        full = examine(capfd, "store")
    with mounted(deployed / "files", "ro"):
        closed = examine(capfd, "store")
    monkeypatch.setenv("BUSHEL_STORE_URL", (deployed / "registry.toml").as_uri())
    no_folder = examine(capfd, "store")

    assert little.code == full.code == closed.code == no_folder.code == 1
    assert "uploads and jobs are refused below" in little.told("store")
    assert "workers pause below" in full.told("store")
    assert "cannot be written" in closed.told("store")
    assert "is no folder" in no_folder.told("store")


def test_a_store_elsewhere_is_looked_at_and_not_written(
    deployed: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSHEL_STORE_URL", "memory://doctor")
    empty = examine(capfd, "store")
    monkeypatch.setenv("BUSHEL_STORE_URL", "nonesuch://bucket/prefix")
    unknown = examine(capfd, "store")

    assert empty.code == 0 and "has nothing in it yet" in empty.told("store")
    assert unknown.code == 1 and "BUSHEL_STORE_URL cannot be used" in unknown.told("store")


# One machine


def test_where_nothing_has_run_yet_nothing_is_wrong_and_nothing_is_made(bare: Path, capfd: Captured) -> None:
    found = examine(capfd)

    assert found.code == 0, found.text
    assert found.content["kind"] == "bushel up"
    assert "the first start makes it" in found.told("data")
    assert not bare.exists()


def test_servers_that_outlived_their_supervisor_are_told(bare: Path, capfd: Captured) -> None:
    bare.mkdir(mode=0o755)
    bare.parent.chmod(0o755)
    with Valkey(bare / "valkey"), Postgres(bare / "postgres"):
        found = examine(capfd, "stack", "database", "broker")
    gone = examine(capfd, "stack", "database", "broker")

    assert "of an earlier `bushel up` still works here" in found.told("stack")
    assert found.checks["database"]["outcome"] == found.checks["broker"]["outcome"] == "ok", found.text
    assert "user bushel may do what it must and no more" in found.told("broker")
    assert [check["outcome"] for check in gone.content["checks"]] == ["problem"] * 3
    assert "start it: bushel up --data" in gone.told("database") and "start it" in gone.told("broker")


def test_a_folder_that_is_open_to_others_and_a_key_that_they_may_read_are_told(bare: Path, capfd: Captured) -> None:
    bare.mkdir()
    (bare / "postgres").mkdir()
    write_access(bare, Access("http://127.0.0.1:1", "bsh_x")).chmod(0o644)
    bare.chmod(0o777)

    found = examine(capfd, "data")

    assert found.code == 1
    assert "others may change what is in it -> chmod go-w" in found.told("data")
    assert "has the API key, and others may read it" in found.told("data")


def test_the_folder_of_another_user_is_told_check_by_check(bare: Path) -> None:
    write = {"client.json": "{}", "bushel.lock": "1\n"}
    (bare / "postgres" / "data").mkdir(parents=True)
    for name, text in write.items():
        (bare / name).write_text(text)
    command = [sys.executable, "-m", "cli.main", "--data", str(bare), "doctor", "--json", "--seconds", "60"]
    if os.geteuid() == 0:
        # Whom modes do not concern; without that capability they do.
        if shutil.which("setpriv") is None:
            pytest.skip("NOT TESTED, a folder of another user: there is no setpriv")
        os.chown(bare, 65534, 65534)
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    bare.chmod(0o700 if os.geteuid() == 0 else 0o000)

    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    bare.chmod(0o700)

    found = Examined(done.returncode, done.stdout)
    assert found.code == 1 and "the check itself failed" not in found.text
    assert "cannot be used by" in found.told("data")
    assert "run this as the user who runs `bushel up`" in found.told("stack") + found.told("settings")
    assert found.checks["database"]["outcome"] == "info" and "see `settings`" in found.told("database")


def test_a_port_that_somebody_else_has_is_told_and_a_free_one_is_free(bare: Path, capfd: Captured) -> None:
    bare.mkdir()
    (bare / "postgres").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(5)
        write_access(bare, Access(f"http://127.0.0.1:{taken.getsockname()[1]}"))
        held = examine(capfd, "port")
        with FolderLock(bare):
            ours = examine(capfd, "port")
    free = examine(capfd, "port")

    assert held.code == 1 and f"is held by process {os.getpid()}" in held.told("port")
    assert ours.code == 0 and "most likely by our own API, which does not answer" in ours.told("port")
    assert free.code == 0 and "is free" in free.told("port")


def test_a_lock_that_is_held_names_its_holder_and_a_pid_that_was_left_means_nothing(
    bare: Path, capfd: Captured
) -> None:
    bare.mkdir()
    with FolderLock(bare):
        held = examine(capfd, "stack")
    left = examine(capfd, "stack")

    assert f"ok: a `bushel up` runs here: process {os.getpid()}" in held.told("stack")
    assert left.code == 1 and f"the last one was process {os.getpid()}" in left.told("stack")


@pytest.mark.slow
def test_a_real_stack_is_well_while_it_runs_and_its_parts_are_down_afterwards(bare: Path, capfd: Captured) -> None:
    with up(bare) as process:
        os.environ["BUSHEL_REGISTRY"] = str(bare.with_name("registry.toml"))
        well = examine(capfd)
        names = {name for name, check in well.checks.items() if check["outcome"] == "problem"}
    down = examine(capfd)
    del os.environ["BUSHEL_REGISTRY"]

    assert names <= {"data", "store", "api"} and "warning" not in well.told("workers"), well.text
    assert f"runs here: process {process.pid}" in well.told("stack")
    assert "is held by our own API" in well.told("port")
    assert "at 0" in well.told("schema") and "served by 1" in well.told("models")
    assert "scopes read, submit, admin" in well.told("key")
    assert down.code == 1
    assert {"stack", "database", "broker", "api"} <= {
        name for name, check in down.checks.items() if check["outcome"] == "problem"
    }
    assert "bsh_" not in (well.text + down.text)


# Clients


def test_a_client_is_asked_only_what_makes_sense_there(
    bare: Path, api: LiveAPI, key: str, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSHEL_URL", api.url)
    monkeypatch.setenv("BUSHEL_API_KEY", key)

    found = examine(capfd)

    assert found.content["kind"] == "client"
    assert list(found.checks) == ["python", "packages", "settings", "api", "key", "clock"]
    assert found.code == 0, found.text
    assert "the API takes it" in found.told("key") and "as that of the API" in found.told("clock")
    assert "no worker is running" in found.told("api")
    assert key not in found.text


def test_the_command_line_alone_can_be_examined(bare: Path) -> None:
    script = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); from cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", script, "--url", "http://127.0.0.1:1", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )

    found = Examined(done.returncode, done.stdout)
    assert done.stderr == "" and found.code == 1
    assert [name for name, check in found.checks.items() if check["outcome"] == "problem"] == ["api"]


def test_something_else_at_the_url_is_no_bushel(bare: Path, valkey: Valkey, capfd: Captured) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        found = examine(capfd, "api", "key", options=("--url", f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()

    assert found.code == 1 and "is not Bushel" in found.told("api")


# Pure parts


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param({}, [], id="no container"),
        pytest.param({"cpu.max": "50000 100000"}, ["allow 0.5"], id="processors"),
        pytest.param(
            {"../../../proc/self/cgroup": "0::/a/b", "a/b/cpu.max": "50000 100000"}, ["allow 0.5"], id="of a service"
        ),
        pytest.param({"cpu.max": "max 100000", "memory.max": "max"}, [], id="no limits"),
        pytest.param({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, ["allow 0.5"], id="old"),
        pytest.param({"memory.max": "1073741824", "memory.current": "1000000000"}, ["73.7 MB of 1.1 GB"], id="memory"),
        pytest.param({"memory/memory.limit_in_bytes": "1073741824"}, ["1.1 GB of 1.1 GB"], id="memory, old"),
    ],
)
def test_what_a_container_allows_is_found(tmp_path: Path, files: dict[str, str], said: list[str]) -> None:
    group = tmp_path / "sys" / "fs" / "cgroup"
    for name, text in {"../../../proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n", **files}.items():
        (group / name).parent.mkdir(parents=True, exist_ok=True)
        (group / name).write_text(f"{text}\n")

    found = [each.found for each in machine.machine(None, tmp_path) if each.outcome == "warning"]  # type: ignore[arg-type]

    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(
            {"torch": ["12.8", 1], "names": ["H200"], "ctranslate2": 1}, ["ok: torch sees H200", "ok"], id="both"
        ),
        pytest.param(
            {"torch": [None, 0], "names": [], "ctranslate2": 1}, ["warning: there is a GPU, and this"], id="cpu"
        ),
        pytest.param({"torch": ["12.8", 0], "names": [], "ctranslate2": 0}, ["warning", "warning"], id="not given"),
        pytest.param({"torch_error": "no torch", "ctranslate2_error": "x"}, ["warning: torch cannot be"], id="missing"),
    ],
)
def test_what_the_libraries_say_of_a_gpu_is_judged(found: dict[str, object], said: list[str]) -> None:
    told = [f"{each.outcome}: {each.found}" for each in machine.judged(found)]

    assert len(told) == 2
    assert all(text.startswith(start) for text, start in zip(told, said, strict=False))


def test_the_libraries_can_be_asked_for_a_gpu() -> None:
    found = machine.asked()

    assert found is not None and ("torch" in found or "torch_error" in found)


def test_what_an_extra_brings_is_that_of_other_extras_too() -> None:
    known = [
        requirement(text) for text in ("a>=1", 'b==2.*; extra == "x"', "bushel[x]; extra == 'y'", 'c; extra == "y"')
    ]

    assert [each.name for each in needs(known, "y")] == ["b", "c"]
    assert fits("2.9", needs(known, "y")[0].versions) and not fits("3.0", needs(known, "y")[0].versions)


@pytest.mark.parametrize("module", ["requirements", "finding", "broker"])
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"cli.checkup.{module}"))

    assert outcome.attempted > 0
    assert outcome.failed == 0
