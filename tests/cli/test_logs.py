"""`bushel logs`: what parts have logged, of every format, in one stream; from their ends, and while they go on."""

import doctest
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.logbook import lines, volume
from cli.logbook.book import Book, Wanted
from cli.logbook.entry import parsed
from cli.logs import moment
from cli.main import run
from cli.stack.logs import Log
from tests.cli.terminal import Terminal
from tests.cli.upping import up
from tests.waiting import eventually

Captured = pytest.CaptureFixture[str]

API = """\
2026-03-01T10:00:00.000+00:00 INFO gunicorn.error: Starting
2026-03-01T10:00:02.000+00:00 ERROR api.errors: it went wrong  [request_id=req_1 job_id=job_a]
Traceback (most recent call last):
  File "x.py", line 1, in <module>
ValueError: kaput
2026-03-01T10:00:04.000+00:00 INFO api.jobs: job job_b was submitted  [job_id=job_b models=["a b"] count=3]
"""
WORKER = """\
 -------------- worker-1@vm v5.7.0
[tasks]
{"timestamp":"2026-03-01T10:00:01.000+00:00","level":"info","logger":"workers.process","message":"serves"}
{"timestamp":"2026-03-01T10:00:03.000+00:00","level":"warning","logger":"workers.runner","message":"slow",\
"job_id":"job_a","exception":"Traceback\\n  why"}
"""
POSTGRES = """\
2026-03-01 10:00:00.500 UTC [7] @ LOG:  database system is ready to accept connections
2026-03-01 10:00:02.500 UTC [8] bushel@bushel ERROR:  relation "x" does not exist at character 15
2026-03-01 10:00:02.500 UTC [8] bushel@bushel HINT:  make it
2026-03-01 10:00:02.500 UTC [8] bushel@bushel STATEMENT:  SELECT *
\t  FROM x
"""
BUSHEL = """\
2026-03-01T10:00:00.100+00:00 INFO cli.stack.supervisor: postgres: ready (0.0 s)  [part=postgres]
2026-03-01T10:00:02.100+00:00 WARNING cli.stack.supervisor: api: 2026-03-01T10:00:02.000+00:00 ERROR api.errors: it \
went wrong  [part=api]
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with logs in all formats; Valkey's, alone without a zone, is in the machine's."""
    monkeypatch.setenv("BUSHEL_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "logs"
    folder.mkdir()
    local = datetime(2026, 3, 1, 10, 0, 1, 500_000, UTC).astimezone()
    valkey = f"9:M {local:%d} Mar {local:%Y %H:%M:%S}.500 # Fatal: nothing works\n"
    texts = {"api": API, "worker-1": WORKER, "postgres": POSTGRES, "bushel": BUSHEL, "valkey": valkey, "migrations": ""}
    for part, text in texts.items():
        (folder / f"{part}.log").write_text(text)
    return tmp_path


def told(capfd: Captured, *arguments: str) -> list[dict[str, Any]]:
    assert run(["logs", "--json", *arguments]) == 0
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def brief(found: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(each["timestamp"][17:23], each["part"], each["message"].split(" ")[0]) for each in found]


def test_all_parts_are_in_the_order_of_time_and_the_same_line_is_told_once(data: Path, capfd: Captured) -> None:
    assert brief(told(capfd)) == [
        ("00.000", "api", "Starting"),
        ("00.100", "bushel", "postgres:"),
        ("00.500", "postgres", "database"),
        ("01.000", "worker-1", ""),
        ("01.000", "worker-1", "serves"),
        ("01.500", "valkey", "Fatal:"),
        ("02.000", "api", "it"),
        ("02.500", "postgres", "relation"),
        ("03.000", "worker-1", "slow"),
        ("04.000", "api", "job"),
    ]


def test_every_format_becomes_the_same_object(data: Path, capfd: Captured) -> None:
    found = {(each["part"], each["message"]): each for each in told(capfd)}

    assert found["api", "job job_b was submitted"] == {
        "timestamp": "2026-03-01T10:00:04.000+00:00",
        "level": "info",
        "part": "api",
        "logger": "api.jobs",
        "message": "job job_b was submitted",
        "job_id": "job_b",
        "models": ["a b"],
        "count": 3,
    }
    assert found["worker-1", "slow"]["exception"] == "Traceback\n  why"
    assert found["api", "it went wrong"]["exception"].endswith("ValueError: kaput")
    error = found["postgres", 'relation "x" does not exist at character 15']
    assert error["level"] == "error" and error["pid"] == 8
    assert error["exception"].splitlines() == ["HINT:  make it", "STATEMENT:  SELECT *", "\t  FROM x"]
    assert found["bushel", "postgres: ready (0.0 s)"]["about"] == "postgres"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--tail", "2"], ["slow", "job"], id="the last two"),
        pytest.param(["--tail", "0"], [], id="none"),
        pytest.param(["--level", "warning"], ["Fatal:", "it", "relation", "slow"], id="by level"),
        pytest.param(["--level", "ERROR", "--tail", "1"], ["relation"], id="the last grave one"),
        pytest.param(["--since", "2026-03-01T10:00:02.5"], ["relation", "slow", "job"], id="since, in UTC"),
        pytest.param(["--since", "2026-03-01T12:00:03+02:00"], ["slow", "job"], id="since, in a zone"),
        pytest.param(["--since", "2026-03-01T10:00:01", "--tail", "1"], ["job"], id="since and the last"),
        pytest.param(["--since", "10m"], [], id="lately"),
        pytest.param(["--grep", "KAPUT"], ["it"], id="in a traceback, in any case"),
        pytest.param(["--grep", "req_1"], ["it"], id="in a field"),
        pytest.param(["--job", "job_a"], ["it", "slow"], id="of a job"),
        pytest.param(["--job", "batch_a", "--part", "api"], ["it"], id="of a batch"),
        pytest.param(["--part", "postgres"], ["postgres:", "database", "relation"], id="with what is said of it"),
        pytest.param(["--part", "valkey", "--part", "bushel"], ["postgres:", "Fatal:", "api:"], id="the supervisor"),
    ],
)
def test_what_is_asked_for_is_shown(data: Path, capfd: Captured, arguments: list[str], expected: list[str]) -> None:
    assert [each["message"].split(" ")[0] for each in told(capfd, *arguments)] == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--part", "apy"], "there are: api, bushel, migrations, postgres, valkey, worker-1", id="part"),
        pytest.param(["--since", "yesterday"], "'yesterday' is neither like 10m", id="since"),
        pytest.param(["--tail", "-1"], "'-1' is neither a number nor `all`", id="tail"),
        pytest.param(["--level", "loud"], "debug", id="level"),
        pytest.param(["--data", "none"], "has no logs", id="folder"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(
    data: Path, capfd: Captured, arguments: list[str], said: str
) -> None:
    assert run(["logs", *arguments]) == 2

    assert said in capfd.readouterr().err


def test_the_text_is_a_line_each_with_what_belongs_to_it_indented(data: Path, capfd: Captured) -> None:
    assert run(["logs", "--job", "job_a", "--part", "api"]) == 0

    assert capfd.readouterr().out.splitlines() == [
        "2026-03-01 10:00:02.000Z api    ERROR    it went wrong  [request_id=req_1 job_id=job_a]",
        "    Traceback (most recent call last):",
        '      File "x.py", line 1, in <module>',
        "    ValueError: kaput",
    ]


def test_a_hostile_line_does_nothing_to_the_terminal_and_levels_have_colours(data: Path) -> None:
    line = "2026-03-01T10:00:05.000+00:00 ERROR api: \x1b]0;pwned\x07\x1b[2J\u202egnp\nmore \x1b[31m\n"
    (data / "logs" / "api.log").write_text(line)
    environment = {"BUSHEL_DATA": str(data)}

    with Terminal(["logs", "--part", "api"], 200, 24, environment) as terminal:
        eventually(terminal.has_ended, 60)
        said = terminal.said

    assert b"pwned" in said and b"\x1b[2J" not in said and b"\x1b]0;" not in said and b"\x07" not in said
    assert "\u202e".encode() not in said
    assert set(re.findall(rb"\x1b\[[0-9;]*m", said)) == {b"\x1b[31m", b"\x1b[0m"}
    assert b"\x1b[31m2026" in said and b"\x1b[31m\r\n" not in said


def test_what_a_process_says_before_it_has_a_log_is_told_and_its_traceback_is_an_error(
    data: Path, capfd: Captured
) -> None:
    (data / "logs" / "worker-1.log").write_text("Traceback (most recent call last):\nImportError: no torch\n")

    found = told(capfd, "--part", "worker-1", "--level", "error")

    assert [each["exception"] for each in found] == ["ImportError: no torch"]


def generations(folder: Path, name: str, parts: list[str]) -> None:
    """Oldest first, as rotation leaves them."""
    log = Log(folder / f"{name}.log")
    for part in parts:
        log.rotate()
        log.path.write_text(part)


def numbered(start: int, count: int, name: str = "api") -> str:
    at = datetime(2026, 3, 1, 10, 0, 0, tzinfo=UTC).timestamp()
    return "".join(
        f"{datetime.fromtimestamp(at + number, UTC).isoformat(timespec='milliseconds')} INFO {name}: line {number}\n"
        for number in range(start, start + count)
    )


@pytest.mark.parametrize("tail", [1, 3, 7, 10, 11, 12, 40])
def test_the_last_lines_are_found_over_generations(data: Path, capfd: Captured, tail: int) -> None:
    generations(data / "logs", "io", [numbered(0, 4), "banner\n" + numbered(4, 4), numbered(8, 4)])
    everything = told(capfd, "--part", "io", "--tail", "all")
    assert [each["message"] for each in everything].count("banner") == 1 and len(everything) == 13

    assert told(capfd, "--part", "io", "--tail", str(tail)) == everything[-tail:]


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_lines_backwards_are_the_lines_of_the_file_whatever_its_end_and_the_size_of_a_block(
    tmp_path: Path, block: int
) -> None:
    path = tmp_path / "x.log"
    for text in ("", "\n", "a", "a\n", "\na\n\n\nbcd\nef", "één\nzwei\n\n"):
        path.write_text(text)
        file = os.open(path, os.O_RDONLY)
        found = list(lines.backwards(file, path.stat().st_size, block))[::-1]
        forwards = lines.Forwards(file, block=block)
        read = [*forwards.lines(), *forwards.last()]
        os.close(file)

        assert [line for _, line in found] == text.splitlines() == read
        assert all(path.read_bytes()[offset:].decode().startswith(line) for offset, line in found)


def test_a_line_without_an_end_is_cut_and_costs_no_more_than_its_share(data: Path, capfd: Captured) -> None:
    (data / "logs" / "api.log").write_text(numbered(0, 1)[:-1] + "x" * 2 * lines.LONGEST + "\n" + numbered(1, 1))

    long, short = told(capfd, "--part", "api")

    assert len(long["message"]) < lines.LONGEST + 100 and long["message"].endswith("x… (cut)")
    assert short["message"] == "line 1"


def test_a_log_of_half_a_gigabyte_is_read_from_its_end_in_little_memory(data: Path) -> None:
    """Sparse: zeros, which take no room on the disk, would take all the room in memory if they were read at once."""
    with (data / "logs" / "api.log").open("r+b") as file:
        file.truncate(512 * 2**20)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + numbered(0, 3000).encode())

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (400 * 2**20, 400 * 2**20))

    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "--data", str(data), "logs", "--part", "api", "--tail", "2000"],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert [line.split("line ")[1] for line in done.stdout.splitlines()] == [str(n) for n in range(1000, 3000)]


