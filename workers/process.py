"""One worker process: its parts, built from settings, started and stopped in order."""

import gc
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection
from datetime import timedelta
from importlib.metadata import version

from prometheus_client import REGISTRY

from db import leases, steps, workers
from db.disk import Disks
from db.doorbell import IO_QUEUE, Doorbell, model_queue
from db.quotas import Limits
from db.session import Sessions, connect, sessions
from db.store import open_store
from models.catalog import Catalog
from models.registry import Registry
from models.spec import ModelSpec
from telemetry.serving import MetricsServer, registry_of
from workers import figures
from workers.activity import activity
from workers.config import WorkerSettings
from workers.delivery import SENDERS, Delivery
from workers.engines.base import Engine
from workers.finalize import Finalize
from workers.formats import Bounds
from workers.ingest import Ingest
from workers.loops import Loop
from workers.outbound import Outbound
from workers.reconcile import SECONDS as RECONCILE_SECONDS
from workers.reconcile import Reconciler
from workers.room import Watermark
from workers.runner import Runner
from workers.shelf import Shelf

logger = logging.getLogger(__name__)

PRESENCE_SECONDS = 5.0
SENDER_GRACE_SECONDS = 2.0


class WorkerProcess:
    """What lives as long as the process. Which queues it consumes decides which parts run.

    A process on the io queue ingests, finalizes and delivers; one on a model's queue runs the device pipeline
    for it; every one takes part in the reconciling.
    """

    def __init__(self, settings: WorkerSettings, doorbell: Doorbell, queues: Collection[str]) -> None:
        self._settings, self._doorbell = settings, doorbell
        # What comes before the process's own part is the same for its predecessor in the slot.
        self._slot = f"{settings.host}/{settings.worker_slot}:" if settings.worker_slot else None
        self.id = f"{self._slot or f'{settings.host}:'}{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._engine = connect(settings.database_url, settings.database_pool, f"bushel worker {self.id}"[:63])
        self._sessions: Sessions = sessions(self._engine)
        self._stopping = threading.Event()
        store = open_store(settings.file_store)
        catalog = Catalog(settings.registry_files)
        registry = catalog.current()
        self._serves = [spec.name for spec in registry.all() if model_queue(spec.name) in queues]
        bounds = Bounds(settings.max_inflated_bytes, settings.max_lines)
        self._has_room = Watermark(Disks(store, settings.data), settings.pause_free_bytes).has_room
        self.ingest = Ingest(
            self._sessions,
            store,
            catalog.current,
            doorbell,
            bounds,
            self.id,
            self._stopping.is_set,
            has_room=self._has_room,
            limits=Limits(queued_items=settings.tenant_queued_items, queued_tokens=settings.tenant_queued_tokens),
        )
        self.finalize = Finalize(self._sessions, store, doorbell, self.id, self._stopping.is_set, self._has_room)
        days = settings.retention_days
        retention = None if days is None else timedelta(days=days)
        reconciler = Reconciler(self._sessions, store, doorbell, retention)
        self._loops = [
            Loop("presence", PRESENCE_SECONDS, self._beat),
            Loop("reconcile", RECONCILE_SECONDS, reconciler.run),
        ]
        if IO_QUEUE in queues:
            self._loops.append(Loop("due_steps", settings.poll_seconds, self._run_due_steps))
        self._senders = self._delivery_loops() if IO_QUEUE in queues else []
        self._shelf: Shelf | None = None
        self.runner: Runner | None = None
        if self._serves:
            self._shelf, self.runner = self._pipeline(registry)
        self._metrics = self._metrics_server(is_io=IO_QUEUE in queues)

    def _metrics_server(self, is_io: bool) -> MetricsServer | None:
        """None if it is not wanted, or its port cannot be had: work goes before being watched at it."""
        host, port = self._settings.metrics_host, self._settings.metrics_port
        if port is None:
            return None
        own = registry_of(figures.ProcessFigures(self._device, version("bushel")))
        if self.runner and self._shelf:
            own.register(figures.DeviceFigures(self.runner, self._shelf))
        if is_io:
            own.register(figures.DeliveryFigures(self._sessions))
        try:
            return MetricsServer(host, port, [REGISTRY, own])
        except OSError as exc:
            where = f"{host}:{port}"
            logger.error("no metrics, %s cannot be had: %s", where, exc, extra={"action": "metrics_unavailable"})
            return None

    def _pipeline(self, registry: Registry) -> tuple[Shelf, Runner]:
        shelf = Shelf(registry, _opener(self._settings), self._settings.max_loaded_models)
        runner = Runner(
            self._sessions,
            shelf,
            self._doorbell,
            self.id,
            self._serves,
            self._settings.chunk_deadline_seconds,
            self._settings.poll_seconds,
            has_room=self._has_room,
        )
        return shelf, runner

    def _delivery_loops(self) -> list[Loop]:
        outbound = Outbound(self._settings.webhook_private_addresses)
        delivery = Delivery(self._sessions, outbound, self._stopping.is_set)
        return [Loop("delivery", self._settings.poll_seconds, delivery.run) for _ in range(SENDERS)]

    def wake_senders(self) -> None:
        for loop in self._senders:
            loop.wake()

    def _stop_senders(self) -> None:
        """What a slow receiver has not answered in time is sent again by another process."""
        deadline = time.monotonic() + SENDER_GRACE_SECONDS
        # All are told before any is waited for.
        for loop in self._senders:
            loop.stop(0)
        for loop in self._senders:
            loop.stop(max(0.0, deadline - time.monotonic()))

    def start(self) -> None:
        # What was imported stays: looking through it again and again took a tenth of ingest's time.
        gc.collect()
        gc.freeze()
        if self._slot:
            with self._sessions.begin() as session:
                leases.inherit(session, self._slot, self.id)
        for loop in (*self._loops, *self._senders):
            loop.start()
        if self.runner:
            self.runner.start()
        if self._metrics:
            self._metrics.start()
        logger.info("worker %s serves %s", self.id, self._serves or "io", extra={"action": "worker_started"})

    def begin_stop(self) -> None:
        """Safe inside a signal handler: only says that nothing new is to be begun."""
        self._stopping.set()
        if self.runner:
            self.runner.begin_stop()

    def stop(self) -> None:
        self.begin_stop()
        if self.runner and self._shelf:
            self.runner.stop(self._settings.stop_grace_seconds)
            self._shelf.close()
        for loop in self._loops:
            loop.stop()
        self._stop_senders()
        if self._metrics:
            self._metrics.close()
        with self._sessions.begin() as session:
            workers.leave(session, self.id)
        self._engine.dispose()
        logger.info("worker %s stopped", self.id, extra={"action": "worker_stopped"})

    def _device(self) -> str:
        """What the engines found, each for itself. Until one has looked, what they are to look for."""
        if self._shelf is None:
            return "cpu"
        return ", ".join(self._shelf.devices()) or self._settings.device or "auto"

    def _beat(self) -> None:
        presence = workers.Presence(
            self.id,
            self._settings.host,
            os.getpid(),
            self._device(),
            version("bushel"),
            self._serves,
            self._shelf.loaded() if self._shelf else [],
            self._shelf.unavailable() if self._shelf else {},
            activity(self.runner, self._shelf.loads() if self._shelf else {}),
        )
        with self._sessions.begin() as session:
            workers.beat(session, presence)

    def _run_due_steps(self) -> None:
        """Ingests and finalizations nobody is at: their ring was lost, or the process that began them is."""
        todo: tuple[tuple[steps.Step, Callable[[str], bool]], ...] = (
            ("finalize", self.finalize.run),
            ("ingest", self.ingest.run),
        )
        for step, run in todo:
            with self._sessions() as session:
                due = steps.due(session, step)
            for job_id in due:
                if self._stopping.is_set():
                    return
                try:
                    run(job_id)
                except Exception:
                    # As at the edge of a task: a job that cannot go on must not hold up those behind it.
                    logger.exception("%s of %s failed", step, job_id, extra={"action": f"{step}_failed"})


def _opener(settings: WorkerSettings) -> Callable[[ModelSpec], Engine]:
    def open_engine(spec: ModelSpec) -> Engine:
        # Imported here: a process that only ingests never loads torch.
        from workers.engines.load import open_engine

        return open_engine(spec, settings.data / "models", settings.device)

    return open_engine
