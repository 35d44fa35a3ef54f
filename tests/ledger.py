"""Jobs in the ledger as tests need them, made by the service's own steps."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import text

from db import chunks, files, jobs
from db.chunks import Candidate, Claim
from db.doorbell import RecordingDoorbell
from db.recording import NewResult, record
from db.session import Sessions
from db.states import Count, Outcome
from db.store import FolderStore
from models.registry import Registry
from models.spec import EngineKind, ModelSpec, Task
from workers.finalize import Finalize
from workers.formats import Bounds
from workers.ingest import WINDOW_ITEMS, Ingest

BOUNDS = Bounds(bytes=10**9, lines=10**8)
ECHO = ModelSpec("echo", Task.TRANSLATION, Path("/nowhere"), EngineKind.ECHO, default=True)
_OUT = {"text": "out", "finish_reason": "stop"}


@dataclass
class Ledger:
    """A tenant's view of an empty ledger, with the steps that fill and end its jobs."""

    sessions: Sessions
    tenant: str
    folder: Path
    registry: Registry = field(default_factory=lambda: Registry([ECHO]))
    bell: RecordingDoorbell = field(default_factory=RecordingDoorbell)
    window_items: int = WINDOW_ITEMS

    def __post_init__(self) -> None:
        self.store = FolderStore(self.folder)

    def upload(self, data: bytes, name: str = "input.txt") -> str:
        file_id = files.new_file_id()
        key = files.store_key(file_id)
        with self.store.writer(key) as writer:
            writer.write(data)
        with self.sessions.begin() as session:
            files.add(session, self.tenant, files.NewFile(file_id, "batch", name, len(data), "-", "text/plain", key))
        return file_id

    def submit(self, data: bytes, format: dict[str, Any] | None = None, **fields: Any) -> str:
        job_id = jobs.new_job_id()
        new = jobs.NewJob(
            job_id,
            fields.pop("task", "translation"),
            fields.pop("model", "echo"),
            fields.pop("params", {}),
            format or {"type": "txt"},
            input_file_id=self.upload(data),
            **fields,
        )
        with self.sessions.begin() as session:
            jobs.submit(session, self.tenant, new)
        return job_id

    def ingest(self, job_id: str, owner: str = "ingester") -> bool:
        registry = self.registry
        step = Ingest(
            self.sessions, self.store, lambda: registry, self.bell, BOUNDS, owner, window_items=self.window_items
        )
        return step.run(job_id)

    def finalize(self, job_id: str) -> bool:
        return Finalize(self.sessions, self.store, self.bell, "finalizer").run(job_id)

    def started(self, lines: int = 10, **fields: Any) -> str:
        """A job in progress over `lines` distinct lines."""
        data = "".join(f"this is line {number}\n" for number in range(lines)).encode()
        job_id = self.submit(data, **fields)
        assert self.ingest(job_id)
        return job_id

    def recut(self, job_id: str, size: int, model: str = "echo") -> None:
        """Cut a started job into chunks of `size` items, whatever the planner made of it."""
        with self.sessions.begin() as session:
            total = self.job(job_id).total
            session.execute(text("DELETE FROM chunks WHERE job_id = :job"), {"job": job_id})
            for start in range(0, total, size):
                items = min(size, total - start)
                [chunk] = chunks.add_chunks(session, job_id, [chunks.NewChunk(model, {}, items, items)])
                session.execute(
                    text("UPDATE items SET chunk_id = :chunk WHERE job_id = :job AND idx >= :low AND idx < :high"),
                    {"chunk": chunk, "job": job_id, "low": start, "high": start + items},
                )
            session.execute(text("UPDATE jobs SET queued_tokens = total WHERE id = :job"), {"job": job_id})

    def claim(self, job_id: str, owner: str = "worker", budget: float = 600, model: str = "echo") -> Claim | None:
        with self.sessions() as session:
            claim = chunks.claim(session, Candidate(job_id, model), owner, budget)
            session.rollback() if claim is None else session.commit()
        return claim

    def record(self, claim: Claim, fail: int = 0, output: dict[str, Any] | None = None) -> None:
        """Record a chunk as a worker does: all its items, the first `fail` of them as failed."""
        with self.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, self.outcomes(claim, fail, output))

    def outcomes(self, claim: Claim, fail: int = 0, output: dict[str, Any] | None = None) -> list[NewResult]:
        """A result for every open item of the chunk, the first `fail` of them failed."""
        with self.sessions() as session:
            items = chunks.items_of(session, claim.chunk_id)
        return [
            NewResult(item.idx, Outcome.FAILED, error_code="engine_error", error_message="told to")
            if place < fail
            else NewResult(item.idx, Outcome.SUCCEEDED, output or _OUT, input_tokens=2, output_tokens=1)
            for place, item in enumerate(items)
        ]

    def job(self, job_id: str) -> Any:
        with self.sessions() as session:
            return session.execute(text("SELECT * FROM jobs WHERE id = :job"), {"job": job_id}).one()

    def counts(self, job_id: str) -> dict[str, int]:
        """The counts that are not zero."""
        job = self.job(job_id)
        return {count.value: getattr(job, count) for count in Count if getattr(job, count)}

    def rows(self, query: str, **values: Any) -> list[Any]:
        with self.sessions() as session:
            return list(session.execute(text(query), values).all())

    def run(self, statement: str, **values: Any) -> None:
        with self.sessions.begin() as session:
            session.execute(text(statement), values)

    def read(self, file_id: str) -> bytes:
        with self.store.open(files.store_key(file_id)) as file:
            return file.read()

    def lapse(self, claim: Claim) -> None:
        """Let the lease run out now instead of in half a minute."""
        self.run("UPDATE chunks SET lease_expires_at = now() - interval '1 s' WHERE id = :id", id=claim.chunk_id)


def json_lines(*values: Any) -> bytes:
    buffer = io.BytesIO()
    for value in values:
        buffer.write(msgspec.json.encode(value) + b"\n")
    return buffer.getvalue()
