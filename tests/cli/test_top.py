"""`bushel top` against the real API: as text, as JSON, and on a screen."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from api.config import APISettings
from cli.board import Size, board
from cli.client import Client
from cli.glance import Looker
from cli.main import run
from db import keys
from db.doorbell import RecordingDoorbell
from db.keys import Scope
from db.session import Sessions
from db.workers import Presence, beat
from tests.cli.terminal import Terminal
from tests.conftest import LiveAPI, served
from tests.ledger import Ledger
from tests.waiting import eventually

Captured = pytest.CaptureFixture[str]

RUNNING = {"chunk": 1, "model": "echo", "since": 1_790_000_002, "items": 7}
ACTIVITY = {"busy": 0.5, "memory_bytes": 1_500_000_000, "device_memory_bytes": 2_000_000, "running": RUNNING}
# What would clear the screen, set its title, begin a sequence in one character, and turn the line around.
HOSTILE = "evil\x1b[2J\x1b]0;owned\x07\x9b31m\u202etxt\nnext"
SECONDS = 60.0


@pytest.fixture(autouse=True)
def environment(api: LiveAPI, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    found = {"BUSHEL_URL": api.url, "BUSHEL_API_KEY": key, "BUSHEL_DATA": str(tmp_path / "none")}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def worker(ledger: Ledger, id: str = "host/worker-1:11:aa", **said: Any) -> None:
    with ledger.sessions.begin() as session:
        beat(session, Presence(id, "host", 11, "cuda", "0", ["echo"], **said))


def job(client: httpx.Client, ledger: Ledger, items: int, name: str) -> str:
    """A job in progress, of a name."""
    body = {"task": "translation", "inputs": [f"text {number}" for number in range(items)], "metadata": {"name": name}}
    job_id = str(client.post("/v1/jobs", json=body).json()["id"])
    ledger.ingest(job_id)
    return job_id


@pytest.fixture
def half_done(client: httpx.Client, ledger: Ledger) -> str:
    """A job of four items, one of which has failed and one succeeded, on a worker that has two more."""
    worker(ledger, loaded=["echo"], activity=ACTIVITY)
    job_id = job(client, ledger, 4, "nightly")
    ledger.recut(job_id, 2)
    claim = ledger.claim(job_id)
    assert claim
    ledger.record(claim, fail=1)
    assert ledger.claim(job_id)
    return job_id


def once(capfd: Captured, *arguments: str) -> str:
    assert run(["top", "--once", *arguments]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def line(text: str, part: str) -> str:
    [found] = [each for each in text.splitlines() if part in each]
    return found


# As text


def test_once_shows_service_workers_queues_and_jobs(capfd: Captured, api: LiveAPI, half_done: str) -> None:
    text = once(capfd)

    first = text.splitlines()[0]
    assert first.startswith("bushel ") and api.url in first
    assert "cuda" in line(text, "host/worker-1") and " 50%" in line(text, "host/worker-1")
    assert "1.5 GB + 2.0 MB of the device" in line(text, "host/worker-1")
    assert "7 items of echo" in line(text, "host/worker-1")
    assert "items: 0 wait, 2 run, 0 paused" in line(text, "QUEUES")
    # Waiting, paused, nobody's age, running, leased, workers.
    assert line(text, "echo   ").split()[:7] == ["echo", "0", "0", "-", "2", "1", "1"]
    shown = line(text, half_done)
    assert "nightly" in shown and "running" in shown and "2/4" in shown and "1 failed" in shown
    assert "━━━━xxxx········" in shown


def test_a_queue_tells_how_deep_it_is_and_how_long_its_oldest_job_waits(
    capfd: Captured, client: httpx.Client, ledger: Ledger
) -> None:
    worker(ledger, loaded=["echo"])
    job_id = job(client, ledger, 5, "waits")
    ledger.run("UPDATE jobs SET in_progress_at = now() - interval '2 hours' WHERE id = :id", id=job_id)
    put_off = job(client, ledger, 3, "put off")
    client.post(f"/v1/jobs/{put_off}/pause")

    text = once(capfd)

    assert line(text, "echo   ").split()[:5] == ["echo", "5", "3", "2h", "00m"]
    assert "paused" in line(text, "put off")


def test_a_job_says_why_it_waits_and_one_that_ended_what_it_took(
    capfd: Captured, client: httpx.Client, ledger: Ledger
) -> None:
    ended = ledger.started(2)
    claim = ledger.claim(ended)
    assert claim
    ledger.record(claim)
    ledger.finalize(ended)
    waits = job(client, ledger, 3, "no worker")

    text = once(capfd)

    assert "waiting" in line(text, waits) and "no worker is running" in line(text, waits)
    assert "completed" in line(text, ended) and "took " in line(text, ended) and " ago" in line(text, ended)
    # What has not ended comes first.
    assert text.index(waits) < text.index(ended)


def test_the_band_of_a_job_is_shown_with_its_end(capfd: Captured, ledger: Ledger) -> None:
    worker(ledger, loaded=["echo"])
    ledger.run(
        "INSERT INTO model_rates (model, tokens_per_second, output_per_input, low_factor, high_factor)"
        " VALUES ('echo', 10, 1, 0.5, 3)"
    )
    job_id = ledger.started(600)
    ledger.recut(job_id, 100)

    assert "2m 00s (1m 00s to 6m 00s)" in line(once(capfd), job_id)


def test_a_lost_worker_and_what_is_unwell_are_told(capfd: Captured, ledger: Ledger) -> None:
    worker(ledger, activity=ACTIVITY)
    ledger.run("UPDATE workers SET heartbeat_at = now() - interval '5 minutes'")

    text = once(capfd)

    assert "0 alive, 1 lost" in text
    assert "lost: what it held is taken back" in line(text, "host/worker-1")
    assert "ready, but" in text.splitlines()[0]
    assert "workers: no worker is running; jobs wait" in text


def test_jobs_that_have_not_ended_are_there_however_many_came_after_them(capfd: Captured, ledger: Ledger) -> None:
    old = ledger.started(3)
    for _ in range(60):
        ledger.submit(b"text\n")
    ledger.run("UPDATE jobs SET status = 'completed', completed_at = now() WHERE id <> :id", id=old)

    text = once(capfd)

    assert old in text
    assert "1 open, 0 of them running; 50 ended lately" in text


def test_open_jobs_are_all_there_though_they_fill_more_than_a_page(capfd: Captured, ledger: Ledger) -> None:
    oldest = ledger.started(3)
    assert ledger.claim(oldest)
    for _ in range(120):
        ledger.submit(b"text\n")
    ledger.run("UPDATE jobs SET status = 'in_progress', in_progress_at = now() WHERE id <> :id", id=oldest)

    text = once(capfd)

    assert "121 open, 1 of them running; 0 ended lately" in text
    # The first of them to have been submitted is the one that runs, and comes first.
    assert oldest in text.partition("JOBS")[2].splitlines()[1]


def test_of_more_jobs_than_it_can_look_at_it_says_that_there_are_more(api: LiveAPI, key: str, ledger: Ledger) -> None:
    for _ in range(55):
        ledger.submit(b"text\n")

    with Client(api.url, key) as asking:
        some = Looker(asking, most_open=52).look()
        all_of_them = Looker(asking, most_open=55).look()

    assert (len(some.open_jobs), some.has_more, json.loads(some.document())["has_more"]) == (52, True, True)
    assert (len(all_of_them.open_jobs), all_of_them.has_more) == (55, False)
    told = Console(width=100)
    with told.capture() as drawn:
        told.print(board(some, Size(100), some.seen_at))
    assert "more than 52 open, of which the newest are here; 0 ended lately" in drawn.get()


def test_nothing_of_a_stranger_reaches_the_terminal(capfd: Captured, client: httpx.Client, ledger: Ledger) -> None:
    worker(ledger, f"host/{HOSTILE}:1:a", unavailable={"echo": HOSTILE})
    job_id = job(client, ledger, 1, HOSTILE)

    text = once(capfd)

    assert "evil\ufffd[2J\ufffd]0;owned\ufffd\ufffd31m\ufffdtxt\ufffdnext" in line(text, job_id)
    assert not set("\x1b\x07\x9b\u202e") & set(text)


def test_without_a_terminal_it_looks_once(capfd: Captured, half_done: str) -> None:
    assert run(["top"]) == 0

    assert half_done in capfd.readouterr().out


# As JSON


def test_json_is_one_line_with_what_the_api_says(
    capfd: Captured, api: LiveAPI, client: httpx.Client, half_done: str
) -> None:
    [document] = once(capfd, "--json").splitlines()

    found = json.loads(document)
    assert (found["object"], found["url"], found["error"]) == ("glance", api.url, None)
    assert found["version"] == client.get("/openapi.json").json()["info"]["version"]
    assert found["readiness"]["checks"]["database"]["ok"] is True
    assert [each["id"] for each in found["workers"]] == ["host/worker-1:11:aa"]
    assert found["queues"][0].keys() == client.get("/v1/queues").json()["data"][0].keys()
    assert [(each["id"], each["counts"]["failed"]) for each in found["jobs"]] == [(half_done, 1)]


def test_json_goes_on_when_the_server_goes_and_comes(settings: APISettings, key: str, half_done: str) -> None:
    with served(settings, RecordingDoorbell()) as api:
        url, port = api.url, httpx.URL(api.url).port or 0
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "--url", url, "top", "--json", "--interval", "0.2"],
            stdout=subprocess.PIPE,
            env={**os.environ, "BUSHEL_API_KEY": key},
            text=True,
        )
        documents = _documents(process)
        first = next(documents)
    try:
        gone = next(each for each in documents if each["error"])
        with served(settings, RecordingDoorbell(), port):
            back = next(each for each in documents if not each["error"])
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()

    assert first["error"] is None
    assert f"no Bushel at {url}" in gone["error"]
    assert [each["id"] for each in gone["jobs"]] == [half_done]
    assert back["seen_at"] > gone["seen_at"] >= first["seen_at"]
    assert process.returncode == 130


def _documents(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert process.stdout
    yield from map(json.loads, process.stdout)


# What goes wrong before there is anything to see


@pytest.mark.parametrize("arguments", [[], ["--once"], ["--json"]], ids=["view", "once", "json"])
def test_no_server_is_an_error_at_once(capfd: Captured, arguments: list[str]) -> None:
    assert run(["--url", "http://127.0.0.1:1", "top", *arguments]) == 3

    assert "is `bushel up` running?" in capfd.readouterr().err


def test_a_key_that_may_not_read_is_told_which_scope_is_missing(
    capfd: Captured, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sessions.begin() as session:
        monkeypatch.setenv("BUSHEL_API_KEY", keys.issue_key(session, scopes=[Scope.SUBMIT]))

    assert run(["top"]) == 2

    assert "this needs a key with the scope `read`; the scopes of this key: submit" in capfd.readouterr().err


# On a screen


@pytest.mark.parametrize(("columns", "rows"), [(60, 18), (80, 24), (140, 40)], ids=str)
def test_every_size_of_a_screen_shows_ids_and_figures_whole(
    environment: dict[str, str], half_done: str, columns: int, rows: int
) -> None:
    with Terminal(["top", "--interval", "0.2"], columns, rows, environment) as terminal:
        screen = eventually(terminal.screen, SECONDS)
        terminal.press(b"q")
        eventually(terminal.has_ended, SECONDS)

    lines = screen.splitlines()
    assert len(lines) <= rows and max(map(len, lines)) <= columns
    assert half_done in screen and "2/4" in screen and "1 failed" in screen and "nightly" in screen
    assert "50%" in screen and "host/worker-1" in screen
    assert "q quit" in screen
    assert terminal.process.returncode == 0


def test_it_follows_what_happens_and_the_size_of_its_window(
    environment: dict[str, str], client: httpx.Client, ledger: Ledger, half_done: str
) -> None:
    with Terminal(["top", "--interval", "0.2"], 140, 30, environment) as terminal:
        eventually(lambda: "nightly" in terminal.screen(), SECONDS)
        other = job(client, ledger, 3, "a second one")
        # It is also drawn while its input is still being checked.
        wide = eventually(lambda: "0/3" in terminal.screen() and terminal.screen(), SECONDS)
        terminal.resize(60, 22)
        narrow = eventually(lambda: "0/3" in terminal.screen() and terminal.screen(), SECONDS)

    assert "a second one" in line(wide, other) and "0/3" in line(wide, other)
    assert max(map(len, narrow.splitlines())) <= 60
    # A job is two lines now.
    assert "0/3" not in line(narrow, other) and "0/3" in narrow


def test_keys_move_through_jobs_that_do_not_fit(
    environment: dict[str, str], client: httpx.Client, ledger: Ledger
) -> None:
    names = [f"number {number} of nine" for number in range(9)]
    for name in names:
        job(client, ledger, 1, name)

    with Terminal(["top"], 80, 16, environment) as terminal:
        first = eventually(lambda: "number 0" in terminal.screen() and terminal.screen(), SECONDS)
        terminal.press(b"jj\x1b[B")
        eventually(lambda: "number 3" in terminal.screen() and "number 2" not in terminal.screen(), SECONDS)
        terminal.press(b"\x1b[6~\x1b[6~")
        eventually(lambda: "number 8" in terminal.screen() and "more" not in terminal.screen(), SECONDS)
        terminal.press(b"\x1b[5~\x1b[5~k")
        last = eventually(lambda: "number 0" in terminal.screen() and terminal.screen(), SECONDS)

    assert "number 8" not in first and "more" in first
    assert "number 8" not in last


def test_a_server_that_goes_is_said_to_be_away_beside_the_last_figures(
    environment: dict[str, str], settings: APISettings, half_done: str
) -> None:
    with served(settings, RecordingDoorbell()) as api:
        port = httpx.URL(api.url).port or 0
        terminal = Terminal(["--url", api.url, "top", "--interval", "0.2"], 100, 24, environment)
        eventually(lambda: half_done in terminal.screen(), SECONDS)
    with terminal:
        away = eventually(lambda: "no answer" in terminal.screen() and terminal.screen(), SECONDS)
        with served(settings, RecordingDoorbell(), port):
            back = eventually(lambda: "no answer" not in terminal.screen() and terminal.screen(), SECONDS)

    assert "trying again: no Bushel at" in away
    assert half_done in away and "2/4" in away
    assert half_done in back and "trying again" not in back


def test_a_key_that_is_revoked_meanwhile_ends_it_with_the_usual_words(
    environment: dict[str, str], ledger: Ledger, half_done: str
) -> None:
    with Terminal(["top", "--interval", "0.2"], 100, 24, environment) as terminal:
        eventually(lambda: half_done in terminal.screen(), SECONDS)
        ledger.run("UPDATE api_keys SET revoked_at = now()")
        eventually(terminal.has_ended, SECONDS)

        assert terminal.process.returncode == 2
        assert b"set BUSHEL_API_KEY" in terminal.said
        assert terminal.is_as_before()


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param(lambda terminal: terminal.press(b"q"), 0, id="q"),
        pytest.param(lambda terminal: terminal.press(b"\x03"), 130, id="Ctrl-C"),
        pytest.param(lambda terminal: terminal.signal(signal.SIGTERM), 143, id="SIGTERM"),
    ],
)
def test_whatever_ends_it_leaves_the_terminal_as_it_was(
    environment: dict[str, str], half_done: str, end: Any, code: int
) -> None:
    with Terminal(["top"], 80, 24, environment) as terminal:
        eventually(lambda: half_done in terminal.screen(), SECONDS)
        was_changed = not terminal.is_as_before()
        end(terminal)
        eventually(terminal.has_ended, SECONDS)

        assert was_changed
        assert terminal.process.returncode == code
        assert terminal.is_as_before()


def test_a_stranger_s_name_draws_nothing_on_the_screen(
    environment: dict[str, str], client: httpx.Client, ledger: Ledger
) -> None:
    job_id = job(client, ledger, 1, HOSTILE)

    with Terminal(["top"], 140, 24, environment) as terminal:
        screen = eventually(lambda: job_id in terminal.screen() and terminal.screen(), SECONDS)

    assert "evil\ufffd[2J\ufffd]0;owned" in line(screen, job_id)
    assert b"\x1b[2J\x1b]0;owned" not in terminal.said and "\u202e".encode() not in terminal.said
