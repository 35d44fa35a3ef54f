"""Jobs as their owners handle them: submit, look, cancel, delete."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Text, cast, func, or_, select, text, update
from sqlalchemy import delete as delete_from
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db import deliveries, events, files, quotas
from db.cursors import Order, Page, beyond, born, is_id, page
from db.errors import Conflict, IllegalTransition, NotFound
from db.ids import new_id
from db.models import File, IdempotencyKey, Job
from db.quotas import Amounts, Limits
from db.states import EVENT_OF, JobEventType, JobStatus, is_final, may_become

PREFIX = "job_"
KEY_REUSED = "idempotency_key_reused"
# A client that got no answer sends its request again within minutes. What comes later is meant.
RETRY_WINDOW = timedelta(minutes=30)
# How often a change is judged anew when the job moves under it; workers move a job a handful of times in its life.
_TRIES = 5
_RUNNABLE = (JobStatus.VALIDATING.value, JobStatus.IN_PROGRESS.value)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job whose parts are all checked. Its inputs are a file's, or those spooled under `inputs_key`.

    What `announced_…` says of spooled ones counts against the tenant's quotas at once; of a file, ingest tells.
    """

    id: str
    task: str
    model: str | None
    params: dict[str, Any]
    format: dict[str, Any]
    long_input: str = "error"
    on_error: str = "fail"
    priority: int = 0
    completion_window: str | None = None
    expires_in: timedelta | None = None
    metadata: dict[str, Any] | None = None
    dry_run: bool = False
    # Whether results may come from the tenant's cache, and go there.
    cache: bool = False
    input_file_id: str | None = None
    inputs_key: str | None = None
    inputs_bytes: int = 0
    announced_items: int = 0
    announced_tokens: int = 0
    dialect: str = "bushel"
    endpoint: str | None = None
    output_lifetime: timedelta | None = None
    parent_id: str | None = None
    selection: str | None = None
    fingerprint: str | None = None
    # One request that somebody waits for.
    interactive: bool = False
    # W3C trace context of the request that makes it.
    traceparent: str | None = None

    @property
    def wanted(self) -> Amounts:
        """What it takes of its tenant's quotas. A dry run is a job, but queues nothing."""
        if self.dry_run:
            return Amounts(open_jobs=1, stored_bytes=self.inputs_bytes)
        return Amounts(1, self.announced_items, self.announced_tokens, self.inputs_bytes)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What the client calls its request, and a hash of what the request says."""

    key: str
    request_sha256: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """`is_new` is False when an earlier sending of the same request made the job."""

    job: Job
    is_new: bool


def new_job_id() -> str:
    return new_id(PREFIX)


def inputs_key(job_id: str) -> str:
    """Where inline inputs of a job are spooled in the store."""
    return f"inputs/{job_id}"


def submit(
    session: Session,
    tenant_id: str,
    new: NewJob,
    idempotency: Idempotency | None = None,
    *,
    retried: bool = False,
    limits: Limits | None = None,
) -> Submitted:
    """Insert the job, and the idempotency key with it, in the caller's transaction.

    With `limits`, those of tenants that have none of their own, it raises QuotaExceeded where the tenant has no room.

    Of two requests with one key, the second waits at the unique index until the first has ended,
    and then gets the first's job - or Conflict, if it asked for something else. Without a key, a
    request that says it is sent again (`retried`) gets the newest job of its `new.fingerprint`,
    if one was made lately: some clients repeat a request whose answer was lost and tell nobody.
    """
    if idempotency is None and new.fingerprint is not None:
        # Taken by first requests too: the second sending may arrive while the first is still being served.
        _queue_up(session, tenant_id, new.fingerprint)
    if (made := earlier(session, tenant_id, idempotency, new.fingerprint if retried else None)) is not None:
        return Submitted(made, is_new=False)
    if limits is not None:
        quotas.admit(session, tenant_id, new.wanted, limits)
    if new.input_file_id is not None:
        _hold_input(session, tenant_id, new.input_file_id)
    if new.parent_id is not None:
        _hold_parent(session, tenant_id, new.parent_id)
    place = session.begin_nested()
    job = _insert(session, tenant_id, new)
    if idempotency is None or _claim_key(session, tenant_id, idempotency, job.id):
        place.commit()
        if not new.interactive:
            _note_birth(session, new)
        return Submitted(job, is_new=True)
    place.rollback()
    found = replayed(session, tenant_id, idempotency)
    # Only if the earlier job was deleted in this very moment, and its key with it.
    if found is None:
        raise Conflict("the job of this Idempotency-Key was just deleted; send the request again", "idempotency_race")
    return Submitted(found, is_new=False)


def earlier(
    session: Session, tenant_id: str, idempotency: Idempotency | None, fingerprint: str | None = None
) -> Job | None:
    """The job that this very request made when it was sent before. A key is believed, and the fingerprint not asked."""
    if idempotency is not None:
        return replayed(session, tenant_id, idempotency)
    return None if fingerprint is None else _made_lately(session, tenant_id, fingerprint)


def _made_lately(session: Session, tenant_id: str, fingerprint: str) -> Job | None:
    query = select(Job).where(
        Job.tenant_id == tenant_id, Job.fingerprint == fingerprint, Job.created_at > func.now() - RETRY_WINDOW
    )
    return session.scalar(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(1))


def _queue_up(session: Session, tenant_id: str, fingerprint: str) -> None:
    """Wait for equal requests that are being served; held until the transaction ends."""
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:said, 0))"), {"said": f"{tenant_id} {fingerprint}"}
    )


def replayed(session: Session, tenant_id: str, idempotency: Idempotency) -> Job | None:
    """The job an earlier request with this key made; Conflict when that request was another one."""
    row = session.execute(
        select(IdempotencyKey.request_sha256, Job)
        .join(Job, Job.id == IdempotencyKey.job_id)
        .where(IdempotencyKey.tenant_id == tenant_id, IdempotencyKey.key == idempotency.key)
    ).one_or_none()
    if row is None:
        return None
    if row.request_sha256 != idempotency.request_sha256:
        raise Conflict(
            f"Idempotency-Key {idempotency.key!r} was used for another request already; a new request needs a new key",
            KEY_REUSED,
        )
    found: Job = row.Job
    return found


def _hold_input(session: Session, tenant_id: str, file_id: str) -> None:
    """Lock the file's row until the job is in, so that its bytes are not removed in between."""
    query = select(File.id).where(
        File.id == file_id,
        File.tenant_id == tenant_id,
        File.deleted_at.is_(None),
    )
    if session.scalar(query.with_for_update(read=True)) is None:
        raise NotFound("file", file_id)


