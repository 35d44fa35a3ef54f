"""What refuses to start, what it says, and that it says nothing secret."""

import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack.process import die_with_parent
from db import safeguards
from db.config import Settings
from db.discretion import Discreet, redacted
from db.errors import ConfigError

PASSWORD = "k7Jq2vXw9"
DATABASE, BROKER = f"postgresql://u:{PASSWORD}@db.example/d", f"redis://:{PASSWORD}@valkey.example/0"


@pytest.fixture(autouse=True)
def nothing_else_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BUSHEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BUSHEL_DATABASE_URL", DATABASE)
    monkeypatch.setenv("BUSHEL_BROKER_URL", BROKER)


# Refusals


@pytest.mark.parametrize(
    "url", ["redis://valkey:6379/0", "rediss://valkey.example/0", "redis://10.0.0.7/0", "redis://user@valkey/0"]
)
def test_a_broker_elsewhere_without_a_password_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BUSHEL_BROKER_URL", url)

    with pytest.raises(ConfigError, match=r"^BUSHEL_BROKER_URL: .*has no password.*BUSHEL_ALLOW_INSECURE_BROKER"):
        Settings.from_environment()

    monkeypatch.setenv("BUSHEL_ALLOW_INSECURE_BROKER", "true")
    assert Settings.from_environment().broker_url == url


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:6379/0", "redis://localhost/0", "redis://[::1]/0", "redis+socket:///run/v.sock", BROKER]
)
def test_a_broker_that_only_we_reach_needs_no_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BUSHEL_BROKER_URL", url)

    assert Settings.from_environment().broker_url == url


@pytest.mark.parametrize(
    "password", ["change-me", "password", "Bushel", "%3Cpassword%3E", "xxxxxxxx", "postgres", "me"]
)
@pytest.mark.parametrize("name", ["BUSHEL_DATABASE_URL", "BUSHEL_BROKER_URL"])
def test_a_password_out_of_an_example_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, password: str) -> None:
    scheme = "postgresql" if "DATABASE" in name else "redis"
    monkeypatch.setenv(name, f"{scheme}://me:{password}@127.0.0.1/0")

    with pytest.raises(ConfigError, match=rf"^{name}: .*its password is (a placeholder|the user's name)"):
        Settings.from_environment()


def test_the_urls_that_the_documents_show_would_be_refused() -> None:
    """Who copies them without a thought is told."""
    shown = [Settings.model_fields[name].description or "" for name in ("database_url", "broker_url")]
    urls = [word.strip(",") for text in shown for word in text.split() if ":password@" in word]

    assert len(urls) == 2
    assert all(safeguards.password_problem(url) for url in urls)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "bushel.example"])
