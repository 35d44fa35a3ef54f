"""Models that do not load, run out of memory, answer wrongly, hang, crash, or die of one item."""

from chaos.arena import arena, lines
from chaos.evidence import FAILS
from chaos.faults.processes import ask_to_leave
from chaos.leaks import MARKER
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms

# What an item makes the engine do, and whether it can have a result all the same. All in one chunk, so that they are
# found with few deaths.
_ITEMS = {
    "[[fail]]": False,
    "[[short]]": False,
    "[[twice]]": True,
    "[[oom]]": False,
    "[[garbled]]": False,
    "[[broken]]": False,
    "[[kill]]": False,
    "[[segfault]]": False,
    "[[hang]]": False,
}
_DEADLINE_SECONDS = 8


def poison(terms: Terms) -> Row:
    """Items that fail, crash or hang the engine: each fails alone, everything beside it succeeds."""
    total = terms.size(1_000, 200)
    given = lines(total)
    for place, marker in enumerate(_ITEMS):
        given[total // 2 + place] = f"{marker} number of {MARKER} job"
    right = [line if _ITEMS.get(line.partition(" ")[0], True) else FAILS for line in given]
    more = {"BUSHEL_CHUNK_DEADLINE_SECONDS": str(_DEADLINE_SECONDS)}
    with arena("poison among the items", terms.folder, environment=more, seconds_per_item=0.002) as here:
        here.client.submit("echo", given, right)
        here.faults = len(_ITEMS)
        here.until_done(900)
        here.judge()
        failed = here.stack.count("SELECT sum(failed) FROM jobs")
        wanted = sum(not is_answered for is_answered in _ITEMS.values())
        here.require(failed == wanted, f"{failed} items failed, {wanted} should")
        deaths = here.stack.log("up").count("starting it again")
        killers = 4
        # Two of every chunk that they were in, two of each alone.
        shared = here.stack.count("SELECT count(*) FROM chunks WHERE state = 'split' AND parent_id IS NULL")
        here.require(
            deaths <= 2 * (shared + killers), f"{deaths} worker deaths for {killers} killers in {shared} chunks"
        )
        codes = here.stack.rows("SELECT error_code, count(*) AS n FROM results WHERE outcome = 'failed' GROUP BY 1")
        here.row.notes.append(f"{deaths} deaths; failed with { ({row['error_code']: row['n'] for row in codes}) }")
        return here.row


def loading(terms: Terms) -> Row:
    """One model cannot be loaded, one takes long, one runs out of memory at its third batch."""
    text = "".join(
        f"""
[models.{name}]
task = "translation"
source = "."
engine = "echo"
default = {"true" if name == "slow" else "false"}
options = {{ seconds_per_item = 0.002, batch_tokens = 200, log = "{terms.folder / "computed"}", {option} }}
"""
        for name, option in (
            ("absent", 'unavailable = "its weights are gone"'),
            ("slow", "load_seconds = 8.0"),
            ("greedy", "oom_at = 3"),
        )
    )
    with arena("models that do not load", terms.folder, ("absent", "slow", "greedy"), registry_text=text) as here:
        count = terms.size(3_000, 500)
        waiting = here.client.submit("absent", lines(count, "absent"))
        here.client.submit("slow", lines(count, "slow"))
        here.client.submit("greedy", lines(count, "greedy"))
        here.faults = 3
        here.until_settled(2 * count)
        job = here.client.job(waiting.job_id)
        here.require(job["counts"]["succeeded"] == 0, "the model that cannot be loaded answered")
        attempts = here.stack.count("SELECT max(attempt) FROM chunks WHERE model = 'absent'")
        here.require(attempts == 0, f"{attempts} attempts were spent on a model that cannot be loaded")
        # Its weights are back.
        here.stack.registry.write_text(text.replace('unavailable = "its weights are gone"', "load_seconds = 0.1"))
        for role, pid in here.stack.roles().items():
            if role.startswith("worker-") and role != "worker-io":
                ask_to_leave(pid)
        here.until_done(300)
        here.judge(allowed=here.stack.count("SELECT max(items) FROM chunks"))
        here.require(here.crashes() == 0, f"{here.crashes()} crashes were charged")
        return here.row


SCENARIOS = (Scenario("poison", poison), Scenario("loading", loading))
