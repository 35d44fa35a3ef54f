"""Which states a job and a chunk may be in, and which moves between them are legal. Pure."""

from enum import StrEnum


class JobStatus(StrEnum):
    """The OpenAI batch vocabulary, used in every dialect."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class ChunkState(StrEnum):
    """`split` chunks have handed their items to smaller chunks; `done` and `split` are final."""

    READY = "ready"
    LEASED = "leased"
    DONE = "done"
    SPLIT = "split"


class Count(StrEnum):
    """The six counts of a job. They sum to its total at every moment."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Outcome(StrEnum):
    """What a result row says. Cancelled and expired items have no row."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Reuse(StrEnum):
    """Where an outcome comes from that was not computed: an equal item of the job, or the tenant's cache."""

    SAME = "job"
    CACHED = "cache"


class UploadStatus(StrEnum):
    """OpenAI's words; all but `pending` are final."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class JobEventType(StrEnum):
    """What the log of a job tells. Every status has one; `created` is `validating`, `started` is `in_progress`."""

    CREATED = "created"
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    # A chunk was taken back from a worker that was not heard of any more.
    CHUNK_LOST = "chunk_lost"
    # Another job was made of this one.
    RETRIED = "retried"
    CLONED = "cloned"
    CANCELLING = "cancelling"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """`failed`: given up. A redelivery by hand makes a delivery of its own."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


NEXT_JOB: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.VALIDATING: frozenset(
        {JobStatus.IN_PROGRESS, JobStatus.FINALIZING, JobStatus.FAILED, JobStatus.CANCELLING}
    ),
    JobStatus.IN_PROGRESS: frozenset({JobStatus.FINALIZING, JobStatus.CANCELLING}),
    JobStatus.FINALIZING: frozenset({JobStatus.COMPLETED, JobStatus.EXPIRED, JobStatus.FAILED}),
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.EXPIRED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

NEXT_CHUNK: dict[ChunkState, frozenset[ChunkState]] = {
    # ready -> done: its items were cancelled or expired before anyone ran them.
    ChunkState.READY: frozenset({ChunkState.LEASED, ChunkState.DONE}),
    # leased -> ready: handed back, or the lease ran out.
    ChunkState.LEASED: frozenset({ChunkState.DONE, ChunkState.READY, ChunkState.SPLIT}),
    ChunkState.DONE: frozenset(),
    ChunkState.SPLIT: frozenset(),
}


EVENT_OF: dict[JobStatus, JobEventType] = {
    JobStatus.VALIDATING: JobEventType.CREATED,
    JobStatus.IN_PROGRESS: JobEventType.STARTED,
    JobStatus.FINALIZING: JobEventType.FINALIZING,
    JobStatus.COMPLETED: JobEventType.COMPLETED,
    JobStatus.FAILED: JobEventType.FAILED,
    JobStatus.EXPIRED: JobEventType.EXPIRED,
    JobStatus.CANCELLING: JobEventType.CANCELLING,
    JobStatus.CANCELLED: JobEventType.CANCELLED,
}


def is_final(status: JobStatus) -> bool:
    """
    >>> is_final(JobStatus.CANCELLED), is_final(JobStatus.CANCELLING)
    (True, False)
    """
    return not NEXT_JOB[status]


def may_become(now: JobStatus, wanted: JobStatus) -> bool:
    return wanted in NEXT_JOB[now]


def leftover(status: JobStatus) -> Count:
    """Where unfinished items of a job in this status end up when the job ends."""
    return Count.CANCELLED if status in (JobStatus.CANCELLING, JobStatus.CANCELLED) else Count.EXPIRED
