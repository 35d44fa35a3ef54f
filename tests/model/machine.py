"""Everybody who changes the ledger, in any order that Hypothesis finds worth trying, on a real PostgreSQL.

There are workers whose leases may be stale, two io processes, a reconciler, senders of webhooks, and users of two
tenants. Any of them may stop before it commits and go on later, or never; a lock that it holds meanwhile makes the
others fail as a lock timeout would, and they try again another time. After every step all that is committed is
checked: by `invariants`, and against what has been promised (`expectations`). In the end everybody works properly
until nothing is left to do.

The clock is moved by moving the times that are stored: a lease, a step, a window or a pause is over from then on.
"""

import sys

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from sqlalchemy import text

from db import chunks, jobs, steps
from db.audit import audit
from db.jobs import NewJob
from db.states import JobStatus, is_final
from tests.model import shapes
from tests.model.acting import picks
from tests.model.expectations import require
from tests.model.service import Service
from tests.model.users import Users
from tests.model.workers import WORKERS, Workers, workers
from tests.model.world import MODELS

_ROUNDS_TO_THE_END = 60


class LedgerMachine(Users, Workers, Service):
    """All of them together, those who stopped before they committed, and the end."""

    @initialize(lines=shapes.lines, which=st.integers(0, 1), worker=workers)
    def begin_with_a_running_job(self, lines: list[str], which: int, worker: str) -> None:
        """Most of what can go wrong needs one, and somebody who has begun with it."""
        self._submit(self.tenants[which], shapes.of("json", lines), NewJob("", "", "plain", {}, {}, on_error="skip"))
        self._ingest(next(iter(self.jobs)), 0, False)
        self.holds()
        for candidate in self._claimable():
            self._claim(worker, candidate, False)

    @precondition(lambda self: self.open)
    @rule(pick=picks)
    def commit(self, pick: int) -> None:
        session, done = self.open.pop(pick % len(self.open))
        session.commit()
        session.close()
        done()

    @precondition(lambda self: self.open)
    @rule(pick=picks)
    def lose_the_connection(self, pick: int) -> None:
        session, _ = self.open.pop(pick % len(self.open))
        session.close()

    @precondition(lambda self: self.steps)
    @rule(pick=picks, commits=st.integers(1, 3))
    def go_on(self, pick: int, commits: int) -> None:
        step = self.steps[pick % len(self.steps)]
        for _ in range(commits):
            if not step.is_over:
                self.proceed(step)

    @precondition(lambda self: self.steps)
    @rule(pick=picks)
    def kill(self, pick: int) -> None:
        step = self.steps.pop(pick % len(self.steps))
        step.kill()
        self.kills += 1

    def teardown(self) -> None:
        failed = sys.exc_info()[0] is not None
        for step in self.steps:
            step.kill()
        for session, _ in self.open:
            session.close()
        self.steps, self.open = [], []
        if not failed:
            self.drain()

    def drain(self) -> None:
        """Everybody works properly from here on: every job ends, and as it has to."""
        self.holds()
        for id in self._waiting("validating", "in_progress"):
            self.let_go_on(id)
        self._lapse("true")
        self.move_clock("UPDATE jobs SET step_expires_at = now() - interval '1 ms' WHERE step_expires_at IS NOT NULL")
        self.holds()
        for _ in range(_ROUNDS_TO_THE_END):
            self.round()
            if all(is_final(JobStatus(row.status)) for row in self.rows.values()):
                break
        for id, row in self.rows.items():
            require(is_final(JobStatus(row.status)), f"{id} never ends: {row}")
            with self.world.sessions() as session:
                found = audit(session, self.jobs[id].tenant, id)
            require(found.ok, f"the audit of {id} says {[check for check in found.checks if not check.ok]}")
        self.deliver_all()

    def let_go_on(self, job_id: str) -> None:
        with self.world.sessions.begin() as session:
            jobs.set_paused(session, self.jobs[job_id].tenant, job_id, False)

    def round(self) -> None:
        self.step("reconcile", self._reconciler(False).run, False)
        self.holds()
        with self.world.sessions() as session:
            unread = steps.due(session, "ingest")
        for job_id in unread:
            self._ingest(job_id, 0, False)
        self.holds()
        with self.world.sessions() as session:
            candidates = chunks.candidates(session, MODELS, [])
        for candidate in candidates:
            require(
                self._runs(candidate.job_id), f"{candidate.job_id} was offered and is {self.rows[candidate.job_id]}"
            )
            while candidate in self._claimable():
                self._claim(WORKERS[0], candidate, False)
                self._record(self.leases[-1], self._results(self.leases[-1], len(self.leases[-1].groups), 0), False)
                self.holds()
        with self.world.sessions() as session:
            unfinished = steps.due(session, "finalize")
        for job_id in unfinished:
            self._finalize(job_id, 0, False)
        self.holds()

    def deliver_all(self) -> None:
        """Every event arrives in the end."""
        for _ in range(_ROUNDS_TO_THE_END):
            self.let_pauses_end()
            before = len(self.tries)
            self.take_a_delivery(False)
            if len(self.tries) == before:
                break
            self.settle(len(self.tries) - 1, 200, False)
        with self.world.sessions() as session:
            states = {row.id: row.state for row in session.execute(text("SELECT id, state FROM deliveries"))}
        require("pending" not in states.values(), f"deliveries wait for ever: {states}")
        # Those of deleted jobs are gone.
        again = [id for id in self.delivered if states.get(id, "delivered") != "delivered"]
        require(not again, f"deliveries that had arrived: {again}")