def _hold_parent(session: Session, tenant_id: str, job_id: str) -> None:
    """Keep the parent from being deleted until its child is in."""
    query = select(Job.id).where(Job.id == job_id, Job.tenant_id == tenant_id)
    if session.scalar(query.with_for_update(read=True, key_share=True)) is None:
        raise NotFound("job", job_id)


def _insert(session: Session, tenant_id: str, new: NewJob) -> Job:
    created = born(new.id)
    job = Job(
        id=new.id,
        tenant_id=tenant_id,
        dialect=new.dialect,
        endpoint=new.endpoint,
        output_lifetime_seconds=None if new.output_lifetime is None else int(new.output_lifetime.total_seconds()),
        parent_id=new.parent_id,
        selection=new.selection,
        fingerprint=new.fingerprint,
        interactive=new.interactive,
        traceparent=new.traceparent,
        task=new.task,
        model=new.model,
        params=new.params,
        format=new.format,
        long_input=new.long_input,
        on_error=new.on_error,
        dry_run=new.dry_run,
        cache=new.cache,
        priority=new.priority,
        completion_window=new.completion_window,
        job_metadata=new.metadata,
        input_file_id=new.input_file_id,
        inputs_key=new.inputs_key,
        inputs_bytes=new.inputs_bytes,
        announced_items=new.announced_items,
        announced_tokens=new.announced_tokens,
        created_at=created,
        expires_at=None if new.expires_in is None else created + new.expires_in,
    )
    session.add(job)
    session.flush()
    session.refresh(job)
    return job


def _note_birth(session: Session, new: NewJob) -> None:
    """In its own log, and in that of the job it was made of."""
    events.note(session, new.id, JobEventType.CREATED, parent_id=new.parent_id)
    if new.parent_id is not None:
        how = JobEventType.CLONED if new.selection is None else JobEventType.RETRIED
        events.note(session, new.parent_id, how, child_id=new.id)


def _claim_key(session: Session, tenant_id: str, idempotency: Idempotency, job_id: str) -> bool:
    statement = (
        insert(IdempotencyKey)
        .values(tenant_id=tenant_id, key=idempotency.key, request_sha256=idempotency.request_sha256, job_id=job_id)
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.job_id)
    )
    return session.scalar(statement) is not None


def get(session: Session, tenant_id: str, job_id: str, dialect: str | None = None) -> Job:
    """The job, or NotFound: unknown and foreign ones look the same, and so do those of another dialect than is asked.

    A dialect shows jobs as batches; a single request somebody waits for is none.
    """
    query = select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id)
    # Always the row as it is now, also when the session has seen the job before.
    job = session.scalar(query.execution_options(populate_existing=True)) if is_id(job_id, PREFIX) else None
    if job is None or (dialect is not None and (job.dialect != dialect or job.interactive)):
        raise NotFound("job", job_id)
    return job


def exists(session: Session, job_id: str) -> bool:
    """Whether there is such a job, whoever's it is."""
    return session.scalar(select(Job.id).where(Job.id == job_id)) is not None


def listing(
    session: Session,
    tenant_id: str,
    after: str | None,
    limit: int,
    order: Order = "desc",
    status: JobStatus | None = None,
    task: str | None = None,
    dialect: str | None = None,
    search: str | None = None,
) -> Page[Job]:
    """A part of the jobs, of one dialect where that is given; single requests are never among them.

    `search` is a text that the id, the model or the metadata must have in it, in capitals or not.
    """
    query = select(Job).where(Job.tenant_id == tenant_id, Job.interactive.is_(False))
    if dialect is not None:
        query = query.where(Job.dialect == dialect)
    if status is not None:
        query = query.where(Job.status == status.value)
    if task is not None:
        query = query.where(Job.task == task)
    if search:
        # Not LIKE, whose signs would have to be escaped.
        texts = (Job.id, Job.model, cast(Job.job_metadata, Text))
        query = query.where(or_(*(func.strpos(func.lower(each), search.lower()) > 0 for each in texts)))
    return page(session.scalars(beyond(query, tenant_id, Job, after, limit, order, PREFIX)).all(), limit)


