"""What `bushel up` checks before it starts anything, and what it leaves for the command line."""

import doctest
import importlib
import os
import re
import socket
from pathlib import Path

import pytest

from cli.access import find_access
from cli.errors import WrongUsage
from cli.local import Access, read_access, write_access
from cli.main import run
from cli.stack.lock import FolderLock
from cli.stack.logs import Log
from cli.stack.parts import _IMPORTANT, check_port
from cli.up import _keep

Captured = pytest.CaptureFixture[str]


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path, capfd: Captured) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        code = run(["up", "--data", str(tmp_path / "data"), "--port", str(port)])

    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}: address already in use; choose another --port" in capfd.readouterr().err
    assert not (tmp_path / "data" / "postgres" / "data").exists()


@pytest.mark.parametrize("allowed", [None, "false"])
def test_an_address_that_others_reach_is_refused_before_anything_starts(
    allowed: str | None, tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    if allowed:
        monkeypatch.setenv("BUSHEL_ALLOW_PLAIN_HTTP", allowed)

    code = run(["up", "--data", str(tmp_path / "data"), "--host", "0.0.0.0", "--port", "0"])

    assert code == 1
    assert "set BUSHEL_ALLOW_PLAIN_HTTP=true where the network is yours" in capfd.readouterr().err
    assert not (tmp_path / "data" / "postgres" / "data").exists()


def test_who_says_so_may_listen_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSHEL_ALLOW_PLAIN_HTTP", "true")

    assert check_port("0.0.0.0", 0) > 0


def test_a_folder_in_use_is_said_with_the_pid_of_its_holder(tmp_path: Path, capfd: Captured) -> None:
    with FolderLock(tmp_path):
        code = run(["up", "--data", str(tmp_path), "--port", "0"])

    assert code == 1
    assert f"{tmp_path} is in use by process {os.getpid()}" in capfd.readouterr().err


def test_a_pid_left_in_the_lock_file_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "bushel.lock").write_text(f"{os.getppid()}\n")

    with FolderLock(tmp_path):
        assert (tmp_path / "bushel.lock").read_text() == f"{os.getpid()}\n"


def test_a_model_the_registry_does_not_have_is_named(tmp_path: Path, capfd: Captured) -> None:
    code = run(["up", "--data", str(tmp_path / "data"), "--port", "0", "--model", "nonesuch"])

    assert code == 1
    assert "there is no model 'nonesuch'" in capfd.readouterr().err


def test_the_kept_key_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = write_access(tmp_path, Access("http://127.0.0.1:1", "bsh_secret"))

    assert path.stat().st_mode & 0o777 == 0o600
    assert read_access(tmp_path) == Access("http://127.0.0.1:1", "bsh_secret")
    assert [child.name for child in tmp_path.iterdir()] == ["client.json"]


def test_a_new_port_keeps_the_key(tmp_path: Path) -> None:
    write_access(tmp_path, Access("http://127.0.0.1:1", "bsh_secret"))

    _keep(tmp_path, "http://127.0.0.1:2", None)

    assert read_access(tmp_path) == Access("http://127.0.0.1:2", "bsh_secret")


def test_a_spoiled_client_file_is_written_anew_by_up_and_refused_by_others(tmp_path: Path) -> None:
    (tmp_path / "client.json").write_text("{")

    with pytest.raises(WrongUsage, match="cannot be read"):
        find_access(None, tmp_path, {})
    _keep(tmp_path, "http://127.0.0.1:2", None)
    assert find_access(None, tmp_path, {}) == Access("http://127.0.0.1:2")


HERE, THERE = "http://here", "http://there"


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        pytest.param(None, {}, Access(HERE, "local"), id="the data folder alone"),
        pytest.param(None, {"BUSHEL_API_KEY": "mine"}, Access(HERE, "mine"), id="a key of one's own"),
        pytest.param(None, {"BUSHEL_URL": THERE}, Access(THERE), id="another server gets no key of this one"),
        pytest.param(None, {"BUSHEL_URL": HERE + "/"}, Access(HERE + "/", "local"), id="the same server named"),
        pytest.param(THERE, {"BUSHEL_URL": HERE}, Access(THERE), id="the option wins over the environment"),
        pytest.param(THERE, {"BUSHEL_API_KEY": "mine"}, Access(THERE, "mine"), id="option and key"),
    ],
)
def test_where_the_server_and_the_key_come_from(
    tmp_path: Path, url: str | None, environment: dict[str, str], expected: Access
) -> None:
    write_access(tmp_path, Access(HERE, "local"))

    assert find_access(url, tmp_path, environment) == expected


