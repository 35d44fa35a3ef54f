"""The safety net under every message and every process: what was dropped is picked up within seconds."""

import itertools
import logging
import math
import time
from datetime import timedelta

from db import deliveries, files, interactive, jobs, leases, strays, upkeep, uploads, workers
from db.doorbell import FINALIZE, WORK, Doorbell
from db.errors import Conflict, NotFound
from db.leases import Reclaimed
from db.session import Sessions
from db.states import ChunkState
from db.store import FileStore

logger = logging.getLogger(__name__)

SECONDS = 5.0
_FILES_AT_ONCE = 100
_KEYS_AT_ONCE = 1_000
# What a killed writer left in the store is garbage after this long.
_ABANDONED_SECONDS = 3600.0
_SECONDS_BETWEEN_SWEEPS = 3600.0


class Reconciler:
    """One pass over leases, deadlines, rings and removals. Every worker runs it; one at a time gets to."""

    def __init__(
        self,
        sessions: Sessions,
        store: FileStore,
        doorbell: Doorbell,
        retention: timedelta | None = None,
        jobs_at_once: int = 20,
    ) -> None:
        """`retention` is how long jobs are kept that have ended; None: until they are deleted."""
        self._sessions, self._store, self._doorbell = sessions, store, doorbell
        self._retention, self._jobs_at_once = retention, jobs_at_once
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
        self._remove_bytes()

    def _retire(self) -> None:
        """Delete jobs that have outlived the retention: once an hour, and again at once while there are more."""
        if self._retention is None or time.monotonic() - self._retired_at < _SECONDS_BETWEEN_SWEEPS:
            return
        with self._sessions() as session:
            outlived = upkeep.outlived(session, self._retention, self._jobs_at_once)
        for job in outlived:
            # Each by itself: a million items take their time, and one job that cannot go keeps none from going.
            try:
                with self._sessions.begin() as session:
                    jobs.delete(session, job.tenant_id, job.job_id)
            except (NotFound, Conflict):
                # Its owner was quicker.
                continue
            fields = {"action": "job_retired", "job_id": job.job_id}
            logger.info("job %s is older than the retention and was deleted", job.job_id, extra=fields)
        if len(outlived) < self._jobs_at_once:
            self._retired_at = time.monotonic()

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
        if reclaimed.finalize:
            self._doorbell.ring(FINALIZE, reclaimed.job_id)
        if reclaimed.state in (ChunkState.READY, ChunkState.SPLIT):
            self._doorbell.ring(WORK, reclaimed.model)

    def _remove_bytes(self) -> None:
        """Delete the bytes of tombstoned files, and of uploads' parts that became a file or never will.

        Bytes first: a crash in between only repeats a harmless delete.
        """
        self._store.remove_unfinished(_ABANDONED_SECONDS)
        self._sweep_parts()
        with self._sessions() as session:
            doomed = files.removable(session, _FILES_AT_ONCE)
        for file in doomed:
            self._store.delete(file.store_key)
            with self._sessions.begin() as session:
                files.bytes_removed(session, file.id)
        with self._sessions() as session:
            parts = uploads.removable_parts(session, _FILES_AT_ONCE)
        for part in parts:
            self._store.delete(part.store_key)
            with self._sessions.begin() as session:
                uploads.part_removed(session, part.id)

    def _sweep_parts(self) -> None:
        """Delete parts that no row tells of: their process was killed after it had written them."""
        if time.monotonic() - self._swept_at > _SECONDS_BETWEEN_SWEEPS:
            self._swept_at = time.monotonic()
            self._store.remove_old(uploads.PARTS, uploads.PARTS_KEPT.total_seconds())
            self._sweep_strays(uploads.PARTS_KEPT.total_seconds())

    def _sweep_strays(self, older_than_seconds: float) -> None:
        """Delete files and inputs that no row tells of: whoever published them was killed before it committed."""
        for folder in strays.FOLDERS:
            keys = self._store.old_keys(folder, older_than_seconds)
            while some := list(itertools.islice(keys, _KEYS_AT_ONCE)):
                with self._sessions() as session:
                    gone = strays.among(session, some)
                for key in gone:
                    self._store.delete(key)
                    logger.warning("%s belonged to nothing and was deleted", key, extra={"action": "stray_deleted"})
