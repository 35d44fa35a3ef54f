"""A job that is called off while it runs: nothing more begins, it ends soon, and what it has got is kept."""

import time
from dataclasses import replace
from pathlib import Path

from chaos.arena import Arena, arena, lines
from chaos.evidence import FAILS
from chaos.journal import Promise
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms
from chaos.stack import until

QUIET_SECONDS, ENDED_SECONDS = 2.0, 5.0
_SECONDS_PER_ITEM = 0.002
# Of the echo engine's 4,096 tokens, at five an item.
_BATCH_SECONDS = 4_096 / 5 * _SECONDS_PER_ITEM


def cancelled(terms: Terms) -> Row:
    """A running job is cancelled when a fifth of it is done."""
    total = terms.size(100_000, 5_000)
    with arena("cancelled in its midst", terms.folder, seconds_per_item=_SECONDS_PER_ITEM) as here:
        promise = here.client.submit("echo", lines(total))
        here.until_settled(total // 5)
        before = _kept(here, promise)
        here.client.asked("POST", f"/v1/jobs/{promise.job_id}/cancel")
        here.faults, answered_at, began = 1, time.time(), time.monotonic()
        until(lambda: here.client.job(promise.job_id)["status"] == "cancelled", 120, "the end of the job")
        ended = time.monotonic() - began
        # Who began something too late has written it down by then.
        time.sleep(QUIET_SECONDS + _BATCH_SECONDS)
        last = (here.stack.folder / "computed").stat().st_mtime - answered_at
        kept = _kept(here, promise)
        here.judge(allowed=0, promises=[_ending_so(promise, kept)])
        here.row.notes.append(f"{len(before)} items were done before the cancel, {len(kept)} were kept")
        here.row.notes.append(f"seconds after its answer: the last item computed {last:.2f}, the job ended {ended:.2f}")
        bar = _BATCH_SECONDS + ENDED_SECONDS
        here.require(
            last <= QUIET_SECONDS, f"an item was computed {last:.1f} s after, {QUIET_SECONDS:.0f} s is the bar"
        )
        here.require(ended <= bar, f"the job ended after {ended:.1f} s, {bar:.1f} s is the bar")
        here.require(before <= kept, f"{len(before - kept)} items were done and are not kept")
        here.require(len(kept) < total, "the cancel came too late: the job was over")
        return here.row


def _kept(here: Arena, promise: Promise) -> set[int]:
    """Which items have a good result, by the table and not by what is served."""
    query = "SELECT idx FROM results WHERE job_id = %s AND outcome = 'succeeded'"
    return {row["idx"] for row in here.stack.rows(query, promise.job_id)}


def _ending_so(promise: Promise, kept: set[int]) -> Promise:
    """The promise of a job that is cancelled: of these items the outputs, and of the others none."""
    right = Path(promise.expected)
    given = right.read_text().split("\n")[:-1]
    right.write_text("".join(f"{line if place in kept else FAILS}\n" for place, line in enumerate(given)))
    return replace(promise, ends="cancelled")


SCENARIOS = (Scenario("cancelled", cancelled),)
