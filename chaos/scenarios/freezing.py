"""Workers that stand still beyond their lease and then go on: the fence, and what would be without it."""

from functools import partial
from pathlib import Path

from chaos.arena import Arena, arena, lines
from chaos.faults import processes
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms
from chaos.stack import until
from db.faults import VARIABLE

# What stands behind the fence: the control takes it away too, or PostgreSQL would refuse the second result.
_BEHIND = (
    "ALTER TABLE results DROP CONSTRAINT pk_results",
    "ALTER TABLE results DROP CONSTRAINT uq_results_job_id_seq",
    "ALTER TABLE jobs DROP CONSTRAINT ck_jobs_counts_positive",
)
_LEASE_LOST = "its work is discarded"


def frozen(terms: Terms) -> Row:
    """SIGSTOP of workers with results in hand, past their leases; SIGCONT once others have done their chunks."""
    count = terms.size(20, 2)
    with arena(f"{count} freezes beyond the lease", terms.folder, workers=0, seconds_per_item=0.001) as here:
        # In rounds, because every worker costs memory.
        with here.watched():
            for first in range(0, count, 10):
                freeze_and_thaw(here, range(first, min(count, first + 10)), "", is_hurried=terms.is_quick)
        largest = here.stack.count("SELECT max(items) FROM chunks")
        here.judge(allowed=2 * count * largest)
        refused = sum(here.stack.log(f"frozen-{number}").count(_LEASE_LOST) for number in range(count))
        here.require(refused >= count, f"{refused} late writes were refused, there were {count} at least")
        here.row.notes.append(f"{refused} late writes refused by the fence")
        return here.row


def control(terms: Terms) -> Row:
    """The same without the fence and what stands behind it: duplicates must be found, or the suite finds nothing."""
    with arena("control: no fence", terms.folder, workers=0, seconds_per_item=0.001) as here:
        for statement in _BEHIND:
            here.stack.rows(statement)
        freeze_and_thaw(here, range(terms.size(3, 1)), "no-fence;", is_hurried=True)
        found = here.judge()
        is_found = found.doubled > 0 and bool(found.broken)
        here.row.notes += [f"without the fence: {problem}" for problem in here.row.problems]
        here.row.problems = [] if is_found else ["the fence was off, and the suite found no duplicates"]
        return here.row


def primary_key(terms: Terms) -> Row:
    """Without the fence alone, the primary key of the results refuses the second ones."""
    with arena("control: no fence, primary key", terms.folder, workers=0, seconds_per_item=0.001) as here:
        freeze_and_thaw(here, range(terms.size(3, 1)), "no-fence;", is_hurried=True)
        found = here.judge()
        here.require(found.doubled == 0, "there are duplicates in spite of the primary key")
        refusals = sum(here.stack.log(f"frozen-{number}").count("results are refused") for number in range(3))
        here.require(refusals > 0, "nothing was refused: the fence was not off")
        here.row.notes.append(f"{refusals} late writes reached the table and were refused there")
        return here.row


def freeze_and_thaw(here: Arena, numbers: range, flags: str, is_hurried: bool) -> None:
    """Freeze a worker for each number just before it writes, and thaw it once its chunk is done by another."""
    pids: dict[int, int] = {}
    marks = here.stack.folder / "marks"
    marks.mkdir(exist_ok=True)
    others = [pid for role, pid in here.stack.roles().items() if role.startswith("worker-") and role != "worker-io"]
    for pid in others:
        # Or they would be done before the new ones have begun.
        processes.freeze(pid)
    here.client.submit("echo", lines(1_000 * len(numbers), f"round {numbers.start}"))
    for number in numbers:
        order = f"{flags}stop:before record:1@{marks / str(number)}"
        pids[number] = here.stack.add_worker(f"frozen-{number}", **{VARIABLE: order})
    for number, pid in pids.items():
        _await_freeze(here, marks / str(number), pid)
        here.faults += 1
        here.recoveries.look()
        here.recoveries.note("SIGSTOP of a worker", (pid,))
    if is_hurried:
        here.stack.rows("UPDATE chunks SET lease_expires_at = now() - interval '1 s' WHERE state = 'leased'")
    # Only now is there anybody to take over, if it was asked for.
    for pid in others:
        processes.thaw(pid)
    heir = {} if others else {f"heir-{numbers.start}": here.stack.add_worker(f"heir-{numbers.start}")}
    here.until_done(300)
    for number, pid in pids.items():
        processes.thaw(pid)
        until(partial(_wrote, here, number), 60, f"the late write of frozen-{number}")
    for name, pid in ({f"frozen-{number}": pid for number, pid in pids.items()} | heir).items():
        processes.ask_to_leave(pid)
        code = here.stack.reap(name)
        here.require(code == 0, f"{name} left with {code}")


def _await_freeze(here: Arena, mark: Path, pid: int) -> None:
    until(lambda: here.recoveries.look() and mark.exists() and processes.is_frozen(pid), 180, f"worker {pid} frozen")


def _wrote(here: Arena, number: int) -> bool:
    """Whether the thawed worker has tried to write and heard how that went, or was told before that it need not."""
    said = here.stack.log(f"frozen-{number}").partition("as ordered")[2]
    return any(words in said for words in (_LEASE_LOST, "results in", "results are refused", "is lost"))


SCENARIOS = (Scenario("freezes", frozen), Scenario("control", control), Scenario("primary-key", primary_key))
