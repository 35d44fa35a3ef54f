"""Where a scenario takes place: a stack of its own, a client with a journal, a watch over recoveries."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chaos.client import Client
from chaos.errors import ChaosFailed
from chaos.evidence import Evidence, gather
from chaos.faults import processes
from chaos.journal import Journal, Promise
from chaos.leaks import MARKER, leaks
from chaos.recovery import Recoveries
from chaos.report import Row
from chaos.schedule import Strike
from chaos.stack import Stack, until
from chaos.watch import Watch

_TICK_SECONDS = 0.1

Hurt = Callable[[], Sequence[int] | None]
"""Do it; the processes that died of it, or None if it could not be done just now."""


def registry(folder: Path, seconds_per_item: float = 0.002, name: str = "echo", more: str = "") -> str:
    """An echo model that logs what it computes into `folder`/computed."""
    return f"""
[models.{name}]
task = "translation"
source = "."
engine = "echo"
default = true
options = {{ markers = true, seconds_per_item = {seconds_per_item}, log = "{folder / "computed"}"{more} }}
"""


def lines(count: int, mark: str = "line") -> list[str]:
    """Distinct lines of five words, by one of which they are known where they should not be."""
    return [f"{mark} {number:07d} of {MARKER} job" for number in range(count)]


@dataclass
class Arena:
    """A running stack under attack."""

    stack: Stack
    client: Client
    journal: Journal
    recoveries: Recoveries
    row: Row
    faults: int = 0

    def until_done(self, limit: float, also: Callable[[], object] = lambda: None) -> None:
        """Watch until no job is open and every fault is over; the supervisor is brought back when it is gone."""
        deadline = time.monotonic() + limit
        while True:
            self.keep_up()
            progress = self.recoveries.look()
            also()
            if progress is not None and progress.open_jobs == 0 and self.recoveries.is_clear:
                return
            if time.monotonic() > deadline:
                raise ChaosFailed(f"not done within {limit:.0f} s; the ledger says {progress}")
            time.sleep(_TICK_SECONDS)

    def settled(self) -> int:
        """How many results there are, as soon as the database says so."""
        return until(self.stack.progress, 120, "the database").settled

    def until_settled(self, count: int, limit: float = 180.0) -> None:
        """Until so many results are there."""
        deadline = time.monotonic() + limit
        while (progress := self.recoveries.look()) is None or progress.settled < count:
            self.keep_up()
            if time.monotonic() > deadline:
                raise ChaosFailed(f"no {count} results within {limit:.0f} s; the ledger says {progress}")
            time.sleep(_TICK_SECONDS)

    def keep_up(self) -> None:
        """What systemd does for a `bushel up` that died."""
        if not self.stack.is_up():
            self.stack.launch()

    def strike(self, fault: str, hurt: Hurt) -> bool:
        """Do it and begin to watch for its end; False if it could not be done just now."""
        self.recoveries.look()
        dead = hurt()
        if dead is None:
            return False
        self.faults += 1
        self.recoveries.note(fault, dead)
        return True

    def under_fire(self, total: int, strikes: Sequence[Strike], hurts: Mapping[str, Hurt], limit: float) -> None:
        """Carry out the strikes as the work goes on, then wait for the end.

        A strike whose victim is not there (it is just being started again) waits until it is.
        """
        waiting, due_at = list(strikes), 0.0

        def fire() -> None:
            nonlocal due_at
            if not waiting or self._share(total) < waiting[0].share:
                return
            due_at = due_at or time.monotonic() + waiting[0].delay
            if time.monotonic() >= due_at and self.strike(waiting[0].fault, hurts[waiting[0].fault]):
                waiting.pop(0)
                due_at = 0.0

        self.until_done(limit, fire)
        if waiting:
            self.row.problems.append(f"{len(waiting)} faults came too late: the job was over")

    def _share(self, total: int) -> float:
        progress = self.stack.progress()
        return 0.0 if progress is None else progress.settled / total

    def judge(self, allowed: int | None = None, promises: Sequence[Promise] | None = None) -> Evidence:
        """Gather the evidence into the row. `allowed` is how many items may have been computed again."""
        promises = self.journal.promises() if promises is None else promises
        found = gather(self.stack, self.client, promises, self.stack.folder / "computed")
        row = self.row
        row.faults, row.items, row.lost, row.doubled = self.faults, found.items, found.lost, found.doubled
        row.unexpected, row.redone, row.redone_allowed = found.unexpected, found.redone, allowed
        row.recoveries = self.recoveries.seconds
        row.problems += found.broken
        for count, what in ((found.lost, "lost"), (found.doubled, "doubled"), (found.unexpected, "wrong")):
            if count:
                row.problems.append(f"{count} items {what}")
        if allowed is not None and found.redone > allowed:
            row.problems.append(f"{found.redone} items were computed again, {allowed} may be")
        row.notes.append(f"{found.reclaimed} leases given twice, largest chunk {found.largest_chunk} items")
        if self.client.refusals:
            row.notes.append(f"tried again by the client: {self.client.refusals}")
        return found

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While the block lasts, somebody reads all results, twenty times a second: what was read may not change."""
        watch = Watch(self.stack.http, lambda: [promise.job_id for promise in self.journal.promises()])
        with watch.watching():
            yield
        self.row.notes.append(
            f"{watch.looks} looks at {watch.results} results, {watch.reread} read again, {len(watch.changes)} changed"
        )
        self.row.problems += watch.changes[:5]
        self.require(watch.looks > 0, "nobody could look at results")

    def require(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.row.problems.append(otherwise)

    def crashes(self) -> int:
        """Crashes that chunks are charged with."""
        return self.stack.count("SELECT sum(crashes) FROM chunks WHERE state <> 'split'")

    def blame(self, client: Client) -> None:
        """An internal error is no excuse: what was done to the service has a status of its own."""
        if client.internal_errors:
            self.row.problems.append(f"{client.internal_errors} answers were internal errors (500)")


@contextmanager
def arena(
    name: str,
    folder: Path,
    models: Sequence[str] = ("echo",),
    workers: int = 2,
    environment: Mapping[str, str] | None = None,
    database: Mapping[str, str] | None = None,
    registry_text: str | None = None,
    seconds_per_item: float = 0.002,
) -> Iterator[Arena]:
    """A stack that is up; stopped, whatever happens, when the block ends."""
    text = registry(folder, seconds_per_item) if registry_text is None else registry_text
    stack = Stack(folder, text, models, workers, environment, database)
    journal = Journal(folder / "promises.jsonl")
    try:
        stack.start()
        here = Arena(stack, Client(stack, journal), journal, Recoveries(stack), Row(name))
        yield here
        here.blame(here.client)
        here.row.problems += leaks(stack)
    finally:
        stack.close()


def kills(arena: Arena, roles: Sequence[str]) -> dict[str, Hurt]:
    """For `under_fire`: a kill of each role, under the name `kill ROLE`."""

    def killing(role: str) -> Hurt:
        return lambda: processes.kill(arena.stack, role)

    return {f"kill {role}": killing(role) for role in roles}
