"""The end of a job: what nobody will run is settled, result files are written, the last status is set."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import chunks, events, faults, files, results, steps, webhooks
from db.doorbell import DELIVER, Doorbell
from db.errors import LeaseLost
from db.ids import renamed
from db.inputs import Problem
from db.lines import JSONLines, LineWriter, ResultRow, writer_for
from db.notices import announce
from db.session import Sessions
from db.states import EVENT_OF, JobStatus, Outcome, leftover
from db.steps import StepLease
from db.store import FileStore, StoreFull, Writer
from dialects.writing import writers
from workers import metrics, observation
from workers.report import ScoringFailed, Subject, write_report
from workers.room import DiskNearlyFull

logger = logging.getLogger(__name__)

# How often the step's lease is renewed, and looked whether the process stops, while files are written.
SECONDS_PER_RENEWAL = 2.0


@dataclass(frozen=True, slots=True)
class _Ending:
    """A job about to end. `keeps_files` is False for one whose results nobody reads from a file."""

    tenant_id: str
    dialect: str
    endpoint: str | None
    status: JobStatus
    format: dict[str, Any]
    keeps_files: bool
    lifetime: timedelta | None
    total: int
    open: int
    succeeded: int
    expired: int
    task: str
    model: str | None
    referenced: int


@dataclass(slots=True)
class _Written:
    """What was made of a job so far: files that have no rows yet, and what its outputs scored, if any did.

    `problem` says why they have no scores though there are references.
    """

    made: dict[str, files.NewFile] = field(default_factory=dict)
    scores: dict[str, Any] | None = None
    problem: Problem | None = None


class Finalize:
    """The finalize step. One instance serves a process; `run` may be called from several threads."""

    def __init__(
        self,
        sessions: Sessions,
        store: FileStore,
        doorbell: Doorbell,
        owner: str,
        should_stop: Callable[[], bool] = lambda: False,
        has_room: Callable[[int], bool] = lambda wanted: True,
    ) -> None:
        self._sessions, self._store, self._doorbell = sessions, store, doorbell
        self._owner, self._should_stop, self._has_room = owner, should_stop, has_room
        # Bytes that files of jobs took when they did not fit, so that they are not written again and again in vain.
        self._wanted: dict[str, int] = {}

    def run(self, job_id: str) -> bool:
        """End one job; False when it is not due, or workers still hold items of it (they ring when done).

        With the disk full it waits, as it is, and is tried again: no result is lost for want of a file.
        """
        if not self._has_room(self._wanted.get(job_id, 0)):
            return False
        with self._sessions.begin() as session:
            status = _status(session, job_id)
            if status not in (JobStatus.FINALIZING, JobStatus.CANCELLING):
                return False
            # Before the step's lease, because the lock order is chunk before job.
            dropped = chunks.drop_ready(session, job_id, status)
        observation.count(metrics.NO_MODEL, leftover(status), dropped)
        with self._sessions.begin() as session:
            lease = steps.take(session, job_id, "finalize", self._owner)
        if lease is None:
            return False
        with observation.at_step("finalize", lease):
            return self._run(lease)

    def _run(self, lease: StepLease) -> bool:
        job_id = lease.job_id
        try:
            return self._finalize(lease)
        except LeaseLost as exc:
            logger.info("finalize of %s given up: %s", job_id, exc, extra={"action": "finalize_lost", "job_id": job_id})
            return False
        except (DiskNearlyFull, StoreFull) as exc:
            logger.warning("job %s waits: %s", job_id, exc, extra={"action": "finalize_waits", "job_id": job_id})
            return False
        finally:
            with self._sessions.begin() as session:
                steps.leave(session, lease)

    def _finalize(self, lease: StepLease) -> bool:
        ending = self._ending(lease)
        if ending.open:
            return False
        written = _Written()
        try:
            if ending.total and ending.keeps_files:
                self._write(lease, ending, written)
            faults.reached("in finalize")
            with self._sessions.begin() as session:
                steps.hold(session, lease, ending.status)
                final = self._end(session, lease.job_id, ending, written)
                is_awaited = webhooks.emit(session, lease.job_id)
        except BaseException:
            self._discard(written)
            raise
        faults.reached("after finalize")
        self._wanted.pop(lease.job_id, None)
        metrics.JOBS.labels(final.value).inc()
        if is_awaited:
            self._doorbell.ring(DELIVER)
        logger.info("job %s is %s", lease.job_id, final, extra={"action": f"job_{final}", "job_id": lease.job_id})
        return True

    def _discard(self, written: _Written) -> None:
        """Delete files that have no row. One may have: a commit whose acknowledgement was lost has happened."""
        for file in written.made.values():
            with self._sessions() as session:
                is_kept = files.exists(session, file.id)
            if not is_kept:
                self._store.delete(file.store_key)

    def _ending(self, lease: StepLease) -> _Ending:
        with self._sessions.begin() as session:
            status = steps.hold(session, lease)
            row = session.execute(
                text("""
                    SELECT tenant_id, dialect, endpoint, format, NOT (dry_run OR interactive) AS keeps_files,
                        output_lifetime_seconds AS lifetime, total, queued + running AS open, succeeded, expired,
                        task, model, referenced
                    FROM jobs WHERE id = :job
                """),
                {"job": lease.job_id},
            ).one()
        return _Ending(
            row.tenant_id,
            row.dialect,
            row.endpoint,
            status,
            row.format,
            row.keeps_files,
            None if row.lifetime is None else timedelta(seconds=row.lifetime),
            row.total,
            row.open,
            row.succeeded,
            row.expired,
            row.task,
            row.model,
            row.referenced,
        )

    def _write(self, lease: StepLease, ending: _Ending, written: _Written) -> None:
        """The output file, the error file and the report, each only if it has a line; added to `written` as they are.

        Every custom_id stands in exactly one of the two. A TXT output has a line for every line of
        the input instead, empty where there is no output, so that line n answers line n; TXT has no ids.
        """
        both = _writers(ending, lease.job_id)
        if both is None:
            return
        output, errors = both
        if ending.succeeded:
            keep = (lambda row: True) if output.extension == "txt" else _succeeded
            written.made["output"] = self._write_one(lease, "output", ending, output, keep)
        if ending.total > ending.succeeded:
            written.made["errors"] = self._write_one(lease, "errors", ending, errors, lambda row: not _succeeded(row))
        if ending.referenced and ending.succeeded:
            try:
                self._score(lease, ending, written)
            except ScoringFailed as exc:
                # The results are there, and would never be had if the job did not end for want of a number.
                logger.exception(
                    "the outputs of %s cannot be scored (line %s)",
                    lease.job_id,
                    exc.line,
                    extra={"action": "scoring_failed", "job_id": lease.job_id},
                )
                hint = "the results are not affected; the service's log says why"
                written.problem = Problem("scoring_failed", str(exc), hint, line=exc.line)

    def _write_one(
        self, lease: StepLease, name: str, ending: _Ending, lines: LineWriter, keep: Callable[[ResultRow], bool]
    ) -> files.NewFile:
        file_id = files.new_file_id()
        written = 0
        try:
            with self._store.writer(files.store_key(file_id)) as writer:
                writer.write(lines.header())
                rows = results.rows(self._sessions, lease.job_id, unfinished=leftover(ending.status).value)
                renew = self._renewal(lease)
                for row in rows:
                    if keep(row):
                        writer.write(lines.line(row))
                        written = writer.bytes
                    renew()
        except (DiskNearlyFull, StoreFull):
            # It takes more than this, and nobody knows how much.
            self._wanted[lease.job_id] = written + written // 4
            raise
        return _new_file(writer, file_id, lease.job_id, name, ending, lines)

    def _score(self, lease: StepLease, ending: _Ending, written: _Written) -> None:
        """The report, and the scores that it ends in; neither if none of the items with references has succeeded."""
        with self._sessions() as session:
            if not results.any_scorable(session, lease.job_id):
                return
            languages = frozenset(chunks.target_languages(session, lease.job_id))
        subject = Subject(lease.job_id, ending.task, ending.model, languages)
        file_id = files.new_file_id()
        with self._store.writer(files.store_key(file_id)) as writer:
            rows = results.referenced(self._sessions, lease.job_id)
            written.scores = write_report(rows, writer, subject, self._renewal(lease))
        written.made["report"] = _new_file(writer, file_id, lease.job_id, "report", ending, JSONLines())

    def _renewal(self, lease: StepLease) -> Callable[[], None]:
        """To be called often: renews the lease when it is time, and looks whether there is still room."""
        renew_at = time.monotonic() + SECONDS_PER_RENEWAL

        def renew() -> None:
            nonlocal renew_at
            # By time and not by rows, which may be of a megabyte each.
            if time.monotonic() > renew_at:
                self._renew(lease)
                renew_at = time.monotonic() + SECONDS_PER_RENEWAL

        return renew

    def _renew(self, lease: StepLease) -> None:
        if self._should_stop():
            raise LeaseLost(f"the finalize step of job {lease.job_id} (the process stops)", lease.attempt)
        if not self._has_room(0):
            raise DiskNearlyFull("the disk is nearly full; its files are written once there is room")
        with self._sessions.begin() as session:
            steps.hold(session, lease)

    def _end(self, session: Session, job_id: str, ending: _Ending, written: _Written) -> JobStatus:
        ids = {"output": None, "errors": None, "report": None} | {
            name: files.add(session, ending.tenant_id, file).id for name, file in written.made.items()
        }
        scores = None if written.scores is None else msgspec.json.encode(written.scores).decode()
        problem = None if written.problem is None else msgspec.json.encode(written.problem.as_json()).decode()
        final = _final_status(ending)
        counts = session.execute(
            text(f"""
                UPDATE jobs SET status = :final, version = version + 1, {final}_at = now(),
                    output_file_id = :output, error_file_id = :errors, report_file_id = :report,
                    scores = CAST(:scores AS jsonb),
                    errors = CASE WHEN CAST(:problem AS jsonb) IS NULL THEN errors ELSE jsonb_build_object(
                        'total', coalesce(CAST(errors ->> 'total' AS integer), 0) + 1,
                        'data', coalesce(errors -> 'data', '[]') || CAST(:problem AS jsonb)) END
                WHERE id = :job AND status = :seen RETURNING succeeded, failed, cancelled, expired
            """),
            {
                "job": job_id,
                "final": final.value,
                "seen": ending.status.value,
                "scores": scores,
                "problem": problem,
                **ids,
            },
        ).one()
        events.note(session, job_id, EVENT_OF[final], **counts._asdict())
        announce(session, job_id)
        return final


def _new_file(
    writer: Writer, file_id: str, job_id: str, name: str, ending: _Ending, lines: LineWriter
) -> files.NewFile:
    """Of bytes that were written, a file named for its job."""
    shown = job_id if ending.dialect == "bushel" else renamed(job_id, "batch_")
    return files.NewFile(
        file_id,
        files.OUTPUT,
        f"{shown}_{name}.{lines.extension}",
        writer.bytes,
        writer.sha256,
        lines.content_type,
        files.store_key(file_id),
        ending.lifetime,
    )


def _writers(ending: _Ending, job_id: str) -> tuple[LineWriter, LineWriter] | None:
    """For the output file and the error file; None where the results are read another way."""
    if ending.dialect != "bushel":
        return writers(ending.dialect, ending.endpoint, job_id)
    kind = ending.format["type"]
    # A job that took only some lines of a file still answers line n in line n.
    output = writer_for(kind, ending.format, aligned=True)
    return output, writer_for("csv" if kind == "csv" else "jsonl", ending.format)


def _status(session: Session, job_id: str) -> JobStatus | None:
    status = session.execute(text("SELECT status FROM jobs WHERE id = :job"), {"job": job_id}).scalar()
    return None if status is None else JobStatus(status)


def _final_status(ending: _Ending) -> JobStatus:
    """A job is expired when its window closed on open items; one that was finalizing by then is completed."""
    if ending.status is JobStatus.CANCELLING:
        return JobStatus.CANCELLED
    return JobStatus.EXPIRED if ending.expired else JobStatus.COMPLETED


def _succeeded(row: ResultRow) -> bool:
    return row.status == Outcome.SUCCEEDED
