"""Disks that are full or do not write through, under the database and under the files, and then are as they should."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil

from chaos.arena import Arena, arena, lines
from chaos.faults.disk import Disk, failing_syncs, small_disk
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms

HEALED_SECONDS = 60.0
_TROUBLE_SECONDS = 20.0
# So that the disk is met when it is really full, and not before.
_UNGUARDED = {"BUSHEL_MIN_FREE_BYTES": "0", "BUSHEL_PAUSE_FREE_BYTES": "0"}


def database_full(terms: Terms) -> Row:
    """No room for PostgreSQL's data and log: what was acknowledged is there after the disk is emptied."""
    return _full(terms, "database disk full", "postgres", "300m", _UNGUARDED)


def store_full(terms: Terms) -> Row:
    """No room for files: uploads are refused, jobs wait with their ends until there is."""
    return _full(terms, "file store full", "files", "48m", _UNGUARDED)


def guarded(terms: Terms) -> Row:
    """The same disk under the files as it is usually met: refused and paused before nothing is left."""
    return _full(terms, "file store nearly full, guarded", "files", "800m", {})


def _full(terms: Terms, name: str, part: str, size: str, environment: dict[str, str]) -> Row:
    folder = terms.folder / "data" / part
    with ExitStack() as undone:
        # The data folder first, closed as the service makes it.
        terms.folder.mkdir(parents=True)
        terms.folder.chmod(0o711)
        (terms.folder / "data").mkdir(mode=0o711)
        disk = undone.enter_context(small_disk(folder, size))
        here = undone.enter_context(arena(name, terms.folder, environment=environment, seconds_per_item=0.003))
        here.client.submit("echo", lines(terms.size(20_000, 4_000)))
        here.until_settled(100)
        disk.fill()
        here.faults += 1
        # Tried again until there is room, by a client that knows no better.
        pool = undone.enter_context(ThreadPoolExecutor(1))
        stubborn = pool.submit(here.client.submit, "echo", lines(terms.size(60_000, 20_000), "meanwhile"))
        answers = _try_on(here, terms.size(int(_TROUBLE_SECONDS), 8))
        _heal(here, disk)
        stubborn.result()
        here.until_done(600)
        here.client.submit("echo", lines(500, "after"))
        here.until_done(300)
        here.judge()
        felt = here.stack.log("postgres").count("No space left") + answers.get("507", 0)
        here.require(felt > 0, "nobody noticed that the disk was full")
        here.row.notes.append(f"PostgreSQL met {here.stack.log('postgres').count('No space left')} full disks")
        worst = max(here.recoveries.all_seconds, default=0.0)
        here.require(
            worst <= HEALED_SECONDS, f"{worst:.1f} s after the disk had room again, {HEALED_SECONDS:.0f} s is the bar"
        )
        here.row.notes.append(f"answers to uploads while it was full: {answers}")
        here.require(set(answers) <= {"200", "503", "507", "no connection"}, f"answers while full: {answers}")
        return here.row


def _heal(here: Arena, disk: Disk) -> None:
    here.recoveries.look()
    disk.heal()
    here.recoveries.note("disk full, from when it has room")


def _try_on(here: Arena, seconds: float) -> dict[str, int]:
    """Go on uploading files of a megabyte; what the answers were."""
    answers: dict[str, int] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        here.keep_up()
        here.recoveries.look()
        try:
            files = {"file": ("big.txt", b"a line\n" * 150_000)}
            answer = here.stack.http.post("/v1/files", files=files, data={"purpose": "batch"}, timeout=20)
            said = str(answer.status_code)
        except httpx.TransportError:
            said = "no connection"
        answers[said] = answers.get(said, 0) + 1
        time.sleep(0.5)
    return answers


def unsynced(terms: Terms) -> Row:
    """Every fsync of the API, then of PostgreSQL, is an EIO: nothing is acknowledged that is not on the disk."""
    told = terms.folder.with_name("syncs")
    with arena("fsync fails", terms.folder, seconds_per_item=0.005) as here:
        here.client.submit("echo", lines(terms.size(20_000, 6_000)))
        here.until_settled(100)
        with failing_syncs([here.stack.roles()["api-child"]], told):
            here.faults += 1
            files = {"file": ("a.txt", b"a line\n")}
            uploads = [_status(here, "/v1/files", files=files, data={"purpose": "batch"}) for _ in range(10)]
            inline = [_submission(here) for _ in range(10)]
        for what, answers in (("uploads", uploads), ("submissions", inline)):
            here.require(not any(200 <= status < 300 for status in answers), f"unsynced {what}: {answers}")
            here.row.notes.append(f"answers to {what} whose fsync failed: {sorted(set(answers))}")
        here.require("INJECTED" in told.read_text(), "no fsync of the API failed")
        here.client.submit("echo", lines(500, "between"))
        _database_unsynced(here, terms.folder.with_name("database-syncs"))
        here.client.submit("echo", lines(500, "after"))
        here.until_done(600)
        here.judge()
        panics = here.stack.log("postgres").count("PANIC")
        here.require(panics > 0, "no fsync of PostgreSQL failed")
        here.row.notes.append(f"PostgreSQL panicked {panics} times")
        return here.row


def _database_unsynced(here: Arena, told: Path) -> None:
    """For a while, or until the postmaster is another one: it starts its parts again and again, and none can write."""
    postmaster = here.stack.roles()["postgres"]
    answers = []
    deadline = time.monotonic() + _TROUBLE_SECONDS
    here.recoveries.look()
    # First whoever starts others, so that nobody is started in between whom nothing fails.
    with ExitStack() as undone:
        undone.enter_context(failing_syncs([postmaster], told))
        children = [child.pid for child in psutil.Process(postmaster).children()]
        undone.enter_context(failing_syncs(children, told.with_suffix(".children")))
        here.faults += 1
        while here.stack.roles().get("postgres") == postmaster and time.monotonic() < deadline:
            status = _submission(here)
            # Else it may be the next one that has answered, on a disk that is well.
            if here.stack.roles().get("postgres") == postmaster:
                answers.append(status)
    here.recoveries.note("fsync of PostgreSQL fails", ())
    here.require(not any(200 <= status < 300 for status in answers), f"unsynced commits: {answers}")
    here.row.notes.append(f"answers while no commit could be written: {sorted(set(answers))}")


def _submission(here: Arena) -> int:
    return _status(here, "/v1/jobs", json={"task": "translation", "model": "echo", "inputs": [str(uuid.uuid4())]})


def _status(here: Arena, path: str, **how: Any) -> int:
    """Of a request that is not tried again; 0 without an answer."""
    try:
        return here.stack.http.post(path, timeout=20, **how).status_code
    except httpx.TransportError:
        return 0


SCENARIOS = (
    Scenario("database-full", database_full),
    Scenario("store-full", store_full),
    Scenario("store-guarded", guarded),
    Scenario("unsynced", unsynced),
)