def move(session: Session, job: Job, wanted: JobStatus) -> Job:
    """Change the status if the job is still as `job` says; IllegalTransition if that may not be or has changed."""
    if not may_become(JobStatus(job.status), wanted):
        raise IllegalTransition(job.id, job.status, wanted)
    moved = session.scalar(
        update(Job)
        .where(Job.id == job.id, Job.tenant_id == job.tenant_id, Job.status == job.status, Job.version == job.version)
        .values({"status": wanted.value, "version": Job.version + 1, f"{wanted}_at": func.now()})
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    if moved is None:
        now = session.scalar(select(Job.status).where(Job.id == job.id)) or "gone"
        raise IllegalTransition(job.id, now, wanted)
    events.note(session, job.id, EVENT_OF[wanted])
    return moved


def cancel(session: Session, tenant_id: str, job_id: str, called: str | None = None) -> Job:
    """Ask a job to stop; asking again changes nothing. Conflict when it has ended, or writes its results already.

    `called` is what errors name it, for those who know it as something else than a job.

    Only the status is set here. Chunks are closed by the finalize step, because locks are taken chunk
    first, then job. The caller rings for that step after commit.
    """
    for _ in range(_TRIES):
        job = get(session, tenant_id, job_id)
        status = JobStatus(job.status)
        if status in (JobStatus.CANCELLING, JobStatus.CANCELLED):
            return job
        if not may_become(status, JobStatus.CANCELLING):
            what = f"{called or f'job {job_id}'} {'has ended' if is_final(status) else 'is writing its results'}"
            raise Conflict(f"{what} ({status}); it cannot be cancelled any more", "job_not_cancellable")
        try:
            return move(session, job, JobStatus.CANCELLING)
        except IllegalTransition:
            # A worker moved it between our look and our step: judge again.
            continue
    raise Conflict(f"job {job_id} keeps changing; try again", "job_busy")


def set_paused(session: Session, tenant_id: str, job_id: str, is_paused: bool) -> Job:
    """Let nothing more of a job be claimed, or let it go on; Conflict once there is nothing left to claim.

    What is claimed already runs to its end, and the completion window goes on. The caller rings for the
    job's models after it resumed one.
    """
    get(session, tenant_id, job_id)
    changed = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.tenant_id == tenant_id, Job.status.in_(_RUNNABLE), Job.paused.is_(not is_paused))
        .values(paused=is_paused, version=Job.version + 1)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if changed is not None:
        events.note(session, job_id, JobEventType.PAUSED if is_paused else JobEventType.RESUMED)
    job = get(session, tenant_id, job_id)
    if job.status not in _RUNNABLE:
        what = "has ended" if is_final(JobStatus(job.status)) else "is ending"
        wanted = "paused" if is_paused else "resumed"
        raise Conflict(f"job {job_id} {what} ({job.status}); it cannot be {wanted} any more", "job_not_pausable")
    return job


def delete(session: Session, tenant_id: str, job_id: str) -> None:
    """Remove a job that has ended, with items, results, chunks and events; its own files become tombstones.

    The file it was submitted with is its owner's and stays.
    """
    job = get(session, tenant_id, job_id)
    if not is_final(JobStatus(job.status)):
        raise Conflict(f"job {job_id} is {job.status}; cancel it before deleting it", "job_not_final")
    # A million items take longer to go than the usual limit allows.
    session.execute(text("SET LOCAL statement_timeout = '15min'"))
    own = [id for id in (job.output_file_id, job.error_file_id, job.report_file_id) if id is not None]
    key = job.inputs_key
    gone = session.scalar(
        delete_from(Job)
        .where(Job.id == job_id, Job.tenant_id == tenant_id, Job.status == job.status)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if gone is None:
        raise NotFound("job", job_id)
    session.expunge(job)
    deliveries.forget_job(session, tenant_id, job_id)
    session.execute(
        update(File)
        .where(File.id.in_(own), File.tenant_id == tenant_id, File.deleted_at.is_(None))
        .values(deleted_at=func.now())
    )
    if key is not None:
        _bury_inputs(session, tenant_id, job_id, key)


def _bury_inputs(session: Session, tenant_id: str, job_id: str, key: str) -> None:
    """A tombstone for spooled inputs, which never had a row, so that the reconciler removes their bytes."""
    file = files.add(
        session,
        tenant_id,
        files.NewFile(
            id=files.new_file_id(),
            purpose=files.PRIVATE,
            filename=f"{job_id}.jsonl",
            bytes=0,
            sha256="",
            content_type="application/jsonl",
            store_key=key,
        ),
    )
    file.deleted_at = func.now()
    session.flush()
