"""The API killed while it takes in files and jobs: what was answered is there whole, nothing is there by half."""

import hashlib
import random
import threading
import time
import uuid
from functools import partial
from pathlib import Path

from chaos.arena import Arena, arena
from chaos.client import Client
from chaos.errors import ChaosFailed
from chaos.faults import processes
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms
from chaos.stack import until
from db import owner

CLIENTS = 8
# Of the client's excuses, those of a request that never was under way.
_NOT_BEGUN = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
_LONGEST_PAUSE = 1.0
# Of a client between two submissions, or there would be more jobs than can be looked at.
_LONGEST_REST = 0.2


class _Submitter(threading.Thread):
    """A client that uploads and submits without a pause, each time until it is answered."""

    def __init__(self, here: Arena, seed: str, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.client = Client(here.stack, here.journal)
        self.failure: ChaosFailed | None = None
        self._chance, self._over = random.Random(seed), over

    @property
    def cut(self) -> int:
        """Requests that were broken off while they were under way."""
        said = self.client.refusals.copy()
        return sum(count for excuse, count in said.items() if not excuse.isdigit() and excuse not in _NOT_BEGUN)

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._submit()
                self._over.wait(self._chance.uniform(0, _LONGEST_REST))
        except ChaosFailed as exc:
            self.failure = exc

    def _submit(self) -> None:
        # Few items, which cost time, and many bytes, so that there is much to be killed in.
        long = "x" * self._chance.choice((1, 500, 10_000))
        given = [f"{long} {number} {uuid.uuid4()}" for number in range(self._chance.randint(1, 20))]
        if self._chance.random() < 0.5:
            self.client.submit("echo", given)
        else:
            self.client.submit_inline("echo", given)


def interrupted(terms: Terms) -> Row:
    """kill -9 of the API in the middle of uploads and submissions, until 200 requests were cut off."""
    wanted, chance = terms.size(200, 20), random.Random(terms.seed)
    with arena("kill -9 of the API, submissions", terms.folder, seconds_per_item=0.0002) as here:
        over = threading.Event()
        submitters = [_Submitter(here, f"{terms.seed} {number}", over) for number in range(CLIENTS)]
        for each in submitters:
            each.start()
        deadline = time.monotonic() + 900
        while (cut := sum(each.cut for each in submitters)) < wanted:
            if time.monotonic() > deadline:
                raise ChaosFailed(f"{cut} requests were cut off in 900 s, {wanted} were to be")
            until(here.stack.is_ready, 120, "the API")
            time.sleep(chance.uniform(0, _LONGEST_PAUSE))
            # The process that serves; now and then the one above it, which comes back ever more slowly.
            role = "api" if chance.random() < 0.1 else "api-child"
            here.strike("kill -9 of the API", partial(processes.kill, here.stack, role))
        over.set()
        for each in submitters:
            each.join(300)
            here.require(not each.is_alive() and each.failure is None, f"a client was never answered: {each.failure}")
            here.blame(each.client)
        here.until_done(600)
        here.judge()
        here.row.notes.append(f"{cut} requests were cut off, {len(here.journal.promises())} jobs acknowledged")
        _check_halves(here)
        return here.row


def _check_halves(here: Arena) -> None:
    """Every row has its whole bytes, every job was promised. What bytes have no row is only told: they go in a day."""
    jobs, promised = here.stack.count("SELECT count(*) FROM jobs"), len(here.journal.promises())
    here.require(jobs == promised, f"{jobs} jobs are there, {promised} were acknowledged, and no client gave up")
    store = here.stack.data / "files"
    rows = here.stack.rows("SELECT store_key, bytes, sha256 FROM files WHERE deleted_at IS NULL")
    torn = [row["store_key"] for row in rows if not _is_whole(store / row["store_key"], row["bytes"], row["sha256"])]
    here.require(not torn, f"{len(torn)} files are not what their rows say: {torn[:3]}")
    spools = [row["key"] for row in here.stack.rows("SELECT inputs_key AS key FROM jobs WHERE inputs_key IS NOT NULL")]
    missing = [key for key in spools if not (store / key).exists()]
    here.require(not missing, f"the inputs of {len(missing)} jobs are gone")
    kept = {path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()}
    strays = kept - {row["store_key"] for row in rows} - set(spools) - {owner.KEY}
    here.row.notes.append(f"{len(strays)} files of requests that were cut off lie without a row, for a day at most")


def _is_whole(path: Path, size: int, sha256: str) -> bool:
    return path.exists() and path.stat().st_size == size and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


SCENARIOS = (Scenario("submissions", interrupted),)
