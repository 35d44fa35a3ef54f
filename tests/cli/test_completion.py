"""`bushel completion`: what shells offer, asked of the shells themselves where they are installed."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from cli.main import COMMANDS, run
from tests.conftest import LiveAPI
from tests.ledger import Ledger

Captured = pytest.CaptureFixture[str]

BASH = """
source <(bushel completion bash)
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_bushel_completion bushel "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
compdef() { }
eval "$(bushel completion zsh)"
compadd() { while [[ $1 != -a ]]; do shift; done; print -l ${(P)2} }
_describe() { print -l ${(P)3} }
words=("$@")
CURRENT=$#
_bushel_completion
"""
FISH = "bushel completion fish | source; complete -C (string join ' ' $argv)"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shells find `bushel` where this Python is, and no server."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "bushel"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli.main "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("BUSHEL_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("BUSHEL_DATA", str(tmp_path / "none"))


@pytest.fixture
def server(api: LiveAPI, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSHEL_URL", api.url)
    monkeypatch.setenv("BUSHEL_API_KEY", key)


def shell(*command: str) -> list[str]:
    """The lines that it prints, if it prints no error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def bash(*words: str) -> list[str]:
    return shell("bash", "--norc", "--noprofile", "-c", BASH, "bash", "bushel", *words)


def zsh(*words: str) -> list[str]:
    return shell("zsh", "-f", "-c", ZSH, "zsh", "bushel", *words)


def fish(*words: str) -> list[str]:
    return shell("fish", "--no-config", "-c", FISH, "bushel", *words)


def there(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"NOT CHECKED: no {name} here")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([""], list(COMMANDS), id="commands"),
        pytest.param(["can"], ["cancel"], id="a command"),
        pytest.param(["completion", ""], ["bash", "zsh", "fish"], id="an argument with choices"),
        pytest.param(["submit", "--task", "s"], ["summarization"], id="an option with choices"),
        pytest.param(["submit", "--task=s"], ["summarization"], id="joined to its option"),
        pytest.param(["top", "--"], ["--interval", "--once", "--json", "--data", "--help"], id="options"),
        pytest.param(["keys", "r"], ["rotate", "revoke"], id="commands of a group"),
        pytest.param(["models", "check", "translation-ba"], ["translation-balanced"], id="models of the registry"),
    ],
)
def test_bash_completes_what_is_known_here(words: list[str], expected: list[str]) -> None:
    assert sorted(bash(*words)) == sorted(expected)


@pytest.mark.parametrize("command", ["status", "watch", "results", "cancel", "retry", "clone", "delete", "audit"])
def test_jobs_are_offered_newest_first(server: None, ledger: Ledger, command: str) -> None:
    jobs = [ledger.submit(b"text\n") for _ in range(3)]

    assert bash(command, "job_") == jobs[::-1]


def test_both_jobs_of_a_comparison_are_offered(server: None, ledger: Ledger) -> None:
    job_id = ledger.submit(b"text\n")

    assert bash("compare", job_id, "") == [job_id]


def test_of_many_jobs_the_newest_fifty_are_offered(server: None, ledger: Ledger) -> None:
    jobs = [ledger.submit(b"text\n") for _ in range(52)]

    assert bash("status", "") == jobs[:1:-1]


def test_models_are_those_of_the_server_for_the_task(server: None) -> None:
    assert bash("submit", "--model", "") == ["echo", "echo-chat", "echo-many"]
    assert bash("submit", "--task", "generation", "--model", "") == ["echo-chat"]
    assert bash("generate", "--model", "") == ["echo-chat"]
    assert bash("clone", "job_1", "--model", "echo-m") == ["echo-many"]


def test_the_server_is_the_one_that_the_words_name(api: LiveAPI, key: str, ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "client.json").write_text(f'{{"url": "{api.url}", "api_key": "{key}"}}')
    os.environ.pop("BUSHEL_URL")
    job_id = ledger.submit(b"text\n")

    assert bash("status", "") == []
    assert bash("--data", str(tmp_path / "home"), "status", "") == [job_id]
    assert bash("status", "--data", str(tmp_path / "home"), "") == [job_id]


