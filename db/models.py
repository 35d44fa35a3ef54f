"""The ledger's tables. Items and results are only inserted; jobs and chunks are the rows that change."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    DDL,
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
from sqlalchemy.event import listen
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.states import ChunkState, Count, DeliveryState, JobStatus, Outcome, UploadStatus

JSON = dict[str, Any]
MAX_CODE = 64


def _one_of(column: str, values: type[StrEnum]) -> str:
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
    """Who owns jobs, files and keys, and how much of each (None: what the service's settings say)."""

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    open_jobs: Mapped[int | None] = mapped_column(BigInteger)
    queued_items: Mapped[int | None] = mapped_column(BigInteger)
    queued_tokens: Mapped[int | None] = mapped_column(BigInteger)
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    requests_per_second: Mapped[int | None] = mapped_column(BigInteger)


class APIKey(Base):
    """A bearer key: its id is part of the key, of the secret only a salted SHA-256 is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    salt: Mapped[str]
    secret_hash: Mapped[str]
    scopes: Mapped[list[Any]] = mapped_column(server_default=text("""'["read", "submit"]'"""))
    # The secret before the last rotation, while it still opens.
    previous_salt: Mapped[str | None]
    previous_hash: Mapped[str | None]
    previous_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditEntry(Base):
    """Who did what to what: no texts and no secrets. Entries are only inserted."""

    __tablename__ = "audit_log"
    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column("at", server_default=func.now())
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    # The id of a key, or "operator".
    actor: Mapped[str]
    action: Mapped[str]
    object: Mapped[str]
    detail: Mapped[JSON]
    request_id: Mapped[str | None]
    address: Mapped[str | None]
    __table_args__ = (Index("ix_audit_log_listing", "tenant_id", text("at DESC"), text("id DESC")),)


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
        Index("ix_files_stored", "tenant_id", postgresql_where=text("bytes_removed_at IS NULL")),
    )


class Job(Base):
    """What a user submits, with its six counts."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    dialect: Mapped[str] = mapped_column(server_default="bushel")
    # The path its lines are sent to, in dialects whose requests name one.
    endpoint: Mapped[str | None]
    task: Mapped[str]
    # None where every item names its own: until validation has ended, and for good if there are several.
    model: Mapped[str | None]
    params: Mapped[JSON]
    format: Mapped[JSON]
    long_input: Mapped[str]
    on_error: Mapped[str]
    dry_run: Mapped[bool] = mapped_column(server_default=text("false"))
    # Whether its results may come from the tenant's cache, and go there.
    cache: Mapped[bool] = mapped_column(server_default=text("false"))
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    completion_window: Mapped[str | None]
    output_lifetime_seconds: Mapped[int | None]
    job_metadata: Mapped[JSON | None] = mapped_column("metadata")
    # One request that somebody waits for: never listed, never written to files, soon forgotten.
    interactive: Mapped[bool] = mapped_column(server_default=text("false"))
    # The job this one repeats. With `selection`, only those of its items that have not succeeded.
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    selection: Mapped[str | None]
    # What the request that made it said, so that a client's silent second try can be told.
    fingerprint: Mapped[str | None]

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
    # Succeeded items that took the output of an equal one, of this job or from the cache, and the tokens not computed.
    same_items: Mapped[int] = mapped_column(server_default="0")
    cached_items: Mapped[int] = mapped_column(server_default="0")
    saved_input_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    saved_output_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # What its chunks took of a device, those too whose results came too late; energy only where it is measured.
    device_seconds: Mapped[float] = mapped_column(server_default="0")
    joules: Mapped[float | None]
    # W3C trace context of the request that made it.
    traceparent: Mapped[str | None]

    # Problems of the input: {"total": n, "data": [first ones]}.
    errors: Mapped[JSON | None]
    estimate: Mapped[JSON | None]

    input_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    # Inline inputs are spooled to the store, so that ingest has one way in.
    inputs_key: Mapped[str | None]
    inputs_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # What inline inputs will come to: it counts against the tenant's quotas until ingest has counted them.
    announced_items: Mapped[int] = mapped_column(server_default="0")
    announced_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    output_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    error_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))

    # Items that came with references; what their outputs scored, and the file that has it line by line.
    referenced: Mapped[int] = mapped_column(server_default="0")
    scores: Mapped[JSON | None]
    report_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))

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
        Index(
            "ix_jobs_tenant_open",
            "tenant_id",
            postgresql_where=text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"),
        ),
        Index("ix_jobs_spooled", "tenant_id", postgresql_where=text("inputs_bytes > 0")),
        CheckConstraint("selection IN ('unfinished')", name="selection"),
        Index("ix_jobs_parent_id", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
        Index(
            "ix_jobs_fingerprint",
            "tenant_id",
            "fingerprint",
            text("created_at DESC"),
            postgresql_where=text("fingerprint IS NOT NULL"),
        ),
        Index("ix_jobs_interactive", "created_at", postgresql_where=text("interactive")),
        Index("ix_jobs_input_file_id", "input_file_id"),
        Index("ix_jobs_output_file_id", "output_file_id"),
        Index("ix_jobs_error_file_id", "error_file_id"),
        Index("ix_jobs_report_file_id", "report_file_id"),
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
    # Texts that its output is scored against. No model sees them.
    reference: Mapped[list[Any] | None]
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
    # Its items are equal to items of other chunks: it is claimed after all of those, and copies their results.
    of_twins: Mapped[bool] = mapped_column(server_default=text("false"))
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
        Index("ix_chunks_ready", "job_id", "model", "of_twins", "id", postgresql_where=text("state = 'ready'")),
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
    # Which part of the request is at fault.
    error_param: Mapped[str | None]
    input_tokens: Mapped[int] = mapped_column(server_default="0")
    output_tokens: Mapped[int] = mapped_column(server_default="0")
    chunk_id: Mapped[int | None] = mapped_column(BigInteger)
    attempt: Mapped[int] = mapped_column(server_default="0")
    finished_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        UniqueConstraint("job_id", "seq"),
        CheckConstraint(_one_of("outcome", Outcome), name="outcome"),
    )


