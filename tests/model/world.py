"""The database and the store that the ledger's model acts on, emptied before every run instead of made anew."""

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

from db import keys
from db.models import Base
from db.store import FolderStore
from models.registry import Registry
from models.spec import EngineKind, ModelSpec, Task
from tests.model import steps
from tests.model.invariants import BROKEN

# One thread runs at a time, so whoever waits for a lock waits for one that nobody will let go of meanwhile.
_OPTIONS = "-c jit=off -c lock_timeout=2ms -c timezone=UTC"
# Nothing sweeps up what was deleted: autovacuum is off where tests run.
_WIPES_PER_VACUUM = 25

REGISTRY = Registry(
    [
        ModelSpec("plain", Task.TRANSLATION, Path("/nowhere"), EngineKind.ECHO, default=True),
        ModelSpec("other", Task.TRANSLATION, Path("/nowhere"), EngineKind.ECHO),
        ModelSpec("small", Task.GENERATION, Path("/nowhere"), EngineKind.ECHO, default=True, max_output_tokens=64),
        ModelSpec("large", Task.GENERATION, Path("/nowhere"), EngineKind.ECHO, max_output_tokens=64),
    ]
)
MODELS = [spec.name for spec in REGISTRY.all()]


# What a user sees of a job; its lease on a step, and its parent that may go, are not among it.
_JOBS = """
    SELECT id, tenant_id, status, version, paused, total, queued, running, succeeded, failed, cancelled, expired,
        queued_tokens, input_tokens, output_tokens, errors, output_file_id, error_file_id, dry_run, interactive,
        format ->> 'type' AS kind, completed_at, failed_at, expired_at, cancelled_at
    FROM jobs ORDER BY created_at, id
"""
# A validation that starts over gives the same results anew; they are promised once it has ended.
_RESULTS = """
    SELECT r.job_id, r.idx, r.seq, r.outcome, r.output ->> 'text' AS said, r.error_code, r.chunk_id, r.attempt,
        r.finished_at
    FROM results r JOIN jobs job ON job.id = r.job_id WHERE job.status <> 'validating' ORDER BY r.job_id, r.seq
"""
_CHUNKS = """
    SELECT id, job_id, model, of_twins, state, attempt, lease_owner, lease_expires_at < now() AS has_lapsed
    FROM chunks ORDER BY id
"""
_PARTS = {"broken": BROKEN, "jobs": _JOBS, "results": _RESULTS, "chunks": _CHUNKS}
_LOOK = text(
    "SELECT "
    + ", ".join(
        f"(SELECT coalesce(json_agg(to_json({name})), '[]') FROM ({query}) AS {name}) AS {name}"
        for name, query in _PARTS.items()
    )
)


@dataclass(frozen=True)
class Seen:
    """All that is committed: what is wrong with it, jobs by id, results by job and index, chunks by id."""

    broken: list[tuple[str, str]]
    jobs: dict[str, Any]
    results: dict[tuple[str, int], Any]
    chunks: dict[int, Any]


class World:
    """`sessions` for whatever is one transaction, `stepping` for steps that stand still before each of theirs."""

    def __init__(self, url: str, folder: Path) -> None:
        self._engine = create_engine(
            url, pool_size=24, pool_use_lifo=True, max_overflow=0, connect_args={"options": _OPTIONS}
        )
        # Looks around after every step, so it spares itself beginning and ending a transaction.
        self._eyes = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self.sessions = sessionmaker(self._engine, expire_on_commit=False)
        self.stepping = sessionmaker(self._engine, expire_on_commit=False)
        steps.listen(self.stepping)
        self._folder = folder
        self.store = FolderStore(folder)
        self._wipes = itertools.count(1)
        self._wiping = text(";".join(f"DELETE FROM {table.name}" for table in reversed(Base.metadata.sorted_tables)))

    def wipe(self) -> list[str]:
        """Remove everything; the ids of two new tenants."""
        with self.sessions.begin() as session:
            session.execute(self._wiping)
            tenants = [keys.tenant(session, name) for name in ("one", "two")]
        shutil.rmtree(self._folder, ignore_errors=True)
        if next(self._wipes) % _WIPES_PER_VACUUM == 0:
            self._eyes.execute(text("VACUUM ANALYZE"))
        return tenants

    def look(self) -> Seen:
        """Of one snapshot."""
        row = self._eyes.execute(_LOOK).one()
        return Seen(
            [(found["name"], found["id"]) for found in row.broken],
            {job["id"]: SimpleNamespace(**job) for job in row.jobs},
            {(result["job_id"], result["idx"]): SimpleNamespace(**result) for result in row.results},
            {chunk["id"]: SimpleNamespace(**chunk) for chunk in row.chunks},
        )

    def close(self) -> None:
        self._eyes.close()
        self._engine.dispose()