def test_where_no_server_answers_nothing_is_offered_and_nothing_is_said() -> None:
    assert bash("status", "") == []
    assert bash("submit", "--model", "") == []


def test_a_wrong_key_offers_nothing_and_says_nothing(server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSHEL_API_KEY", "bsh_wrong")

    assert bash("status", "") == []


def test_a_data_folder_that_cannot_be_read_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "client.json").write_text("{broken")

    assert bash("--data", str(tmp_path), "status", "") == []


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("BUSHEL_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("_BUSHEL_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", "bushel status ")
        monkeypatch.setenv("COMP_CWORD", "2")
        began = time.monotonic()
        found = shell("bushel")

    assert found == []
    # The client's own patience with a server is ten seconds, and usually thirty.
    assert time.monotonic() - began < 9


def completed(monkeypatch: pytest.MonkeyPatch, kind: str, words: str) -> list[str]:
    """What is handed to the shell's own function."""
    monkeypatch.setenv("_BUSHEL_COMPLETE", f"{kind}_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    # fish says the word itself, the others which it is.
    monkeypatch.setenv("COMP_CWORD", "" if kind == "fish" else str(words.count(" ")))
    return shell("bushel")


def test_a_name_is_the_help_and_does_nothing_to_the_shell(
    server: None, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "evil\x1b[2J\u202e\n$(touch owned)"
    body = {"task": "translation", "inputs": ["a"], "metadata": {"name": name}}
    job_id = client.post("/v1/jobs", json=body).json()["id"]

    told = "evil\ufffd[2J\ufffd\ufffd$(touch owned) (validating)"
    assert completed(monkeypatch, "zsh", "bushel status ") == ["plain", job_id, told]
    assert completed(monkeypatch, "fish", "bushel status ") == [f"plain,{job_id}\t{told}"]
    monkeypatch.delenv("_BUSHEL_COMPLETE")
    assert bash("status", "") == [job_id]


@there("zsh")
def test_zsh_completes_commands_and_jobs_with_their_help(server: None, ledger: Ledger) -> None:
    job_id = ledger.submit(b"text\n")

    assert zsh("can") == [f"cancel:{COMMANDS['cancel'][1]}"]
    assert zsh("status", "job_") == [f"{job_id}:translation with echo (validating)"]


@there("fish")
def test_fish_completes_commands_and_jobs_with_their_help(server: None, ledger: Ledger) -> None:
    job_id = ledger.submit(b"text\n")

    assert fish("can") == [f"cancel\t{COMMANDS['cancel'][1]}"]
    assert fish("status", "job_") == [f"{job_id}\ttranslation with echo (validating)"]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("bash", 'eval "$(bushel completion bash)"'),
        ("zsh", 'eval "$(bushel completion zsh)"'),
        ("fish", "bushel completion fish > ~/.config/fish/completions/bushel.fish"),
    ],
)
def test_help_has_the_line_to_put_into_each_shell_s_file(capfd: Captured, kind: str, line: str) -> None:
    assert run(["completion", "--help"]) == 0

    assert line in [each.strip() for each in capfd.readouterr().out.splitlines()]
    assert run(["completion", kind]) == 0
    assert "_bushel_completion" in capfd.readouterr().out


def test_completing_a_command_s_name_imports_no_command_and_nothing_that_talks() -> None:
    script = (
        "import sys\n"
        "from cli.main import bushel\n"
        "from click.shell_completion import BashComplete\n"
        "found = BashComplete(bushel, {}, 'bushel', '_BUSHEL_COMPLETE').get_completions([], 's')\n"
        "print(*(item.value for item in found))\n"
        "print(*(name for name in ('httpx', 'rich', 'sqlalchemy', 'torch', 'cli.submit') if name in sys.modules))\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.splitlines() == ["submit status summarize", ""]