class CachedResult(Base):
    """Where a tenant's result for a recipe, parameters and an input is; `key` is a digest of all three.

    It goes with its job, so that nothing is served that was deleted.
    """

    __tablename__ = "cached_results"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[bytes] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    idx: Mapped[int]


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
    # What it does, and how much of its device that takes.
    activity: Mapped[JSON] = mapped_column(server_default=text("'{}'"))
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())


class JobEvent(Base):
    """Something that happened to a job. The tenant only inserts; ids are in the order of the commits (IN_ORDER)."""

    __tablename__ = "job_events"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    tenant_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column("at", server_default=text("clock_timestamp()"))
    type: Mapped[str]
    detail: Mapped[JSON] = mapped_column(server_default=text("'{}'"))
    __table_args__ = (
        Index("ix_job_events_job_id", "job_id", "id"),
        Index("ix_job_events_tenant_id", "tenant_id", "id"),
    )


# An event gets its last id as its transaction commits, and until that is done no other transaction's events get theirs.
# So whoever has read up to an id has missed nothing below it. Ids that were kept from the insertion would be committed
# in any order. The lock is the last that a transaction takes, and NOTIFY has one like it.
IN_ORDER = (
    """
    CREATE FUNCTION order_job_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
    AS $$ BEGIN
        PERFORM pg_advisory_xact_lock(7205759406);
        UPDATE job_events SET id = DEFAULT WHERE id = NEW.id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE CONSTRAINT TRIGGER job_events_in_order AFTER INSERT ON job_events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION order_job_event()
    """,
)
for _statement in IN_ORDER:
    listen(JobEvent.__table__, "after_create", DDL(_statement))  # type: ignore[no-untyped-call]


