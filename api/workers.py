"""Workers: which processes there are, on what devices, and what they do. And the queues that they serve."""

from datetime import datetime
from typing import Any, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from api.errors import documented
from api.services import services, tenant_id
from api.strict import Strict
from api.wire import listed, unix
from db.outlook import ModelState, surroundings
from db.queues import Queue, Share, queues
from db.workers import OwnLease, Seen, seen

tag = Tag(name="workers", description="Who does the work, and how much of it there is.")
bp = APIBlueprint("workers", __name__, url_prefix="/v1", abp_tags=[tag])


class NoQuery(Strict):
    """Nothing can be asked for yet."""


class ServedModel(BaseModel):
    """A model as one worker has it."""

    id: str
    loaded: bool = Field(description="It is in this worker's memory.")
    loaded_at: int | None
    load_seconds: float | None = Field(description="What loading it took; null: not loaded, or not known.")
    tokens_per_second: float | None = Field(description="Lately, here; null: nothing was measured yet.")
    unavailable_reason: str | None = Field(description="Why this worker cannot load it; null: it can.")


class RunningChunk(BaseModel):
    """What is on the device now, whoever's it is."""

    model: str
    items: int
    since: int


class LeaseObject(BaseModel):
    """A chunk of a job of yours, lent to the worker until `expires_at` unless its heartbeat renews that."""

    job_id: str
    model: str
    items: int
    progress: int = Field(description="How many of the items are done.")
    attempt: int = Field(description="1 at the first try.")
    since: int
    expires_at: int


class LeasesObject(BaseModel):
    """What the worker holds: of everybody in numbers, of your own jobs one by one."""

    chunks: int
    items: int
    own: list[LeaseObject]


class WorkerObject(BaseModel):
    """A worker process, by its own last heartbeat. All times are Unix seconds."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "gpu-1/0:4711:9f3c1a20",
                "object": "worker",
                "host": "gpu-1",
                "device": "cuda",
                "version": "0.1.0",
                "alive": True,
                "started_at": 1_790_000_000,
                "heartbeat_at": 1_790_003_600,
                "busy": 0.93,
                "memory_bytes": 1_610_612_736,
                "device_memory_bytes": 734_003_200,
                "models": [
                    {
                        "id": "translation-balanced",
                        "loaded": True,
                        "loaded_at": 1_790_000_004,
                        "load_seconds": 0.412,
                        "tokens_per_second": 1460.2,
                        "unavailable_reason": None,
                    }
                ],
                "running": {"model": "translation-balanced", "items": 512, "since": 1_790_003_598},
                "leases": {"chunks": 2, "items": 1024, "own": []},
            }
        }
    )

    id: str
    object: Literal["worker"] = "worker"
    host: str
    device: str
    version: str
    alive: bool = Field(
        description="Heard of lately. One that is not is shown for an hour, and its work is taken back."
    )
    started_at: int
    heartbeat_at: int
    busy: float | None = Field(
        description="Share of the last minute that its device was busy, 0 to 1; null: it has none."
    )
    memory_bytes: int | None
    device_memory_bytes: int | None
    models: list[ServedModel] = Field(description="What it serves; empty: it reads inputs and writes results.")
    running: RunningChunk | None
    leases: LeasesObject

    @classmethod
    def of(cls, worker: Seen) -> "WorkerObject":
        said, activity = worker.presence, worker.presence.activity
        return cls(
            id=said.id,
            host=said.host,
            device=said.device,
            version=said.version,
            alive=worker.is_alive,
            started_at=_unix(worker.started_at),
            heartbeat_at=_unix(worker.heartbeat_at),
            busy=activity.get("busy"),
            memory_bytes=activity.get("memory_bytes"),
            device_memory_bytes=activity.get("device_memory_bytes"),
            models=[_served(name, worker) for name in said.models],
            running=_running(activity.get("running")) if worker.is_alive else None,
            leases=LeasesObject(
                chunks=worker.leased_chunks, items=worker.leased_items, own=[_lease(lease) for lease in worker.own]
            ),
        )


class WorkerList(BaseModel):
    """All workers, those alive first."""

    object: Literal["list"] = "list"
    data: list[WorkerObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ShareObject(BaseModel):
    """A part of a queue. Items of paused jobs are in none."""

    jobs: int = Field(description="Jobs that have items waiting here.")
    items: int = Field(description="Items that no worker has begun.")
    tokens: int = Field(description="Their input tokens, as estimated.")
    running_items: int


class QueueObject(ShareObject):
    """What there is for a model to do, of all tenants together."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "translation-balanced",
                "object": "queue",
                "jobs": 2,
                "items": 12_400,
                "tokens": 310_000,
                "running_items": 1024,
                "chunks": 25,
                "leased_chunks": 2,
                "paused_items": 0,
                "oldest_at": 1_790_003_000,
                "workers": 1,
                "loaded": 1,
                "tokens_per_second": 1460.2,
                "clear_seconds": 431.9,
                "own": {"jobs": 1, "items": 400, "tokens": 10_000, "running_items": 512},
            }
        }
    )

    id: str = Field(description="The model's name.")
    object: Literal["queue"] = "queue"
    chunks: int = Field(description="The parts in which the waiting items are lent to workers.")
    leased_chunks: int = Field(description="Those that workers hold now.")
    paused_items: int = Field(description="Items of paused jobs; they wait until somebody resumes them.")
    oldest_at: int | None = Field(description="When the job began that waits longest; null: none waits.")
    workers: int = Field(description="Live workers that can run it.")
    loaded: int = Field(description="Those that have it in memory.")
    tokens_per_second: float | None = Field(description="Measured on one worker; null: never measured.")
    clear_seconds: float | None = Field(
        description="About how long its workers need for all that waits; null: cannot be told, or none waits."
    )
    own: ShareObject = Field(description="Of your own jobs.")

    @classmethod
    def of(cls, queue: Queue, state: ModelState) -> "QueueObject":
        return cls(
            id=queue.model,
            **_share(queue.all),
            chunks=queue.chunks,
            leased_chunks=queue.leased_chunks,
            paused_items=queue.paused_items,
            oldest_at=unix(queue.oldest_at),
            workers=state.workers,
            loaded=state.loaded,
            tokens_per_second=state.tokens_per_second,
            clear_seconds=_clear_seconds(queue, state),
            own=ShareObject(**_share(queue.own)),
        )


