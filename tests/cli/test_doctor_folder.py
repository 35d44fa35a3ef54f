"""`bushel doctor` on one machine: the data folder, who works in it, and the port."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cli.local import Access, write_access
from cli.stack.lock import FolderLock
from cli.stack.postgres import Postgres
from cli.stack.valkey import Valkey
from tests.cli.examining import Examined, examine

Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("bare")


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


def test_who_holds_a_port_or_the_lock_is_told_as_far_as_it_can_be_without_psutil(bare: Path) -> None:
    bare.mkdir()
    (bare / "postgres").mkdir()
    script = "import sys; sys.modules['psutil'] = None; from cli.main import main; main(sys.argv[1:])"

    def told(check: str) -> str:
        command = [sys.executable, "-c", script, "--data", str(bare), "doctor", "--json", "--only", check]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        return Examined(done.returncode, done.stdout).told(check)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(5)
        write_access(bare, Access(f"http://127.0.0.1:{taken.getsockname()[1]}"))
        port = told("port")
    with FolderLock(bare):
        stack = told("stack")

    assert "is held by something else, which is no Bushel" in port
    assert stack.startswith(f"ok: a `bushel up` runs here: process {os.getpid()}")
