"""Everybody who changes the ledger, in any order that Hypothesis finds worth trying, on a real PostgreSQL.

There are workers whose leases may be stale, two io processes, a reconciler, senders of webhooks, and users of two
tenants. Any of them may stop before it commits and go on later, or never; a lock that it holds meanwhile makes the
others fail as a lock timeout would, and they try again another time. After every step all that is committed is
checked: by `invariants`, and against what has been promised (`expectations`). In the end everybody works properly
until nothing is left to do.

The clock is moved by moving the times that are stored: a lease, a step, a window or a pause is over from then on.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import children, chunks, deliveries, files, interactive, jobs, leases, recording, steps, webhooks
from db.audit import audit
from db.chunks import Candidate
from db.deliveries import Attempt
from db.doorbell import RecordingDoorbell
from db.errors import Conflict, LeaseLost, LedgerError, NotFound
from db.jobs import Idempotency, NewJob
from db.recording import NewResult
from db.states import NEXT_JOB, JobStatus, Outcome, is_final
from tests.ledger import BOUNDS
from tests.model import shapes
from tests.model.expectations import ExpectedJob, Lease, Violation, require
from tests.model.invariants import ALWAYS
from tests.model.steps import Step, is_lock_timeout
from tests.model.world import MODELS, REGISTRY, World
from workers.finalize import Finalize
from workers.ingest import Ingest
from workers.reconcile import Reconciler

T = TypeVar("T")

WORKERS = ("host/one:", "host/two:", "host/three:")
IO = ("io one", "io two")
# So that a handful of lines are several windows, and several chunks.
WINDOW_ITEMS = 3
MOST_JOBS, MOST_OPEN, MOST_STEPS = 6, 3, 3
_ROUNDS_TO_THE_END = 60

workers = st.sampled_from(WORKERS)
picks = st.integers(0, 11)
# Whether whoever acts stops before its commit; most do not, or nobody would ever get anywhere.
stops = st.sampled_from([False, False, False, True])


class Ends(Exception):
    """The transaction is to be undone, with a value for who began it."""

    def __init__(self, value: Any) -> None:
        self.value = value


class LedgerMachine(RuleBasedStateMachine):
    """Subclasses say in which `world`."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.tenants = self.world.wipe()
        self.bell = RecordingDoorbell()
        self.jobs: dict[str, ExpectedJob] = {}
        self.leases: list[Lease] = []
        self.tries: list[deliveries.Claim] = []
        self.hooks: list[tuple[str, str]] = []
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        # Transactions that wait for their commit, each with what it means to us once it is there.
        self.open: list[tuple[Session, Callable[[], None]]] = []
        self.steps: list[Step] = []
        self.rows: dict[str, Any] = {}
        self.results: dict[tuple[str, int], tuple[Any, ...]] = {}
        self.chunks: dict[int, Any] = {}
        self.delivered: set[str] = set()
        self.restarts = self.kills = 0

    # --- how anybody acts --------------------------------------------------------------------

    def transact(
        self, work: Callable[[Session], T], done: Callable[[T], None] | None = None, stop: bool = False
    ) -> None:
        """Run `work` in a transaction, and `done` with what came of it once that is committed.

        A lock timeout is as if it had not been tried. `Ends` rolls back, and is an outcome too.
        """
        session = self.world.sessions()
        try:
            value = work(session)
            if stop and len(self.open) < MOST_OPEN:
                self.open.append((session, lambda: done(value) if done else None))
                return
            session.commit()
        except Ends as exc:
            session.close()
            if done:
                done(exc.value)
            return
        except Exception as exc:
            session.close()
            if not is_lock_timeout(exc):
                raise
            return
        session.close()
        if done:
            done(value)

    def move_clock(self, statement: str, **values: Any) -> None:
        self.transact(lambda session: session.execute(text(statement), values))

    def step(self, name: str, work: Callable[[], Any], stop: bool) -> None:
        """Let a process do a step of the service, whole or up to its first commit."""
        if stop and len(self.steps) < MOST_STEPS:
            step = Step(name, work)
            self.steps.append(step)
            self.proceed(step)
            return
        try:
            work()
        except Exception as exc:
            if not is_lock_timeout(exc):
                raise

    def proceed(self, step: Step) -> None:
        step.go()
        if step.is_over:
            self.steps.remove(step)

    def job(self, pick: int) -> ExpectedJob:
        known = list(self.jobs.values())
        return known[pick % len(known)]

    @property
    def nobody_waits(self) -> bool:
        """Whether nothing is locked."""
        return not self.open and not self.steps

    # --- users -------------------------------------------------------------------------------

    @initialize()
    def subscribe(self) -> None:
        def work(session: Session) -> list[tuple[str, str]]:
            hooks = []
            for tenant in self.tenants:
                webhooks.create(session, tenant, "https://example.com/always", ["job.*"], ALWAYS)
                made = webhooks.create(session, tenant, "https://example.com/", ["job.*", "batch.*"])
                hooks.append((tenant, made.webhook.id))
            return hooks

        self.transact(work, self.hooks.extend)

    @initialize(lines=shapes.lines, which=st.integers(0, 1), worker=workers)
    def begin_with_a_running_job(self, lines: list[str], which: int, worker: str) -> None:
        """Most of what can go wrong needs one, and somebody who has begun with it."""
        self._submit(self.tenants[which], shapes.of("json", lines), NewJob("", "", "plain", {}, {}, on_error="skip"))
        self._ingest(next(iter(self.jobs)), 0, False)
        self.holds()
        for candidate in self._claimable():
            self._claim(worker, candidate, False)

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(
        which=st.integers(0, 1),
        kind=st.sampled_from(shapes.KINDS),
        lines=shapes.lines,
        model=st.sampled_from(["plain", "other"]),
        on_error=st.sampled_from(["fail", "skip", "skip"]),
        priority=st.integers(-1, 1),
        has_window=st.booleans(),
        dry_run=st.sampled_from([False] * 7 + [True]),
        as_file=st.booleans(),
        key=st.sampled_from([None, None, "a", "b"]),
        stop=stops,
    )
    def submit(
        self, which: int, kind: str, lines: list[str], model: str, on_error: str, priority: int, has_window: bool,
        dry_run: bool, as_file: bool, key: str | None, stop: bool,
    ) -> None:  # fmt: skip
        new = NewJob(
            "", "", model, {}, {}, on_error=on_error, priority=priority, dry_run=dry_run,
            expires_in=timedelta(hours=1) if has_window else None,
        )  # fmt: skip
        self._submit(self.tenants[which], shapes.of(kind, lines), new, key, as_file, stop)

    def _submit(
        self,
        tenant: str,
        shape: shapes.Shape,
        new: NewJob,
        key: str | None = None,
        as_file: bool = False,
        stop: bool = False,
    ) -> None:
        new = replace(new, id=jobs.new_job_id(), task=shape.task, format=shape.format, dialect=shape.dialect)
        new = replace(new, endpoint=shape.endpoint, model=new.model if shape.dialect == "bushel" else None)
        said = None if key is None else Idempotency(key, f"{shape} {new.on_error} {new.priority} {new.dry_run}")
        store_key = files.store_key(new.id) if as_file else jobs.inputs_key(new.id)
        with self.world.store.writer(store_key) as writer:
            writer.write(shape.data)

        def work(session: Session) -> tuple[str, bool] | Conflict:
            made = new if as_file else replace(new, inputs_key=store_key)
            if as_file:
                file = files.NewFile(files.new_file_id(), "batch", "in", len(shape.data), "-", "text/plain", store_key)
                made = replace(new, input_file_id=files.add(session, tenant, file).id)
            try:
                submitted = jobs.submit(session, tenant, made, said)
            except Conflict as exc:
                raise Ends(exc) from exc
            return submitted.job.id, submitted.is_new

        known = None if said is None else self.keys.get((tenant, said.key))
        known = known if known is not None and known[0] in self.jobs else None

        def done(outcome: tuple[str, bool] | Conflict) -> None:
            _check_key(said, known, outcome)
            if said is not None and not isinstance(outcome, Conflict) and outcome[1]:
                self.keys[tenant, said.key] = (outcome[0], said.request_sha256)
            if not isinstance(outcome, Conflict) and outcome[1]:
                self.jobs[new.id] = ExpectedJob(
                    new.id, tenant, shape.lines, shape.bad, new.on_error, new.dry_run, dialect=shape.dialect,
                    data=shape.data, input_file=self._input_file(new.id),
                )  # fmt: skip

        self.transact(work, done, stop)

    def _input_file(self, job_id: str) -> str | None:
        with self.world.sessions() as session:
            found: str | None = session.scalar(text("SELECT input_file_id FROM jobs WHERE id = :id"), {"id": job_id})
        return found

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(which=st.integers(0, 1), stop=stops)
    def ask(self, which: int, stop: bool) -> None:
        """A single request that somebody waits for."""
        new = NewJob(jobs.new_job_id(), "generation", "small", {}, {"type": "jsonl"}, expires_in=timedelta(hours=1))
        tenant = self.tenants[which]

        def done(_: Any) -> None:
            self.jobs[new.id] = ExpectedJob(new.id, tenant, 1, 0, is_interactive=True)

        self.transact(lambda session: interactive.submit(session, tenant, new, {"text": "?"}, {}), done, stop)

    @precondition(lambda self: self.jobs and len(self.jobs) < MOST_JOBS)
    @rule(pick=picks, whole=st.booleans(), stop=stops)
    def repeat(self, pick: int, whole: bool, stop: bool) -> None:
        """Retry or clone a job."""
        parent = self.job(pick)
        status = self.rows[parent.id].status

        def work(session: Session) -> NewJob | None:
            try:
                new = (children.clone if whole else children.retry)(session, parent.tenant, parent.id)
                # A window whose end was moved is no length of time to go by.
                new = replace(new, expires_in=None if new.expires_in is None else timedelta(hours=1))
                if parent.input_file is None:
                    new = replace(new, inputs_key=jobs.inputs_key(new.id))
                    with self.world.store.writer(jobs.inputs_key(new.id)) as writer:
                        writer.write(parent.data)
                jobs.submit(session, parent.tenant, new)
            except (Conflict, NotFound) as exc:
                raise Ends(None) from exc
            return new

        def done(new: NewJob | None) -> None:
            if new is None:
                return
            require(whole or is_final(JobStatus(status)), f"{parent.id} was retried while it was {status}")
            self.jobs[new.id] = ExpectedJob(
                new.id, parent.tenant, parent.lines if whole else None, parent.bad, new.on_error, new.dry_run,
                is_child=not whole or parent.is_child, dialect=parent.dialect, data=parent.data,
                input_file=parent.input_file,
            )  # fmt: skip

        self.transact(work, done, stop)

    @precondition(lambda self: self.jobs)
    @rule(pick=picks, stop=stops)
    def cancel(self, pick: int, stop: bool) -> None:
        job = self.job(pick)
        must = self.nobody_waits and self.rows[job.id].status in ("validating", "in_progress")

        def work(session: Session) -> bool:
            try:
                jobs.cancel(session, job.tenant, job.id)
            except LedgerError as exc:
                raise Ends(False) from exc
            return True

        def done(is_accepted: bool) -> None:
            require(is_accepted or not must, f"{job.id} could not be cancelled")
            job.was_cancelled = job.was_cancelled or is_accepted

        self.transact(work, done, stop)

    @precondition(lambda self: self.jobs)
    @rule(pick=picks, paused=st.booleans(), stop=stops)
    def pause(self, pick: int, paused: bool, stop: bool) -> None:
        job = self.job(pick)

        def work(session: Session) -> None:
            try:
                jobs.set_paused(session, job.tenant, job.id, paused)
            except LedgerError as exc:
                raise Ends(None) from exc

        self.transact(work, None, stop)

    @precondition(lambda self: any(is_final(JobStatus(row.status)) for row in self.rows.values()))
    @rule(pick=picks, stop=stops)
    def delete(self, pick: int, stop: bool) -> None:
        # In the order in which we made them: that of ids of one millisecond is random.
        ended = [id for id in self.jobs if is_final(JobStatus(self.rows[id].status))]
        job = self.jobs[ended[pick % len(ended)]]

        def work(session: Session) -> bool:
            try:
                jobs.delete(session, job.tenant, job.id)
            except LedgerError as exc:
                raise Ends(False) from exc
            return True

        def done(is_gone: bool) -> None:
            if is_gone:
                self.jobs.pop(job.id, None)

        self.transact(work, done, stop)

    @precondition(lambda self: self.jobs)
    @rule(pick=picks)
    def look_at_anothers(self, pick: int) -> None:
        """What the other tenant tries with a job's id changes nothing and finds nothing."""
        job = self.job(pick)
        [stranger] = [tenant for tenant in self.tenants if tenant != job.tenant]
        for use in (jobs.cancel, jobs.delete, children.clone, jobs.get):
            with self.world.sessions() as session:
                try:
                    use(session, stranger, job.id)
                except NotFound:
                    continue
            raise Violation(f"{use.__name__} of {job.id} did something for another tenant")

    @precondition(lambda self: any(job.input_file for job in self.jobs.values()))
    @rule(pick=picks, stop=stops)
    def delete_input(self, pick: int, stop: bool) -> None:
        with_files = [job for job in self.jobs.values() if job.input_file]
        job = with_files[pick % len(with_files)]
        assert job.input_file is not None
        file_id = job.input_file

        def work(session: Session) -> None:
            try:
                files.delete(session, job.tenant, file_id)
            except NotFound as exc:
                raise Ends(None) from exc

        self.transact(work, None, stop)

    @rule(which=st.integers(0, 1), enabled=st.booleans(), stop=stops)
    def switch_webhook(self, which: int, enabled: bool, stop: bool) -> None:
        tenant, hook = self.hooks[which]
        self.transact(lambda s: webhooks.change(s, tenant, hook, webhooks.Change(enabled=enabled)), None, stop)

    # --- workers -----------------------------------------------------------------------------

    @precondition(lambda self: self._claimable())
    @rule(worker=workers, pick=picks, stop=stops)
    def claim(self, worker: str, pick: int, stop: bool) -> None:
        """Of any chunk that seemed ready when the worker looked."""
        choices = self._claimable()
        self._claim(worker, choices[pick % len(choices)], stop)

    @precondition(lambda self: self.jobs)
    @rule(worker=workers, pick=picks, model=st.sampled_from(MODELS))
    def claim_blindly(self, worker: str, pick: int, model: str) -> None:
        """From a job that may be paused, unread or at its end."""
        self._claim(worker, Candidate(self.job(pick).id, model), False)

    def _claimable(self) -> list[Candidate]:
        # Twins are left until all that they may be equal to are through.
        firsts = {
            (chunk.job_id, chunk.model)
            for chunk in self.chunks.values()
            if chunk.state in ("ready", "leased") and not chunk.of_twins
        }
        found = {
            (chunk.job_id, chunk.model)
            for chunk in self.chunks.values()
            if chunk.state == "ready" and self._runs(chunk.job_id)
            if not (chunk.of_twins and (chunk.job_id, chunk.model) in firsts)
        }
        order = list(self.jobs)
        return [Candidate(*pair) for pair in sorted(found, key=lambda pair: (order.index(pair[0]), pair[1]))]

    def _runs(self, job_id: str) -> bool:
        return job_id in self.jobs and self.rows[job_id].status == "in_progress" and not self.rows[job_id].paused

    def _claim(self, worker: str, candidate: Candidate, stop: bool) -> None:
        owner = f"{worker}{self.restarts}"
        was_ready = candidate in self._claimable()
        is_free = self.nobody_waits

        def work(session: Session) -> chunks.Claim:
            claim = chunks.claim(session, candidate, owner, 600)
            if claim is None:
                raise Ends(None)
            return claim

        def done(claim: chunks.Claim | None) -> None:
            if is_free:
                require((claim is not None) == was_ready, f"claim of {candidate} gave {claim}; ready was {was_ready}")
            if claim is None:
                return
            for lease in self.leases:
                if lease.claim.chunk_id == claim.chunk_id:
                    require(not lease.is_live, f"chunk {claim.chunk_id} was leased twice")
                    require(claim.attempt > lease.claim.attempt, f"attempt {claim.attempt} of a chunk was there before")
            with self.world.sessions() as session:
                items = chunks.items_of(session, claim.chunk_id)
            require(len(items) == claim.items, f"chunk {claim.chunk_id} says {claim.items} items and has {len(items)}")
            self.leases.append(Lease(claim, owner, items))

        self.transact(work, done, stop)

    def live(self) -> list[Lease]:
        return [lease for lease in self.leases if lease.is_live]

    @precondition(lambda self: self.live())
    @rule(pick=picks, failed=st.integers(0, 15), stop=stops)
    def record(self, pick: int, failed: int, stop: bool) -> None:
        live = self.live()
        lease = live[pick % len(live)]
        self._record(lease, self._results(lease, len(lease.groups), failed), stop)

    @precondition(lambda self: self.live())
    @rule(pick=picks, groups=st.integers(0, 2), stop=stops)
    def record_a_part(self, pick: int, groups: int, stop: bool) -> None:
        """With no group at all the chunk is handed back as it is."""
        live = self.live()
        lease = live[pick % len(live)]
        self._record(lease, self._results(lease, groups, 0), stop)

    @precondition(lambda self: len(self.live()) < len(self.leases))
    @rule(pick=picks, stop=stops)
    def record_late(self, pick: int, stop: bool) -> None:
        """By a worker that was frozen, or has not heard that its commit had happened."""
        taken = {lease.claim.chunk_id for lease in self.live()}
        dead = [lease for lease in self.leases if not lease.is_live]
        # Those that do harm if they are let in come first: somebody else is at their chunk.
        dead.sort(key=lambda lease: lease.claim.chunk_id not in taken)
        lease = dead[pick % len(dead)]
        self._record(lease, self._results(lease, len(lease.groups), 0), stop)

    def _results(self, lease: Lease, groups: int, failed: int) -> list[NewResult]:
        """Texts tell by whom and under which attempt they were made."""
        results = []
        for place, group in enumerate(lease.groups[:groups]):
            for idx in group:
                if failed >> place & 1:
                    results.append(NewResult(idx, Outcome.FAILED, error_code="engine_error", error_message="told to"))
                    continue
                said = f"{lease.worker} {lease.key} {idx}"
                output = {"text": said, "finish_reason": "stop"}
                # Every job has some that others have too.
                key = b"item %d" % idx
                results.append(
                    NewResult(idx, Outcome.SUCCEEDED, output, input_tokens=2, output_tokens=1, cache_key=key)
                )
        return results

    def _record(self, lease: Lease, results: Sequence[NewResult], stop: bool) -> None:
        was_live = lease.is_live

        def work(session: Session) -> bool:
            try:
                recording.record(session, lease.claim.chunk_id, self.fence(session, lease), results)
            except LeaseLost as exc:
                raise Ends(False) from exc
            return True

        def done(is_recorded: bool) -> None:
            if not is_recorded:
                return require(not was_live, f"a live lease was refused: {lease.key} of {lease.worker}")
            require(was_live, f"a dead lease wrote: {lease.key} of {lease.worker}")
            lease.is_live = False
            job = self.jobs[lease.claim.job_id]
            for result in results:
                said = None if result.output is None else result.output["text"]
                require(result.idx not in job.recorded, f"item {result.idx} of {job.id} was recorded twice")
                job.recorded[result.idx] = (result.outcome.value, said)

        self.transact(work, done, stop)

    def fence(self, session: Session, lease: Lease) -> int:
        """The attempt that the lease's results carry."""
        return lease.claim.attempt

    @precondition(lambda self: self.leases)
    @rule(worker=workers, begun=st.booleans(), stop=stops)
    def renew(self, worker: str, begun: bool, stop: bool) -> None:
        """A heartbeat for all the worker thinks it holds, stale or not."""
        held = [lease for lease in self.leases if lease.worker.startswith(worker)][-4:]
        beats = [leases.Beat(*lease.key, 1, begun) for lease in held]
        if beats:
            self.transact(lambda session: leases.renew(session, beats, 600), None, stop)

    def lost(self) -> list[Lease]:
        """Leases that were taken while their workers were frozen or cut off, and that these have not spoken of yet."""
        return [lease for lease in self.leases if lease.has_lapsed and not lease.is_live and not lease.has_pleaded]

    @precondition(lambda self: self.lost())
    @rule(pick=picks, stop=stops)
    def acquit(self, pick: int, stop: bool) -> None:
        """A worker finds its lease gone, and says that it is alive: the chunk did not kill it."""
        lost = self.lost()
        lease = lost[pick % len(lost)]
        # Once, whatever comes of it: a worker does not try this again.
        lease.has_pleaded = True

        def done(is_charged: bool) -> None:
            if is_charged and lease.claim.job_id in self.jobs:
                deaths = self.jobs[lease.claim.job_id].deaths
                deaths.update({item.idx: deaths[item.idx] - 1 for item in lease.items})

        self.transact(lambda session: leases.acquit(session, lease.claim.chunk_id, lease.claim.crashes), done, stop)

    def fresh(self) -> list[Lease]:
        return [lease for lease in self.live() if not lease.has_lapsed]

    @precondition(lambda self: self.fresh())
    @rule(pick=picks)
    def let_a_lease_run_out(self, pick: int) -> None:
        fresh = self.fresh()
        self._lapse("id = :id", id=fresh[pick % len(fresh)].claim.chunk_id)

    @precondition(lambda self: self.live())
    @rule(pick=picks, worker=workers, stop=stops, wakes=st.booleans())
    def take_over(self, pick: int, worker: str, stop: bool, wakes: bool) -> None:
        """A lease runs out, the reconciler takes it, and somebody has the chunk when its first worker wakes up."""
        live = self.live()
        lease = live[pick % len(live)]
        self._lapse("id = :id", id=lease.claim.chunk_id)
        self.holds()
        self.transact(leases.reclaim)
        self.holds()
        candidate = Candidate(lease.claim.job_id, lease.claim.model)
        if candidate in self._claimable():
            self._claim(worker, candidate, stop)
        if wakes:
            self._record(lease, self._results(lease, len(lease.groups), 0), False)

    @precondition(lambda self: self.fresh())
    @rule(worker=workers)
    def crash(self, worker: str) -> None:
        """The worker is gone without a word, and time passes."""
        self._lapse("starts_with(lease_owner, :worker)", worker=worker)

    def _lapse(self, which: str, **values: Any) -> None:
        # By as much as who inherits leases moves it, so that those are taken in an order that does not depend on haste.
        self.move_clock(
            f"UPDATE chunks SET lease_expires_at = now() - interval '1 s' WHERE state = 'leased' AND {which}", **values
        )

    @precondition(lambda self: self.live())
    @rule(worker=workers, stop=stops)
    def restart(self, worker: str, stop: bool) -> None:
        """A new process in the worker's place, which knows that the one before it is dead."""
        self.restarts += 1
        heir = f"{worker}{self.restarts}"
        self.transact(lambda session: leases.inherit(session, worker, heir), None, stop)

    # --- the reconciler, and io processes ----------------------------------------------------

    @precondition(lambda self: any(lease.has_lapsed for lease in self.live()))
    @rule(stop=stops)
    def reclaim(self, stop: bool) -> None:
        self.transact(leases.reclaim, None, stop)

    @rule(stop=stops)
    def reconcile(self, stop: bool) -> None:
        self.step("reconcile", self._reconciler(stop).run, stop)

    def _reconciler(self, stop: bool) -> Reconciler:
        return Reconciler(self.world.stepping if stop else self.world.sessions, self.world.store, self.bell)

    def _waiting(self, *statuses: str) -> list[str]:
        return [id for id in self.jobs if id in self.rows and self.rows[id].status in statuses]

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

    # --- those who stopped before they committed ---------------------------------------------

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

    # --- senders of webhooks -----------------------------------------------------------------

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

    # --- what is true after every step -------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        seen = self.world.look()
        require(not seen.broken, f"does not hold: {seen.broken}")
        self._check_jobs(seen.jobs)
        self._check_results(seen.results)
        self._check_leases(seen.chunks)
        self.rows = seen.jobs

    def _check_jobs(self, rows: dict[str, Any]) -> None:
        require(rows.keys() == self.jobs.keys(), f"jobs lost or invented: {rows.keys() ^ self.jobs.keys()}")
        for id, row in rows.items():
            before, status = self.rows.get(id), JobStatus(row.status)
            was = self.jobs[id].begins_as if before is None else JobStatus(before.status)
            require(status is was or status in _reachable(was), f"{id} was {was} and is {status}")
            if before is not None and is_final(was):
                require(row == before, f"{id} had ended as {before} and is now {row}")
            elif is_final(status):
                self.jobs[id].check_end(row)
                self._check_files(row)

    def _check_results(self, results: dict[tuple[str, int], Any]) -> None:
        for key, seen in self.results.items():
            if key[0] in self.jobs:
                require(results.get(key) == seen, f"the outcome of {key} was {seen} and is {results.get(key)}")
        fresh: dict[str, list[int]] = {}
        for key, row in results.items():
            if key not in self.results:
                self._check_result(self.jobs[key[0]], row)
                fresh.setdefault(key[0], []).append(row.seq)
        for job_id, seqs in fresh.items():
            last = max((row.seq for (job, _), row in self.results.items() if job == job_id), default=0)
            require(min(seqs) > last, f"results of {job_id} were numbered {seqs} after {last} had been seen")
        self.results = results

    def _check_result(self, job: ExpectedJob, row: Any) -> None:
        if row.chunk_id is None:
            return require(row.outcome == "succeeded" or job.bad, f"an item of {job.id} failed unread")
        if row.error_code == "worker_crashed":
            require(job.deaths.get(row.idx, 0) >= chunks.MAX_CRASHES, f"item {row.idx} of {job.id} killed nobody")
        else:
            require(
                job.recorded.get(row.idx) == (row.outcome, row.said),
                f"item {row.idx} of {job.id} is {row.outcome} {row.said}; recorded was {job.recorded.get(row.idx)}",
            )

    def _check_leases(self, seen: dict[int, Any]) -> None:
        """See which leases the reconciler took. It may take only those that had run out."""
        self.chunks = seen
        for lease in self.live():
            chunk = self.chunks.get(lease.claim.chunk_id)
            if chunk is not None and (chunk.state, chunk.attempt) == ("leased", lease.claim.attempt):
                require(
                    chunk.lease_owner == lease.worker, f"{lease.key} went from {lease.worker} to {chunk.lease_owner}"
                )
                if chunk.has_lapsed and not lease.has_lapsed:
                    deaths = self.jobs[lease.claim.job_id].deaths
                    deaths.update({item.idx: deaths.get(item.idx, 0) + 1 for item in lease.items})
                lease.has_lapsed = chunk.has_lapsed
            else:
                require(lease.has_lapsed, f"a lease that had not run out was taken: {lease.key} of {lease.worker}")
                lease.is_live = False

    def _check_files(self, row: Any) -> None:
        """Every item stands in the files exactly once, in order, as it was recorded."""
        if row.dry_run or row.interactive or not row.total:
            return
        with self.world.sessions() as session:
            want = list(session.execute(_OUTCOMES, {"job": row.id}))
        for file_id, succeeded in ((row.output_file_id, True), (row.error_file_id, False)):
            ids = [item for item in want if (item.outcome == "succeeded") is succeeded]
            is_text = succeeded and row.kind == "txt"
            if file_id is None:
                require(not ids, f"{row.id} has no file for {len(ids)} items")
                continue
            with self.world.store.open(files.store_key(file_id)) as file:
                lines = file.read().decode().splitlines()
            if is_text:
                # A job of some of a file's lines has empty ones for the others.
                said = [item.said or "" for item in want]
                is_part = self.jobs[row.id].lines is None
                require(
                    lines == said or (is_part and [*filter(None, lines)] == [*filter(None, said)]),
                    f"{row.id} wrote {lines} for {want}",
                )
            else:
                require(
                    shapes.custom_ids(lines) == [item.custom_id for item in ids], f"{row.id} wrote {lines} for {ids}"
                )

    # --- the end -----------------------------------------------------------------------------

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


def _check_key(said: Idempotency | None, known: tuple[str, str] | None, outcome: tuple[str, bool] | Conflict) -> None:
    """One job a key: the same request gets the same job, another one is told. `known`: the key's job and request."""
    if said is None or known is None:
        require(not isinstance(outcome, Conflict) and outcome[1], f"a new request was answered with {outcome}")
    elif known[1] != said.request_sha256:
        require(isinstance(outcome, Conflict), f"key {said.key} made {outcome} of another request")
    else:
        require(outcome == (known[0], False), f"key {said.key} made {outcome} though it had made {known[0]}")


def _reachable(status: JobStatus) -> set[JobStatus]:
    found: set[JobStatus] = set()
    todo = [status]
    while todo:
        fresh = NEXT_JOB[todo.pop()] - found
        found |= fresh
        todo += fresh
    return found


_OUTCOMES = text("""
    SELECT item.custom_id, r.outcome, r.output ->> 'text' AS said
    FROM items item LEFT JOIN results r ON r.job_id = item.job_id AND r.idx = item.idx
    WHERE item.job_id = :job ORDER BY item.idx
""")