class QueueList(BaseModel):
    """Every registered model's, and those of models that are gone but have work left."""

    object: Literal["list"] = "list"
    data: list[QueueObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@bp.get("/workers", operation_id="list_workers", responses={200: WorkerList, **documented(400, 401, 503)})
def index(query: NoQuery) -> Response:
    """List workers

    What belongs to other tenants is told in numbers only.
    """
    with services().sessions() as session:
        found = seen(session, tenant_id())
    return listed(found, False, WorkerObject.of)


@bp.get("/queues", operation_id="list_queues", responses={200: QueueList, **documented(400, 401, 503)})
def queues_index(query: NoQuery) -> Response:
    """List queues

    What belongs to other tenants is told in numbers only.
    """
    registered = [spec.name for spec in services().catalog.current().all()]
    with services().sessions() as session:
        found = queues(session, tenant_id())
        names = [*registered, *sorted(found.keys() - set(registered))]
        around = surroundings(session, [], names)
    rows = [found.get(name, Queue(name)) for name in names]
    return listed(rows, False, lambda queue: QueueObject.of(queue, around.model(queue.model)))


def _served(name: str, worker: Seen) -> ServedModel:
    said = worker.presence
    known: dict[str, Any] = said.activity.get("models", {}).get(name, {})
    return ServedModel(
        id=name,
        loaded=name in said.loaded,
        loaded_at=known.get("loaded_at"),
        load_seconds=known.get("load_seconds"),
        tokens_per_second=known.get("tokens_per_second"),
        unavailable_reason=said.unavailable.get(name),
    )


def _running(said: dict[str, Any] | None) -> RunningChunk | None:
    """Without the chunk's id: it may be anybody's."""
    return None if said is None else RunningChunk(model=said["model"], items=said["items"], since=said["since"])


def _lease(lease: OwnLease) -> LeaseObject:
    return LeaseObject(
        job_id=lease.job_id,
        model=lease.model,
        items=lease.items,
        progress=lease.progress,
        attempt=lease.attempt,
        since=_unix(lease.since),
        expires_at=_unix(lease.expires_at),
    )


def _share(share: Share) -> dict[str, int]:
    return {"jobs": share.jobs, "items": share.items, "tokens": share.tokens, "running_items": share.running_items}


def _clear_seconds(queue: Queue, state: ModelState) -> float | None:
    if not queue.all.tokens or not state.tokens_per_second or not state.workers:
        return None
    return round(queue.all.tokens * (1 + state.output_per_input) / (state.tokens_per_second * state.workers), 1)


def _unix(moment: datetime) -> int:
    return int(moment.timestamp())