def test_a_great_many_lines_behind_one_are_bounded(data: Path, capfd: Captured) -> None:
    (data / "logs" / "api.log").write_text(numbered(0, 1) + "noise\n" * 100_000 + numbered(1, 1))

    first, second = told(capfd, "--part", "api")
    backwards = told(capfd, "--part", "api", "--tail", "2")

    assert backwards == [first, second]
    assert volume.MOST_LINES <= len(first["exception"].splitlines()) <= volume.MOST_LINES + 2


class Following:
    """`bushel logs --follow` in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            self.lines.extend(out)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()

    def wait_for(self, text: str, seconds: float = 60) -> None:
        eventually(lambda: any(text in line for line in list(self.lines)), seconds)

    def messages(self) -> list[str]:
        return [str(json.loads(line)["message"]) for line in self.lines]


@contextmanager
def following(data: Path, *arguments: str) -> Iterator[Following]:
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "--data", str(data), "logs", "-f", "--json", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = Following(process)
    try:
        yield seen
    finally:
        seen.end()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_following_goes_on_through_every_kind_of_rotation_and_loses_and_repeats_nothing(data: Path) -> None:
    path = data / "logs" / "api.log"
    path.write_text(numbered(0, 5))
    log = Log(path, largest=10)

    with following(data, "--tail", "2", "--part", "api", "--part", "worker-1") as seen:
        seen.wait_for("line 4")
        append(path, numbered(5, 2))
        seen.wait_for("line 6")
        # Two restarts between two looks.
        append(path, numbered(7, 1))
        log.rotate()
        append(path, numbered(8, 1))
        log.rotate()
        append(path, numbered(9, 1))
        seen.wait_for("line 9")
        # Too large: copied, and emptied, with a line that was not looked at yet.
        append(path, numbered(10, 1))
        log.bound()
        append(path, numbered(11, 1))
        seen.wait_for("line 11")
        # More restarts than generations are kept.
        for number in range(12, 18):
            log.rotate()
            append(path, numbered(number, 1))
        seen.wait_for("line 17")
        append(path, numbered(18, 1)[:-1])
        append(path, "\n")
        seen.wait_for("line 18")

        found = [message for message in seen.messages() if message.startswith("line ")]

    numbers = [int(message.removeprefix("line ")) for message in found]
    assert numbers[:9] == list(range(3, 12))
    # Of six restarts in a moment four files are left, whoever looks how fast.
    assert numbers[-5:] == [14, 15, 16, 17, 18] and numbers == sorted(set(numbers))


def test_a_part_that_begins_to_log_is_followed_and_waiting_costs_next_to_nothing(data: Path) -> None:
    (data / "logs" / "worker-1.log").write_text(numbered(-2_000, 2_000, "workers"))
    with following(data, "--tail", "1") as seen:
        seen.wait_for("job_b")
        append(data / "logs" / "worker-2.log", "banner\n" + numbered(3, 1, "workers"))
        seen.wait_for("line 3")
        process = psutil.Process(seen.process.pid)
        append(data / "logs" / "worker-2.log", numbered(4, 1) + "Traceback (most recent call last):\n  File\n")
        seen.wait_for("line 4")
        looks, read, cpu = spent(process)
        # It goes to sleep between two looks.
        eventually(lambda: spent(process)[0] >= looks + 12, 60)
        _, read_then, cpu_then = spent(process)

    assert read_then - read < (data / "logs" / "worker-1.log").stat().st_size
    assert cpu_then - cpu < 1.0


def spent(process: psutil.Process) -> tuple[int, int, float]:
    """How often it has slept, the bytes it has read, and its seconds of CPU."""
    times = process.cpu_times()
    return process.num_ctx_switches().voluntary, process.io_counters().read_chars, times.user + times.system


def test_ctrl_c_ends_following_with_130_and_no_noise(data: Path) -> None:
    with Terminal(["logs", "--follow", "--part", "api"], 200, 24, {"BUSHEL_DATA": str(data)}) as terminal:
        eventually(lambda: terminal.has_ended() or b"job_b" in terminal.said, 60)
        terminal.press(b"\x03")
        eventually(terminal.has_ended, 30)

        assert terminal.process.returncode == 130
        assert b"Traceback" not in terminal.said.split(b"job_b")[-1]


def test_a_reader_that_leaves_ends_it_without_a_word(data: Path) -> None:
    (data / "logs" / "api.log").write_text(numbered(0, 50_000))

    done = subprocess.run(
        f"{sys.executable} -m cli.main --data {data} logs --tail all --part api | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.count("\n") == 1 and done.stderr == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("2026-03-01 10:00:00.000 +02 [1] a@b LOG:  x", (8, "info", "x"), id="PostgreSQL, by offset"),
        pytest.param("2026-03-01 10:00:00 UTC [1] a@b FATAL:  x", (10, "critical", "x"), id="PostgreSQL, fatal"),
        pytest.param("2026-03-01 10:00:00 UTC [1] a@b DETAIL:  x", None, id="PostgreSQL, explaining"),
        pytest.param("2026-13-01T10:00:00.000+00:00 INFO a: x", None, id="no such month"),
        pytest.param('{"timestamp":"2026-03-01T10:00:00Z","message":"x","level":"odd"}', (10, "info", "x"), id="JSON"),
        pytest.param('{"timestamp":7,"message":"x"}', None, id="JSON of another kind"),
        pytest.param("{" * 100_000, None, id="too deep"),
        pytest.param("9:M 31 Feb 2026 10:00:00.000 * x", None, id="Valkey, no such day"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_a_line_is_read_or_belongs_to_the_one_before(line: str, expected: tuple[int, str, str] | None) -> None:
    found = parsed(line)

    if expected is None:
        assert found is None
    else:
        assert found is not None and found.at is not None
        assert (datetime.fromtimestamp(found.at, UTC).hour, found.level, found.message) == expected


def test_what_was_logged_while_the_ends_were_looked_for_is_not_lost(data: Path) -> None:
    folder = data / "logs"
    for wanted in (Wanted(), Wanted(grep="nothing has this")):
        with Book(folder, wanted) as book:
            append(folder / "api.log", numbered(100, 1))
            book.open_at(1)
            append(folder / "worker-1.log", numbered(101, 1))
            found = [entry.message for _, entry in book.entries(is_last=True)]
        assert ("line 100" in found and "line 101" in found) is (wanted.grep is None)


def test_a_time_may_be_said_in_many_ways() -> None:
    assert [moment(text, 100_000.0) for text in ("30s", "1.5h", "1d")] == [99_970.0, 94_600.0, 13_600.0]


@pytest.mark.parametrize("module", ["cli.logbook.entry", "cli.logbook.book", "cli.logs"])
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(module))

    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.slow
@pytest.mark.parametrize("format", ["json", "text"])
def test_of_a_real_stack_every_part_is_understood_and_a_restart_is_followed(
    tmp_path: Path, capfd: Captured, format: str
) -> None:
    data = tmp_path / "data"
    (data / "logs").mkdir(parents=True)
    (data / "logs" / "bushel.log").touch()
    with following(data, "--tail", "all") as seen, up(data, BUSHEL_LOG_FORMAT=format):
        seen.wait_for('"action": "worker_started"')
        text = tmp_path / "a.txt"
        text.write_text("one\ntwo\n")
        assert run(["--data", str(data), "submit", str(text), "--wait", "--task", "translation"]) == 0
        job_id = re.findall(r"job_\w+", capfd.readouterr().err)[0]
        worker = next(each for each in psutil.process_iter(["cmdline"]) if is_worker(each, data))
        worker.send_signal(signal.SIGKILL)
        seen.wait_for("was killed by SIGKILL")
        # Its successor writes into the same file.
        eventually(lambda: sum("serves [" in line for line in list(seen.lines)) == 2, 120)

    found = told(capfd, "--data", str(data), "--tail", "all")
    assert {each["part"] for each in found} >= {"api", "bushel", "postgres", "valkey", "worker-1", "worker-io"}
    assert [each["timestamp"] for each in found] == sorted(each["timestamp"] for each in found)
    # Valkey's and PostgreSQL's own lines are understood, each by itself.
    assert {"Ready to accept connections unix", "database system is ready to accept connections"} <= {
        each["message"] for each in found
    }
    mine = told(capfd, "--data", str(data), "--job", job_id)
    assert {each["part"] for each in mine} >= {"api", "worker-io", "worker-1"}
    assert {each["job_id"] for each in mine} == {job_id}
    grave = told(capfd, "--data", str(data), "--level", "warning")
    assert any(each["part"] == "bushel" and each["about"] == "worker-1" for each in grave)


def is_worker(process: psutil.Process, data: Path) -> bool:
    try:
        words = " ".join(process.info["cmdline"] or ())
        return " -n worker-1@" in words and process.cwd() == str(data / "run")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
