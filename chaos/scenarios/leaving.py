"""Workers asked to leave at any moment of their work, as every upgrade and every small machine does all day."""

import random
import statistics
import time

from chaos.arena import Arena, arena, lines
from chaos.faults import processes
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms

AT_ONCE = 5
# What a running chunk is given to end by itself, and the time to write it down and go.
GRACE_SECONDS, MARGIN_SECONDS = 10.0, 5.0
_LONGEST_STAY = 6.0
# Long enough inside COMMIT to be hit there: of all the chunks of a job, one is at a time.
_SLOW_COMMIT = """
    CREATE FUNCTION chaos_slow_commit() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER chaos_slow_commit AFTER UPDATE ON chunks DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.state = 'done') EXECUTE FUNCTION chaos_slow_commit();
"""


def asked_to_leave(terms: Terms) -> Row:
    """SIGTERM of workers at random moments, inside of slow COMMITs too: they leave in time, and nobody is blamed."""
    count, chance = terms.size(100, 5), random.Random(terms.seed)
    with arena(f"{count} SIGTERM at random moments", terms.folder, workers=1, seconds_per_item=0.02) as here:
        with here.stack.administrator() as connection:
            connection.execute(_SLOW_COMMIT)
        seconds: list[float] = []
        for first in range(0, count, AT_ONCE):
            names = [f"leaver-{number}" for number in range(first, min(count, first + AT_ONCE))]
            seconds += _one_round(here, names, chance, terms.size(3_000, 2_000))
        here.until_done(900)
        here.judge()
        worst = max(seconds)
        here.row.notes.append(f"left after {statistics.median(seconds):.1f} s in the median, {worst:.1f} s at worst")
        bar = GRACE_SECONDS + MARGIN_SECONDS
        here.require(worst <= bar, f"a worker left after {worst:.1f} s, {bar:.0f} s is the bar")
        here.require(here.crashes() == 0, f"{here.crashes()} crashes were charged for asked-for ends")
        return here.row


def _one_round(here: Arena, names: list[str], chance: random.Random, total: int) -> list[float]:
    """Start them, give them work, send each away at a moment of its own; how long each took to go."""
    pids = {name: here.stack.add_worker(name) for name in names}
    here.client.submit("echo", lines(total, names[0]))
    for pid in pids.values():
        here.stack.await_worker(pid)
    began = time.monotonic()
    due = {name: began + chance.uniform(0, _LONGEST_STAY) for name in names}
    asked: dict[str, float] = {}
    took: dict[str, float] = {}
    while len(took) < len(names):
        now = time.monotonic()
        for name in names:
            if name not in asked and now >= due[name]:
                processes.ask_to_leave(pids[name])
                here.faults += 1
                asked[name] = now
            elif name in asked and name not in took and here.stack.has_ended(name):
                took[name] = now - asked[name]
            elif name in asked and name not in took and now - asked[name] > 60:
                here.require(False, f"{name} has not left after a minute")
                processes.kill(here.stack, name)
        here.recoveries.look()
        time.sleep(0.05)
    for name in names:
        code = here.stack.reap(name)
        here.require(code == 0, f"{name} left with {code}")
    return list(took.values())


SCENARIOS = (Scenario("leaving", asked_to_leave),)
