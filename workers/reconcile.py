"""The safety net under every message and every process: what was dropped is picked up within seconds."""

import itertools
import logging
import math
import time
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from db import deliveries, estimates, files, interactive, jobs, leases, owner, strays, upkeep, uploads, workers
from db.doorbell import FINALIZE, WORK, Doorbell
from db.errors import Conflict, NotFound
from db.leases import Reclaimed
from db.session import Sessions
from db.states import ChunkState, Outcome, leftover
from db.store import FileStore
from db.upkeep import Outlived
from workers import metrics, observation
from workers.resting import Resting

logger = logging.getLogger(__name__)

SECONDS = 5.0
_KEYS_AT_ONCE = 1_000
# What a killed writer left in the store is garbage after this long.
_ABANDONED_SECONDS = 3600.0
_SECONDS_BETWEEN_SWEEPS = 3600.0
# How long what could not be deleted is left alone.
_RESTING_SECONDS = 600.0


class Reconciler:
    """One pass over leases, deadlines, rings and removals. Every worker runs it; one at a time gets to."""

    def __init__(
        self,
        sessions: Sessions,
        store: FileStore,
        doorbell: Doorbell,
        retention: timedelta | None = None,
        jobs_at_once: int = 20,
        files_at_once: int = 100,
    ) -> None:
        """`retention` is how long jobs are kept that have ended; None: until they are deleted."""
        self._sessions, self._store, self._doorbell = sessions, store, doorbell
        self._retention, self._jobs_at_once, self._files_at_once = retention, jobs_at_once, files_at_once
        self._resting = Resting(_RESTING_SECONDS)
        self._swept_at = self._retired_at = -math.inf

    def run(self) -> None:
        while (reclaimed := self._reclaim()) is not None:
            self._announce(reclaimed)
        with self._sessions.begin() as session:
            if not upkeep.is_mine(session):
                return
            leases.shorten(session)
            ending = upkeep.expire_jobs(session) + upkeep.finish_settled(session)
            models = upkeep.waiting_models(session)
            upkeep.forget_idempotency_keys(session)
            interactive.forget(session)
            deliveries.forget(session)
            files.bury_expired(session)
            uploads.expire(session)
            workers.forget_dead(session)
        for job_id in ending:
            self._doorbell.ring(FINALIZE, job_id)
        for model in models:
            self._doorbell.ring(WORK, model)
        self._retire()
        self._sweep()
        self._remove_bytes()
        self._keep_estimates()

    def _keep_estimates(self) -> None:
        """What is said of running jobs now, and what became of what was said.

        In transactions of their own: each locks rows of another table that recording locks too.
        """
        with self._sessions.begin() as session:
            if not upkeep.is_mine(session):
                return
            models = estimates.settle(session)
            estimates.forget(session)
        with self._sessions.begin() as session:
            estimates.learn(session, models)
        with self._sessions.begin() as session:
            if upkeep.is_mine(session):
                estimates.keep(session)

    def _retire(self) -> None:
        """Delete jobs that have outlived the retention: once an hour, and again at once while there are more."""
        if self._retention is None or time.monotonic() - self._retired_at < _SECONDS_BETWEEN_SWEEPS:
            return
        with self._sessions() as session:
            outlived = upkeep.outlived(session, self._retention, self._jobs_at_once, self._resting.names())
        for job in outlived:
            # Each by itself: a million items take their time, and one job that cannot go keeps none from going.
            self._retire_one(job)
        if len(outlived) < self._jobs_at_once:
            self._retired_at = time.monotonic()

    def _retire_one(self, job: Outlived) -> None:
        fields = {"job_id": job.job_id}
        try:
            with self._sessions.begin() as session:
                if not upkeep.take(session, job.job_id):
                    return
                jobs.delete(session, job.tenant_id, job.job_id)
        except (NotFound, Conflict):
            # Its owner was quicker.
            return
        except SQLAlchemyError as exc:
            self._rest(f"job {job.job_id}", job.job_id, exc, **fields)
            return
        fields["action"] = "job_retired"
        logger.info("job %s is older than the retention and was deleted", job.job_id, extra=fields)

    def _rest(self, what: str, name: str, exc: Exception, **fields: str) -> None:
        """Leave alone for a while what cannot be deleted: the oldest come first, and would be all that ever does."""
        self._resting.add(name)
        logger.warning(
            "%s cannot be deleted, trying again in %.0f minutes: %s",
            what,
            self._resting.seconds / 60,
            exc,
            extra={"action": "deletion_failed", **fields},
        )

    def _reclaim(self) -> Reclaimed | None:
        # SKIP LOCKED inside: several processes may reclaim at once without meeting.
        with self._sessions.begin() as session:
            return leases.reclaim(session)

    def _announce(self, reclaimed: Reclaimed) -> None:
        logger.warning(
            "the lease on chunk %s ran out; it is %s now",
            reclaimed.chunk_id,
            reclaimed.state,
            extra={"action": "lease_expired", "job_id": reclaimed.job_id, "chunk_id": reclaimed.chunk_id},
        )
        metrics.LEASES_EXPIRED.labels(reclaimed.model).inc()
        observation.count(reclaimed.model, Outcome.FAILED, reclaimed.failed)
        observation.count(reclaimed.model, leftover(reclaimed.status), reclaimed.left)
        if reclaimed.finalize:
            self._doorbell.ring(FINALIZE, reclaimed.job_id)
        if reclaimed.state in (ChunkState.READY, ChunkState.SPLIT):
            self._doorbell.ring(WORK, reclaimed.model)

    def _remove_bytes(self) -> None:
        """Delete the bytes of tombstoned files, and of uploads' parts that became a file or never will.

        Bytes first: a crash in between only repeats a harmless delete.
        """
        with self._sessions() as session:
            doomed = files.removable(session, self._files_at_once, self._resting.names())
        for file in doomed:
            if self._is_deleted(file.store_key):
                with self._sessions.begin() as session:
                    files.bytes_removed(session, file.id)
        with self._sessions() as session:
            parts = uploads.removable_parts(session, self._files_at_once, self._resting.names())
        for part in parts:
            if self._is_deleted(part.store_key):
                with self._sessions.begin() as session:
                    uploads.part_removed(session, part.id)

    def _is_deleted(self, key: str) -> bool:
        """Delete; whether that worked. One file that cannot go keeps none of the others."""
        try:
            self._store.delete(key)
        except Exception as exc:
            # Every backend of the store has errors of its own.
            self._rest(key, key, exc)
            return False
        return True

    def _sweep(self) -> None:
        """Once an hour, delete what processes that were killed left in the store: no row tells of it."""
        if time.monotonic() - self._swept_at <= _SECONDS_BETWEEN_SWEEPS:
            return
        self._swept_at = time.monotonic()
        self._store.remove_unfinished(_ABANDONED_SECONDS)
        self._store.remove_old(uploads.PARTS, uploads.PARTS_KEPT.total_seconds())
        self._sweep_strays(uploads.PARTS_KEPT.total_seconds())

    def _owns_store(self) -> bool:
        """Whether what this ledger knows nothing of is nobody's: another one's files in its store would be strays."""
        with self._sessions() as session:
            me, whose = owner.my_id(session), owner.owner_of(session, self._store)
        if me != whose:
            logger.warning(
                "the store belongs to the ledger %s and this is %s, so files that no row tells of are left alone; "
                "if no other ledger uses the store any more, remove the file %r from the store",
                whose,
                me,
                owner.KEY,
                extra={"action": "store_not_ours"},
            )
        return me == whose

    def _sweep_strays(self, older_than_seconds: float) -> None:
        """Delete files and inputs that no row tells of: whoever published them was killed before it committed."""
        if not self._owns_store():
            return
        for folder in strays.FOLDERS:
            keys = self._store.old_keys(folder, older_than_seconds)
            while some := list(itertools.islice(keys, _KEYS_AT_ONCE)):
                with self._sessions() as session:
                    gone = strays.among(session, some)
                for key in filter(self._is_deleted, gone):
                    logger.warning("%s belonged to nothing and was deleted", key, extra={"action": "stray_deleted"})
