"""The supervisor keeps its promises to real PostgreSQL, real Valkey and stand-in parts, also when it is killed."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from cli.stack.postgres import Postgres
from cli.stack.supervisor import delay_after
from tests.waiting import eventually

RUN = Path(__file__).with_name("run_stack.py")


class Running:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path, plan: list[Any]) -> None:
        self.folder = folder
        self._output = folder / f"out-{os.urandom(4).hex()}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(RUN), str(folder), json.dumps(plan)], stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str, seconds: float = 20.0) -> None:
        eventually(lambda: text in self.output or self._died(text), seconds)

    def _died(self, text: str) -> bool:
        if self.process.poll() is not None and text not in self.output:
            raise AssertionError(f"it ended with {self.process.returncode} before saying {text!r}:\n{self.output}")
        return False

    def parts(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals = signal.SIGINT, seconds: float = 20.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def events(self, *words: str) -> list[str]:
        """`start a`, `stop b` … in the order they happened."""
        path = self.folder / "events"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [f"{line[0]} {line[1]}" for line in lines if not words or line[0] in words]

    def times(self, word: str, name: str) -> list[float]:
        lines = [line.split() for line in (self.folder / "events").read_text().splitlines()]
        return [float(line[3]) for line in lines if line[:2] == [word, name]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    tmp_path.chmod(0o755)
    started: list[Running] = []

    def start(*plan: list[Any]) -> Running:
        started.append(Running(tmp_path, list(plan)))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def standin(name: str, *flags: str, **settings: float | bool) -> dict[str, Any]:
    return {"name": name, "flags": list(flags), **settings}


def gone(processes: list[psutil.Process]) -> Callable[[], bool]:
    """A zombie whose new parent has not looked yet is gone for our purposes."""

    def claim() -> bool:
        return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)

    def careful() -> bool:
        try:
            return claim()
        except psutil.NoSuchProcess:
            return False

    return careful


def test_parts_start_in_order_and_stop_in_the_reverse_order(run: Callable[..., Running]) -> None:
    stack = run(["postgres"], ["valkey"], [standin("first")], [standin("second"), standin("third")])
    stack.wait_for("up")
    parts = stack.parts()

    assert stack.stop() == 0

    ready = [line.split(" | ")[1] for line in stack.output.splitlines() if "| ready" in line]
    assert ready[:3] == ["postgres", "valkey", "first"]
    assert set(ready[3:]) == {"second", "third"}
    stopped = [line.split(" | ")[1] for line in stack.output.splitlines() if "| stopped" in line]
    assert set(stopped[:2]) == {"second", "third"}
    assert stopped[2:] == ["first", "valkey", "postgres"]
    assert stack.events()[-1] == "stop first"
    assert gone(parts)()


def test_sigterm_stops_in_order_too(run: Callable[..., Running]) -> None:
    stack = run([standin("a")], [standin("b")])
    stack.wait_for("up")

    assert stack.stop(signal.SIGTERM) == 0

    assert stack.events("stop") == ["stop b", "stop a"]


def test_ctrl_c_in_the_terminal_does_not_reach_the_parts_before_us(run: Callable[..., Running]) -> None:
    stack = run([standin("a")], [standin("b")])
    stack.wait_for("up")

    groups = {os.getpgid(part.pid) for part in stack.parts()}

    assert os.getpgid(stack.process.pid) not in groups
    assert len(groups) == 2


def test_a_part_that_dies_is_started_again_after_growing_pauses(run: Callable[..., Running]) -> None:
    stack = run([standin("steady")], [standin("shaky", "--die-after", "0.3")])
    stack.wait_for("starting it again in 2 s")

    eventually(lambda: len(stack.times("start", "shaky")) >= 4)

    starts = stack.times("start", "shaky")
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[0] >= 0.5 and pauses[1] >= 1.0 and pauses[2] >= 2.0
    assert len(stack.times("start", "steady")) == 1
    assert "exited with status 3" in stack.output


def test_a_killed_database_comes_back_with_its_data(run: Callable[..., Running]) -> None:
    stack = run(["postgres"], [standin("steady")])
    stack.wait_for("up")
    url = psycopg_url(stack.folder)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    postmaster = next(part for part in stack.parts() if part.name() == "postgres")

    postmaster.kill()

    stack.wait_for("killed by SIGKILL")
    eventually(lambda: stack.output.count("postgres | ready") == 2, 30)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]
    assert len(stack.times("start", "steady")) == 1


def test_a_part_that_dies_in_the_first_start_ends_it_with_its_log(run: Callable[..., Running]) -> None:
    flags = ("--die-after", "0", "--say", "the reason is written here")

    stack = run([standin("steady")], [standin("hopeless", *flags)])

    assert stack.process.wait(20) == 1
    assert "hopeless exited with status 3" in stack.output
    assert "the reason is written here" in stack.output
    assert stack.events("stop") == ["stop steady"]


def test_a_crash_loop_is_reported_and_the_others_stay_up(run: Callable[..., Running]) -> None:
    stack = run([standin("steady")], [standin("loop", "--die-after", "0.3", "--say", "the reason")])
    stack.wait_for("up")

    stack.wait_for("keeps dying (5 times in a row)", 30)

    assert "the reason" in stack.output
    assert stack.times("stop", "steady") == []
    assert stack.stop() == 0


def test_a_part_that_misses_its_deadline_ends_the_start_with_its_log(run: Callable[..., Running]) -> None:
    stack = run([standin("base")], [standin("slow", "never-ready", "--say", "still thinking", start_seconds=1.0)])

    assert stack.process.wait(20) == 1

    assert "slow was not ready after 1 s: it has not noted its start" in stack.output
    assert "still thinking" in stack.output
    assert stack.events("stop") == ["stop base"]


def test_a_part_that_runs_once_is_done_before_the_next_stage_starts(run: Callable[..., Running]) -> None:
    stack = run([standin("job", "--die-after", "0.2", "--succeed", once=True)], [standin("after")])
    stack.wait_for("up")

    assert stack.output.index("job | done") < stack.output.index("after | ready")
    assert stack.times("start", "after")[0] - stack.times("start", "job")[0] > 0.2


def test_a_part_that_runs_once_and_fails_ends_the_start(run: Callable[..., Running]) -> None:
    stack = run([standin("job", "--die-after", "0", once=True)], [standin("after")])

    assert stack.process.wait(20) == 1
    assert "job exited with status 3" in stack.output
    assert "start after" not in stack.events()


def test_a_deaf_part_is_killed_after_its_grace_with_what_it_started(run: Callable[..., Running]) -> None:
    stack = run([standin("deaf", "--deaf", "--child", stop=0.5)])
    stack.wait_for("up")
    parts = stack.parts()
    assert len(parts) == 2

    assert stack.stop() == 0

    assert "stopped (was killed by SIGKILL)" in stack.output
    eventually(gone(parts))


def test_a_second_ctrl_c_hurries(run: Callable[..., Running]) -> None:
    stack = run(["postgres"], [standin("deaf", "--deaf", stop=60.0)])
    stack.wait_for("up")
    parts = stack.parts()

    stack.process.send_signal(signal.SIGINT)
    stack.wait_for("stopping")
    assert stack.stop(seconds=10) == 0

    eventually(gone(parts))


def test_a_reader_that_left_does_not_keep_the_stop_from_its_order(tmp_path: Path) -> None:
    plan = json.dumps([[standin("a")], [standin("b")]])
    stack = subprocess.Popen([sys.executable, str(RUN), str(tmp_path), plan], stdout=subprocess.PIPE)
    assert stack.stdout
    while stack.stdout.readline() != b"up\n":
        pass

    stack.stdout.close()
    stack.send_signal(signal.SIGINT)
    stack.wait(20)

    stopped = [line.split()[1] for line in (tmp_path / "events").read_text().splitlines() if line.startswith("stop")]
    assert stopped == ["b", "a"]


def test_an_interrupted_start_stops_what_had_started(run: Callable[..., Running]) -> None:
    stack = run([standin("base")], [standin("slow", "never-ready")])
    eventually(lambda: "start slow" in stack.events())

    assert stack.stop() == 130

    assert set(stack.events("stop")) == {"stop base", "stop slow"}


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
def test_killing_the_supervisor_leaves_no_process_behind(run: Callable[..., Running]) -> None:
    stack = run(["postgres"], ["valkey"], [standin("a"), standin("b", "--deaf")])
    stack.wait_for("up")
    parts = stack.parts()
    assert len(parts) > 6  # PostgreSQL has several of its own

    stack.process.kill()
    stack.process.wait()

    eventually(gone(parts), 15)


def test_a_start_right_after_a_kill_recovers_sockets_pid_files_and_data(run: Callable[..., Running]) -> None:
    stack = run(["postgres"], ["valkey"])
    stack.wait_for("up")
    url = psycopg_url(stack.folder)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 8 AS number")
    for part in stack.parts():
        if part.name() in ("postgres", "valkey-server") and part.ppid() == stack.process.pid:
            part.kill()
    stack.process.kill()
    stack.process.wait()
    # A pid that somebody else has now: PostgreSQL alone would refuse to start.
    pid_file = stack.folder / "postgres" / "data" / "postmaster.pid"
    pid_file.write_text("\n".join([str(os.getppid()), *pid_file.read_text().splitlines()[1:]]) + "\n")

    again = run(["postgres"], ["valkey"])

    again.wait_for("up", 30)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(8,)]
    assert again.stop() == 0


def test_a_server_that_outlived_its_supervisor_is_ended_before_the_new_one_starts(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    left_over = Postgres(tmp_path / "postgres")
    left_over.start()
    with psycopg.connect(libpq(left_over.url)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 9 AS number")

    stack = run(["postgres"])

    stack.wait_for("up", 30)
    with psycopg.connect(libpq(left_over.url)) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(9,)]
    left_over.stop()
    assert stack.stop() == 0


def test_a_second_supervisor_on_the_same_folder_is_refused_with_the_pid(run: Callable[..., Running]) -> None:
    first = run([standin("a")])
    first.wait_for("up")

    second = run([standin("a")])

    assert second.process.wait(10) == 1
    assert f"is in use by process {first.process.pid}" in second.output
    assert first.stop() == 0


def test_the_lock_of_a_killed_supervisor_is_free(run: Callable[..., Running]) -> None:
    first = run([standin("a")])
    first.wait_for("up")
    first.process.kill()
    first.process.wait()

    second = run([standin("a")])

    second.wait_for("up")
    assert second.stop() == 0


def test_a_data_folder_with_a_long_path_gets_short_sockets(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    folder = tmp_path / ("deep" * 30)

    with Postgres(folder) as server:
        path = next(iter(psycopg.conninfo.conninfo_to_dict(libpq(server.url)).get("host", "").split(",")))
        assert len(f"{path}/.s.PGSQL.5432") < 108
        with psycopg.connect(libpq(server.url)) as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    for leftover in Path(path).iterdir():
        leftover.unlink()
    Path(path).rmdir()


def test_the_database_listens_on_no_port(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Postgres(tmp_path / "postgres") as server, psycopg.connect(libpq(server.url)) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)


def test_a_port_in_use_is_named() -> None:
    from cli.stack.errors import PortInUse
    from cli.stack.parts import check_port

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(PortInUse, match=rf"cannot listen on 127\.0\.0\.1:{port}: address already in use"):
            check_port("127.0.0.1", port)


def test_the_pause_doubles_up_to_half_a_minute() -> None:
    assert [delay_after(deaths, 30) for deaths in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [delay_after(deaths, 5) for deaths in range(1, 6)] == [0.5, 1, 2, 4, 5]


def psycopg_url(folder: Path) -> str:
    return libpq(Postgres(folder / "postgres").url)


def libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")