def test_listening_where_others_reach_us_wants_a_word(host: str) -> None:
    assert "BUSHEL_ALLOW_PLAIN_HTTP" in (safeguards.listening_problem(host) or "")
    assert safeguards.listening_problem("127.0.0.1") is safeguards.listening_problem("::1") is None


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--pool", "threads"),
        (
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "python:api.gunicorn_conf",
            "--bind",
            "127.0.0.1:0",
            "api.app:create_app()",
        ),
        (sys.executable, "-m", "migrations"),
        (sys.executable, "-m", "db.keys", "--first"),
    ],
    ids=["worker", "api", "migrations", "keys"],
)
def test_a_process_that_refuses_to_start_says_why_in_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    environment = os.environ | {"BUSHEL_BROKER_URL": "redis://valkey.example/0", "BUSHEL_DATA": str(tmp_path)}

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    assert done.returncode not in (0, None)
    [line] = done.stderr.splitlines()
    assert "BUSHEL_BROKER_URL" in line and "BUSHEL_ALLOW_INSECURE_BROKER" in line
    assert PASSWORD not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("listening", "more", "says"),
    [
        (("--bind", "0.0.0.0:0"), {}, "BUSHEL_ALLOW_PLAIN_HTTP"),
        (("--bind", "[::]:0"), {}, "BUSHEL_ALLOW_PLAIN_HTTP"),
        (("--bind", "127.0.0.1:0"), {"FLASK_DEBUG": "1"}, "FLASK_DEBUG"),
    ],
    ids=["every address", "every address of IPv6", "debug mode"],
)
def test_the_api_refuses_to_be_open_to_all(
    listening: tuple[str, ...], more: dict[str, str], says: str, tmp_path: Path
) -> None:
    command = (sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", *listening, "api.app:create_app()")
    environment = os.environ | {"BUSHEL_DATA": str(tmp_path)} | more

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    assert done.returncode not in (0, None)
    lines = done.stderr.splitlines()
    assert [line for line in lines if says in line] == lines[-1:]
    assert "Traceback" not in done.stderr


# Files


def test_a_setting_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{BROKER}\n")
    monkeypatch.delenv("BUSHEL_BROKER_URL")
    monkeypatch.setenv("BUSHEL_BROKER_URL_FILE", str(tmp_path / "url"))

    assert Settings.from_environment().broker_url == BROKER


def test_a_file_that_gives_no_setting_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_text("x" * 100_000)
    monkeypatch.delenv("BUSHEL_BROKER_URL")

    for name, reason in {"empty": "is empty", "binary": "not text", "large": "too large", "nobody": "No such"}.items():
        monkeypatch.setenv("BUSHEL_BROKER_URL_FILE", str(tmp_path / name))
        with pytest.raises(ConfigError, match=rf"BUSHEL_BROKER_URL_FILE: .*{name}.*{reason}"):
            Settings.from_environment()


def test_a_setting_and_its_file_at_once_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(BROKER)
    monkeypatch.setenv("BUSHEL_BROKER_URL_FILE", str(tmp_path / "url"))

    with pytest.raises(ConfigError, match="BUSHEL_BROKER_URL and BUSHEL_BROKER_URL_FILE are both set"):
        Settings.from_environment()


# Discretion


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PASSWORD}@host:no-port/d",
        f"postgresql://u:{PASSWORD}/with/slashes@host/d",
        f"mysql://u:{PASSWORD}@host/d",
        f"postgresql://u:{PASSWORD}@[nonsense/d",
    ],
)
def test_a_url_that_cannot_be_used_is_not_repeated(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BUSHEL_DATABASE_URL", url)

    with pytest.raises(ConfigError) as caught:
        Settings.from_environment()

    told = [str(caught.value), str(caught.value.__cause__)]
    assert not [text for text in told if PASSWORD in text]


def test_settings_show_no_password() -> None:
    shown = repr(Settings.from_environment())

    assert PASSWORD not in shown and "log_level" in shown


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("cannot reach redis://u:hunter2@h:1/0 now", "cannot reach redis://u:***@h:1/0 now"),
        ("redis+socket://bushel:hunter2@/run/v.sock", "redis+socket://bushel:***@/run/v.sock"),
        ("http://h:80/x?mail=a@b", "http://h:80/x?mail=a@b"),
        ("key bsh_0123456789ab_0123456789012345678901234567890123456789012abcdef!", "key bsh_***!"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_***"),
        ("it was s3cr3t", "it was ***"),
    ],
)
def test_secrets_are_taken_out_of_a_line(said: str, written: str) -> None:
    assert redacted(said, ["s3cr3t"]) == written


def test_secrets_are_taken_out_of_a_traceback() -> None:
    try:
        raise OSError(f"no route to {DATABASE}")
    except OSError:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "failed", None, sys.exc_info())

    written = Discreet(logging.Formatter()).format(record)

    assert "Traceback" in written and "db.example" in written
    assert PASSWORD not in written


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        (sys.executable, "-c", "input()"), stdin=subprocess.PIPE, preexec_fn=die_with_parent(signal.SIGKILL)
    ) as process:
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_the_parts_of_a_stack_leave_no_core_files(sleeper: "subprocess.Popen[bytes]") -> None:
    assert resource.prlimit(sleeper.pid, resource.RLIMIT_CORE) == (0, 0)