class UsageDay(Base):
    """What a tenant used of a model on a day (UTC); it outlives the jobs."""

    __tablename__ = "usage_days"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(primary_key=True)
    succeeded: Mapped[int] = mapped_column(BigInteger, server_default="0")
    failed: Mapped[int] = mapped_column(BigInteger, server_default="0")
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    device_seconds: Mapped[float] = mapped_column(server_default="0")
    joules: Mapped[float | None]


class StoredEstimate(Base):
    """When a job was said to end, as it was said, and when it ended."""

    __tablename__ = "estimates"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    made_at: Mapped[datetime] = mapped_column(server_default=func.now(), primary_key=True)
    model: Mapped[str | None]
    progress: Mapped[float]
    low_seconds: Mapped[float]
    eta_seconds: Mapped[float]
    high_seconds: Mapped[float]
    ended_at: Mapped[datetime | None]
    __table_args__ = (
        Index("ix_estimates_ended_at", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
        Index("ix_estimates_open", "job_id", postgresql_where=text("ended_at IS NULL")),
    )


class SignIn(Base):
    """A browser that somebody signed in with a key; of the secret in its cookie only a SHA-256 is kept."""

    __tablename__ = "sign_ins"
    secret_hash: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


class ModelRate(Base):
    """Measured speed of a model on the workers that served it lately, in tokens (input + output) per second."""

    __tablename__ = "model_rates"
    model: Mapped[str] = mapped_column(primary_key=True)
    tokens_per_second: Mapped[float]
    output_per_input: Mapped[float]
    # Of the logarithm of a chunk's time over what the rate said of it; see db/bands.py.
    log_variance: Mapped[float] = mapped_column(server_default="0.16")
    # Between which multiples of what was estimated most jobs ended lately; null until enough have.
    low_factor: Mapped[float | None]
    high_factor: Mapped[float | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IdempotencyKey(Base):
    """Which job an `Idempotency-Key` of a tenant created, and from what request."""

    __tablename__ = "idempotency_keys"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class Upload(Base):
    """A file that arrives in parts; once completed it is an ordinary file."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    status: Mapped[str] = mapped_column(server_default=UploadStatus.PENDING.value)
    purpose: Mapped[str]
    filename: Mapped[str]
    mime_type: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    lifetime_seconds: Mapped[int | None]
    file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    __table_args__ = (
        CheckConstraint(_one_of("status", UploadStatus), name="status"),
        Index("ix_uploads_pending", "expires_at", postgresql_where=text("status = 'pending'")),
    )


class UploadPart(Base):
    """Bytes of an upload, in the store; gone once the upload is no longer pending."""

    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    store_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Webhook(Base):
    """Where a tenant wants to be told of events. The secret signs, so it is kept as it is."""

    __tablename__ = "webhooks"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    url: Mapped[str]
    events: Mapped[list[Any]]
    description: Mapped[str] = mapped_column(server_default="")
    secret: Mapped[str]
    # Signs too until it expires, so that a receiver can change over.
    previous_secret: Mapped[str | None]
    previous_secret_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # Since when nothing was delivered any more; None while it works.
    failing_since: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]


class Delivery(Base):
    """One event for one webhook. `body` is sent and signed to the byte in every attempt."""

    __tablename__ = "deliveries"
    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_id: Mapped[str]
    event: Mapped[str]
    job_id: Mapped[str | None]
    body: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=DeliveryState.PENDING.value)
    attempts: Mapped[int] = mapped_column(server_default="0")
    # When it is tried next; moved ahead by whoever tries it, so that nobody else does.
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # One entry an attempt: when, how long it took, the status or the error.
    log: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint(_one_of("state", DeliveryState), name="state"),
        Index("ix_deliveries_due", "due_at", postgresql_where=text("state = 'pending'")),
        Index("ix_deliveries_listing", "webhook_id", text("created_at DESC"), text("id DESC")),
    )
