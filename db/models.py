"""The ledger's tables. Items and results are only inserted; jobs and chunks are the rows that change."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.states import ChunkState, Count, JobStatus, Outcome

JSON = dict[str, Any]
MAX_CODE = 64


def _one_of(column: str, values: type[JobStatus] | type[ChunkState] | type[Outcome]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a class attribute
        str: Text,
        JSON: JSONB,
        list[Any]: JSONB,
        datetime: DateTime(timezone=True),
    }


class Tenant(Base):
    """Who owns jobs, files and keys."""

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class APIKey(Base):
    """A bearer key: its id is part of the key, of the secret only a salted SHA-256 is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    salt: Mapped[str]
    secret_hash: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class File(Base):
    """Bytes in the store, uploaded or produced. The row is written after the bytes are durable."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    purpose: Mapped[str]
    filename: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    content_type: Mapped[str]
    store_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    # A deleted file keeps its row as a tombstone, so that it stays valid as a cursor and a
    # running job can still read the bytes; the reconciler removes those when no job needs them.
    deleted_at: Mapped[datetime | None]
    bytes_removed_at: Mapped[datetime | None]
    __table_args__ = (
        Index("ix_files_listing", "tenant_id", text("created_at DESC"), text("id DESC")),
        Index("ix_files_removal", "deleted_at", postgresql_where=text("bytes_removed_at IS NULL")),
    )


class Job(Base):
    """What a user submits, with its six counts."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    dialect: Mapped[str] = mapped_column(server_default="bushel")
    task: Mapped[str]
    model: Mapped[str]
    params: Mapped[JSON]
    format: Mapped[JSON]
    long_input: Mapped[str]
    on_error: Mapped[str]
    dry_run: Mapped[bool] = mapped_column(server_default=text("false"))
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    completion_window: Mapped[str | None]
    job_metadata: Mapped[JSON | None] = mapped_column("metadata")

    status: Mapped[str] = mapped_column(server_default=JobStatus.VALIDATING.value)
    version: Mapped[int] = mapped_column(server_default="1")
    paused: Mapped[bool] = mapped_column(server_default=text("false"))

    total: Mapped[int] = mapped_column(server_default="0")
    queued: Mapped[int] = mapped_column(server_default="0")
    running: Mapped[int] = mapped_column(server_default="0")
    succeeded: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    cancelled: Mapped[int] = mapped_column(server_default="0")
    expired: Mapped[int] = mapped_column(server_default="0")
    queued_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # Succeeded items whose input, or whose output, was cut at a limit.
    truncated_inputs: Mapped[int] = mapped_column(server_default="0")
    cut_outputs: Mapped[int] = mapped_column(server_default="0")

    # Problems of the input: {"total": n, "data": [first ones]}.
    errors: Mapped[JSON | None]
    estimate: Mapped[JSON | None]

    input_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    # Inline inputs are spooled to the store, so that ingest has one way in.
    inputs_key: Mapped[str | None]
    output_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    error_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))

    # The lease on the job's own steps (ingest, finalize); `step_attempt` is its fencing token.
    step_attempt: Mapped[int] = mapped_column(server_default="0")
    step_owner: Mapped[str | None]
    step_expires_at: Mapped[datetime | None]

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    in_progress_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    last_claimed_at: Mapped[datetime | None]
    progressed_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(_one_of("status", JobStatus), name="status"),
        CheckConstraint(f"total = {' + '.join(Count)}", name="conserved"),
        CheckConstraint(" AND ".join(f"{count} >= 0" for count in Count), name="counts_positive"),
        Index("ix_jobs_listing", "tenant_id", text("created_at DESC"), text("id DESC")),
        Index(
            "ix_jobs_open",
            "status",
            postgresql_where=text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"),
        ),
        Index("ix_jobs_input_file_id", "input_file_id"),
        Index("ix_jobs_output_file_id", "output_file_id"),
        Index("ix_jobs_error_file_id", "error_file_id"),
    )


class Item(Base):
    """One input of a job; never changed. `same_as` names an equal earlier item that is computed for both."""

    __tablename__ = "items"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    idx: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    custom_id: Mapped[str]
    line: Mapped[int]
    input: Mapped[JSON]
    # What came beside the text (other CSV columns) and goes back with the result.
    extra: Mapped[list[Any] | None]
    chunk_id: Mapped[int | None] = mapped_column(BigInteger)
    input_tokens: Mapped[int]
    same_as: Mapped[int | None]
    __table_args__ = (
        UniqueConstraint("job_id", "custom_id"),
        Index("ix_items_chunk_id", "chunk_id"),
    )


class Chunk(Base):
    """Items of one job, model and parameter set, leased to one worker at a time."""

    __tablename__ = "chunks"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    model: Mapped[str]
    params: Mapped[JSON]
    items: Mapped[int]
    tokens: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(server_default=ChunkState.READY.value)
    # Raised by every claim: the fencing token of the lease.
    attempt: Mapped[int] = mapped_column(server_default="0")
    crashes: Mapped[int] = mapped_column(server_default="0")
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    hard_deadline: Mapped[datetime | None]
    progress: Mapped[int] = mapped_column(server_default="0")
    recipe_id: Mapped[int | None] = mapped_column(ForeignKey("recipes.id"))
    parent_id: Mapped[int | None] = mapped_column(BigInteger)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint(_one_of("state", ChunkState), name="state"),
        Index("ix_chunks_ready", "job_id", "model", "id", postgresql_where=text("state = 'ready'")),
        Index("ix_chunks_leased", "lease_expires_at", postgresql_where=text("state = 'leased'")),
        Index("ix_chunks_job_id", "job_id"),
        {"postgresql_with": {"fillfactor": "80"}},
    )


class Result(Base):
    """The outcome of one item; never changed, at most one (primary key).

    `seq` counts the results of the job in commit order from 1, without gaps: it is drawn from the
    job's counters under the job's row lock, so a reader that goes by it never misses a late row.
    """

    __tablename__ = "results"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    idx: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    seq: Mapped[int]
    outcome: Mapped[str]
    output: Mapped[JSON | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    input_tokens: Mapped[int] = mapped_column(server_default="0")
    output_tokens: Mapped[int] = mapped_column(server_default="0")
    chunk_id: Mapped[int | None] = mapped_column(BigInteger)
    attempt: Mapped[int] = mapped_column(server_default="0")
    finished_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        UniqueConstraint("job_id", "seq"),
        CheckConstraint(_one_of("outcome", Outcome), name="outcome"),
    )


class RecipeRow(Base):
    """Provenance shared by the results of many chunks, stored once per distinct content."""

    __tablename__ = "recipes"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    recipe: Mapped[JSON]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WorkerRow(Base):
    """A worker process: what it serves, what it has loaded, when it was last heard of."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    device: Mapped[str]
    version: Mapped[str]
    models: Mapped[list[Any]]
    loaded: Mapped[list[Any]]
    # model name -> why it cannot be loaded here
    unavailable: Mapped[JSON]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ModelRate(Base):
    """Measured speed of a model on the workers that served it lately, in tokens (input + output) per second."""

    __tablename__ = "model_rates"
    model: Mapped[str] = mapped_column(primary_key=True)
    tokens_per_second: Mapped[float]
    output_per_input: Mapped[float]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IdempotencyKey(Base):
    """Which job an `Idempotency-Key` of a tenant created, and from what request."""

    __tablename__ = "idempotency_keys"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
