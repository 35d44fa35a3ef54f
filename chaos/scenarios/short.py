"""A little of everything, the same every time: what `make test` runs."""

from chaos.arena import arena, kills, lines
from chaos.faults import broker
from chaos.report import Row
from chaos.scenarios.freezing import freeze_and_thaw
from chaos.scenarios.scenario import Scenario, Terms
from chaos.schedule import Strike
from db.faults import VARIABLE

_POINTS = ("after run:3", "between insert and commit:5", "in finalize:1")
_ROLES = ("worker-1", "valkey", "postgres", "api")


def short(terms: Terms) -> Row:
    """Deaths at three points, a death of each kind, a flush; then a freeze beyond the lease."""
    marks = terms.folder.with_name("marks")
    marks.mkdir(parents=True)
    orders = ";".join(f"kill:{point}@{marks / point}" for point in _POINTS)
    with arena("short", terms.folder, workers=1, environment={VARIABLE: orders}, seconds_per_item=0.001) as here:
        total = 6_000
        here.client.submit("echo", lines(total))
        faults = [*(f"kill {role}" for role in _ROLES), "flush"]
        plan = [Strike(0.15 * (place + 1), 0.0, fault) for place, fault in enumerate(faults)]
        hurts = {**kills(here, _ROLES), "flush": lambda: broker.flush(here.stack)}
        with here.watched():
            here.under_fire(total, plan, hurts, 240)
            freeze_and_thaw(here, range(1), "", is_hurried=True)
        here.faults += len(list(marks.iterdir()))
        largest = here.stack.count("SELECT max(items) FROM chunks")
        here.judge(allowed=4 * largest + 2 * largest)
        here.require(
            here.faults == len(_POINTS) + len(faults) + 1, f"{here.faults} faults, and not all that were planned"
        )
        return here.row


SCENARIOS = (Scenario("short", short),)
