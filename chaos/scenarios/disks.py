"""Disks that are full, under the database and under the files, and then are not."""

import time
from contextlib import ExitStack
from threading import Thread

import httpx

from chaos.arena import Arena, arena, lines
from chaos.faults.disk import Disk, small_disk
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
        stubborn = Thread(target=here.client.submit, args=("echo", lines(terms.size(60_000, 20_000), "meanwhile")))
        stubborn.start()
        answers = _try_on(here, terms.size(int(_TROUBLE_SECONDS), 8))
        _heal(here, disk)
        stubborn.join()
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


SCENARIOS = (
    Scenario("database-full", database_full),
    Scenario("store-full", store_full),
    Scenario("store-guarded", guarded),
)
