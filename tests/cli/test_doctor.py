"""`bushel doctor`: what it finds in installations that are well, down, or not there at all."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from cli.doctor import CHECKS
from cli.main import run
from cli.stack.valkey import Valkey
from tests.cli.examining import PASSWORD, SPELLED, Examined, examine, hear
from tests.cli.test_bare_install import ABSENT
from tests.cli.upping import up
from tests.conftest import LiveAPI
from tests.ledger import Ledger

Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("bare")


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


# One machine


@pytest.mark.slow
def test_a_real_stack_is_well_while_it_runs_and_its_parts_are_down_afterwards(
    bare: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSHEL_REGISTRY", str(bare.with_name("registry.toml")))
    with up(bare) as process:
        well = examine(capfd)
        names = {name for name, check in well.checks.items() if check["outcome"] == "problem"}
    down = examine(capfd)

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
