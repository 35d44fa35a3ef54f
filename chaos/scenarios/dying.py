"""Workers that nobody starts again: how long until somebody else does their work."""

import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Sequence

from chaos.arena import Arena, arena, lines
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms
from chaos.stack import until
from workers.keeper import HEARTBEAT_SECONDS

MEDIAN_SECONDS, WORST_SECONDS = 30.0, 45.0
_FAULT = "kill -9 of a worker for good"


def unreplaced(terms: Terms) -> Row:
    """kill -9 of workers that are not restarted: their chunks wait for their leases to run out."""
    count, chance = terms.size(10, 3), random.Random(terms.seed)
    with arena(f"{count} workers killed for good", terms.folder, workers=2, seconds_per_item=0.04) as here:
        here.client.submit("echo", lines(terms.size(12_000, 6_000)))
        here.until_settled(1)
        for number in range(count):
            # One after the other, or together they would have done the job before the last one dies.
            pid = here.stack.add_worker(f"extra-{number}")
            await_lease(here, pid)
            # At any moment between two heartbeats, or all would be hit with the whole lease before them.
            time.sleep(chance.uniform(0, HEARTBEAT_SECONDS))
            await_lease(here, pid)
            here.strike(_FAULT, _killing(pid))
        here.until_done(900)
        here.judge(allowed=count * here.stack.count("SELECT max(items) FROM chunks"))
        seconds = here.recoveries.seconds.get(_FAULT, [])
        here.require(len(seconds) == count, f"{len(seconds)} of {count} recoveries were seen")
        if seconds:
            median, worst = statistics.median(seconds), max(seconds)
            here.require(median <= MEDIAN_SECONDS, f"median {median:.1f} s, {MEDIAN_SECONDS:.0f} s is the bar")
            here.require(worst <= WORST_SECONDS, f"worst {worst:.1f} s, {WORST_SECONDS:.0f} s is the bar")
        return here.row


def await_lease(here: Arena, pid: int) -> None:
    def holds() -> bool:
        progress = here.recoveries.look()
        return progress is not None and any(lease.pid == pid for lease in progress.leases)

    until(holds, 120, f"a lease of worker {pid}")


def _killing(pid: int) -> Callable[[], Sequence[int]]:
    def kill() -> Sequence[int]:
        os.kill(pid, signal.SIGKILL)
        return (pid,)

    return kill


SCENARIOS = (Scenario("unreplaced", unreplaced),)
