"""What the other processes do to the ledger in the model: io, the reconciler, senders of webhooks."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from sqlalchemy import text

from db import deliveries
from db.deliveries import Attempt
from db.states import JobStatus, is_final
from tests.ledger import BOUNDS
from tests.model.acting import picks, stops
from tests.model.checking import Checking
from tests.model.expectations import require
from tests.model.world import REGISTRY
from workers.finalize import Finalize
from workers.ingest import Ingest
from workers.reconcile import Reconciler

IO = ("io one", "io two")
# So that a handful of lines are several windows, and several chunks.
WINDOW_ITEMS = 3


class Service(Checking):
    """Each step may stand still before any of its commits, and another process may begin the same one meanwhile."""

    @rule(stop=stops)
    def reconcile(self, stop: bool) -> None:
        self.step("reconcile", self._reconciler(stop).run, stop)

    def _reconciler(self, stop: bool) -> Reconciler:
        return Reconciler(self.world.stepping if stop else self.world.sessions, self.world.store, self.bell)

    @precondition(lambda self: self._waiting("validating"))
    @rule(pick=picks, which=st.integers(0, 1), stop=st.booleans())
    def ingest(self, pick: int, which: int, stop: bool) -> None:
        waiting = self._waiting("validating")
        self._ingest(waiting[pick % len(waiting)], which, stop)

    def _ingest(self, job_id: str, which: int, stop: bool) -> None:
        sessions = self.world.stepping if stop else self.world.sessions
        ingest = Ingest(
            sessions, self.world.store, lambda: REGISTRY, self.bell, BOUNDS, IO[which], window_items=WINDOW_ITEMS
        )
        self.step(f"ingest {job_id}", lambda: ingest.run(job_id), stop)

    @precondition(lambda self: self._waiting("finalizing", "cancelling"))
    @rule(pick=picks, which=st.integers(0, 1), stop=st.booleans())
    def finalize(self, pick: int, which: int, stop: bool) -> None:
        waiting = self._waiting("finalizing", "cancelling")
        self._finalize(waiting[pick % len(waiting)], which, stop)

    def _finalize(self, job_id: str, which: int, stop: bool) -> None:
        sessions = self.world.stepping if stop else self.world.sessions
        finalize = Finalize(sessions, self.world.store, self.bell, IO[which])
        self.step(f"finalize {job_id}", lambda: finalize.run(job_id), stop)

    @precondition(lambda self: self._waiting("validating", "finalizing", "cancelling") and (self.steps or self.kills))
    @rule(pick=picks)
    def let_a_step_run_out(self, pick: int) -> None:
        """Its process may still be at it."""
        waiting = self._waiting("validating", "finalizing", "cancelling")
        self.move_clock(
            "UPDATE jobs SET step_expires_at = now() - interval '1 ms' WHERE id = :id AND step_expires_at IS NOT NULL",
            id=waiting[pick % len(waiting)],
        )

    def _within_window(self) -> list[str]:
        return [id for id in self._waiting("validating", "in_progress") if not self.jobs[id].window_has_ended]

    @precondition(lambda self: self._within_window())
    @rule(pick=picks)
    def let_a_window_end(self, pick: int) -> None:
        waiting = self._within_window()
        job = self.jobs[waiting[pick % len(waiting)]]

        def done(_: Any) -> None:
            job.window_has_ended = True

        moved = text("UPDATE jobs SET expires_at = now() - interval '1 ms' WHERE id = :id")
        self.transact(lambda session: session.execute(moved, {"id": job.id}), done)

    @precondition(lambda self: any(is_final(JobStatus(row.status)) for row in self.rows.values()))
    @rule(stop=stops)
    def take_a_delivery(self, stop: bool) -> None:
        def done(claim: deliveries.Claim | None) -> None:
            if claim is not None:
                require(claim.id not in self.delivered, f"{claim.id} is sent again though it was delivered")
                self.tries.append(claim)

        self.transact(deliveries.claim, done, stop)

    @precondition(lambda self: self.tries)
    @rule(pick=picks, status=st.sampled_from([200, 200, 500, None]), stop=stops)
    def settle(self, pick: int, status: int | None, stop: bool) -> None:
        """Also of a try that was settled already, or that somebody else took over."""
        tried = self.tries[pick % len(self.tries)]
        attempt = Attempt(0.1, status, None if status else "timed out")

        def done(state: str | None) -> None:
            if state == "delivered":
                self.delivered.add(tried.id)

        self.transact(lambda session: deliveries.settle(session, tried, attempt), done, stop)

    @precondition(lambda self: self.tries)
    @rule()
    def let_pauses_end(self) -> None:
        self.move_clock("UPDATE deliveries SET due_at = now() - interval '1 ms' WHERE state = 'pending'")
