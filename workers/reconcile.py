"""The safety net under every message and every process: what was dropped is picked up within seconds."""

import logging
import math
import time

from db import deliveries, files, interactive, leases, upkeep, uploads, workers
from db.doorbell import FINALIZE, WORK, Doorbell
from db.leases import Reclaimed
from db.session import Sessions
from db.states import ChunkState
from db.store import FileStore

logger = logging.getLogger(__name__)

SECONDS = 5.0
_FILES_AT_ONCE = 100
# What a killed writer left in the store is garbage after this long.
_ABANDONED_SECONDS = 3600.0
_SECONDS_BETWEEN_SWEEPS = 3600.0


class Reconciler:
    """One pass over leases, deadlines, rings and removals. Every worker runs it; one at a time gets to."""

    def __init__(self, sessions: Sessions, store: FileStore, doorbell: Doorbell) -> None:
        self._sessions, self._store, self._doorbell = sessions, store, doorbell
        self._swept_at = -math.inf

    def run(self) -> None:
        while (reclaimed := self._reclaim()) is not None:
            self._announce(reclaimed)
        with self._sessions.begin() as session:
            if not upkeep.is_mine(session):
                return
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
        self._remove_bytes()

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