def test_the_key_may_be_in_a_file_and_a_missing_one_is_told(tmp_path: Path) -> None:
    held = tmp_path / "key"
    held.write_text("from a file\n")

    assert find_access(THERE, tmp_path, {"BUSHEL_API_KEY_FILE": str(held)}) == Access(THERE, "from a file")
    with pytest.raises(WrongUsage, match="BUSHEL_API_KEY_FILE"):
        find_access(THERE, tmp_path, {"BUSHEL_API_KEY_FILE": str(tmp_path / "none")})


def test_without_anything_it_is_the_default_address(tmp_path: Path) -> None:
    assert find_access(None, tmp_path, {}) == Access("http://127.0.0.1:8765")


def test_logs_are_rotated_at_start_and_the_oldest_goes(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log")

    for number in range(6):
        log.rotate()
        log.path.write_text(f"run {number}")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    assert (tmp_path / "a.log.3").read_text() == "run 2"


def test_a_log_that_grows_too_large_again_and_again_keeps_its_last_three(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log", largest=5)
    for number in range(5):
        log.path.write_text(f"part {number}")
        log.path.chmod(0o600)

        log.bound()

    assert log.path.stat().st_size == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    kept = [tmp_path / f"a.log.{number}" for number in (1, 2, 3)]
    assert [path.read_text() for path in kept] == ["part 4", "part 3", "part 2"]
    # They may quote what was sent.
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


def test_a_log_that_grows_too_large_is_cut_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log", re.compile("ERROR"), largest=1000)
    writer = log.open()
    os.write(writer, b"x" * 1500 + b"\n")

    log.bound()
    os.write(writer, b"ERROR after the cut\n")
    os.close(writer)

    assert log.path.read_bytes() == b"ERROR after the cut\n"
    assert (tmp_path / "a.log.1").stat().st_size == 1501
    assert log.new_important_lines() == ["ERROR after the cut"]


def test_important_lines_are_given_once_and_only_when_whole(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log", re.compile("ERROR"))
    writer = log.open()
    os.write(writer, b"fine\nERROR one\nERR")

    first = log.new_important_lines()
    os.write(writer, b"OR two\n")
    os.close(writer)

    assert first == ["ERROR one"]
    assert log.new_important_lines() == ["ERROR two"]
    assert log.new_important_lines() == []


def test_up_runs_on_the_folder_named_before_it(tmp_path: Path) -> None:
    assert run(["--data", str(tmp_path / "mine"), "up", "--port", "0", "--model", "nonesuch"]) == 1

    assert (tmp_path / "mine" / "bushel.lock").exists()


def test_of_a_traceback_only_the_log_line_is_echoed(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log", _IMPORTANT)
    line = "[2026-01-01] [ERROR] the database is away"
    noise = 'Traceback (most recent call last):\n  File "x", line 1\n    raise Error("no")\n'
    link = "(Background on this error at: https://sqlalche.me/e/20/e3q8)\n"
    log.path.write_text(f"{line}\n{noise}{link}[ERROR] lost {link}")

    assert log.new_important_lines() == [line, "[ERROR] lost"]


def test_what_the_logger_called_error_says_of_the_usual_is_not_echoed(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log", _IMPORTANT)
    usual = "2026-01-01T00:00:00.000+00:00 INFO gunicorn.error: Starting gunicorn 27.0.1"
    usual_json = '{"level":"info","logger":"gunicorn.error","message":"Starting gunicorn 27.0.1"}'
    grave = usual.replace("INFO", "ERROR").replace("Starting", "Lost")
    log.path.write_text(f"{usual}\n{usual_json}\n{grave}\n")

    assert log.new_important_lines() == [grave]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("localhost:80", "http://localhost:80", id="bare"),
        pytest.param("https://a.example", "https://a.example", id="whole"),
    ],
)
def test_a_url_without_a_scheme_is_http(tmp_path: Path, url: str, expected: str) -> None:
    assert find_access(url, tmp_path, {}).url == expected


@pytest.mark.parametrize(
    "module",
    [
        "cli.access",
        "cli.board",
        "cli.formats",
        "cli.inert",
        "cli.keyboard",
        "cli.options",
        "cli.output",
        "cli.show",
        "cli.stack.parts",
        "cli.stack.supervisor",
    ],
)
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(module))

    assert outcome.attempted > 0
    assert outcome.failed == 0
