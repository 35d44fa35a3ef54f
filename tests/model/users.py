"""What users of two tenants do to the ledger in the model."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import children, files, interactive, jobs, webhooks
from db.errors import Conflict, LedgerError, NotFound
from db.jobs import Idempotency, NewJob
from db.states import JobStatus, is_final
from tests.model import shapes
from tests.model.acting import MOST_JOBS, Ends, picks, stops
from tests.model.checking import Checking
from tests.model.expectations import ExpectedJob, Violation, require
from tests.model.invariants import ALWAYS


class Users(Checking):
    """They submit, ask, repeat, cancel, pause and delete, and try it with what is another's."""

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


def _check_key(said: Idempotency | None, known: tuple[str, str] | None, outcome: tuple[str, bool] | Conflict) -> None:
    """One job a key: the same request gets the same job, another one is told. `known`: the key's job and request."""
    if said is None or known is None:
        require(not isinstance(outcome, Conflict) and outcome[1], f"a new request was answered with {outcome}")
    elif known[1] != said.request_sha256:
        require(isinstance(outcome, Conflict), f"key {said.key} made {outcome} of another request")
    else:
        require(outcome == (known[0], False), f"key {said.key} made {outcome} though it had made {known[0]}")
