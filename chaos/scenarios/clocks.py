"""Clocks that jump while leases run."""

import os
import signal

from chaos.arena import arena, lines
from chaos.faults.clock import Clock
from chaos.report import Row
from chaos.scenarios.dying import await_lease
from chaos.scenarios.scenario import Scenario, Terms

REPLACED_SECONDS = 60.0


def jumps(terms: Terms) -> Row:
    """An hour ahead, and all leases end at once; an hour back, and none would: who dies then is replaced."""
    clock = Clock(terms.folder)
    with arena("clock jumps", terms.folder, database=clock.environment, seconds_per_item=0.01) as here:
        here.client.submit("echo", lines(terms.size(10_000, 5_000)))
        here.until_settled(200)
        for offset in ("+3600", "+0"):
            before = here.settled()

            def move(to: str = offset) -> tuple[()]:
                clock.jump(to)
                return ()

            here.strike(f"clock {'ahead' if offset == '+3600' else 'back'} by an hour", move)
            here.until_settled(before + 400)
        pid = here.stack.add_worker("victim")
        here.stack.await_worker(pid)
        # Leased before the jump, so the lease would have an hour to run.
        await_lease(here, pid)

        def die() -> tuple[int]:
            os.kill(pid, signal.SIGKILL)
            clock.jump("-3600")
            return (pid,)

        here.strike("kill -9, and the clock back by an hour", die)
        here.until_done(400)
        largest = here.stack.count("SELECT max(items) FROM chunks")
        here.judge(allowed=(2 * here.stack.workers + 1) * largest)
        # By a clock that was set back, results end after their job: the one thing that the audit tells by the time.
        late = [problem for problem in here.row.problems if "late_results" in problem]
        here.row.problems = [problem for problem in here.row.problems if problem not in late]
        here.row.notes += [f"as is right by that clock: {problem}" for problem in late]
        worst = max(here.recoveries.seconds.get("kill -9, and the clock back by an hour", [1e9]))
        here.require(worst <= REPLACED_SECONDS, f"the dead worker was replaced after {worst:.0f} s")
        return here.row


SCENARIOS = (Scenario("clock", jumps),)
