"""Rings: messages that say where there is work, and carry none.

A ring may be lost, doubled or late without harm, because workers also look into the ledger by
themselves. So ringing never fails a request: what cannot be published is logged and forgotten.
"""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from celery import Celery
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)

IO_QUEUE = "bushel.io"
INGEST, FINALIZE, WORK = "bushel.ingest", "bushel.finalize", "bushel.work"
DELIVER = "bushel.deliver"


def model_queue(model: str) -> str:
    """The queue on which workers hear that `model` has ready chunks."""
    return f"bushel.model.{model}"


class Doorbell(Protocol):
    def ring(self, task: str, *args: str) -> None:
        """Tell whoever serves it that there may be work. Only after commit: sooner, they would find nothing."""
        ...


class CeleryDoorbell:
    """Publishes rings through Celery, by task name, without retries and with short socket timeouts.

    After a failure it stays quiet for QUIET_SECONDS, so that a broker which does not answer costs
    its callers one timeout now and then instead of one each.
    """

    QUIET_SECONDS = 5.0

    def __init__(self, app: Celery, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._clock = app, clock
        self._quiet_until = 0.0

    def ring(self, task: str, *args: str) -> None:
        if self._clock() < self._quiet_until:
            return
        queue = model_queue(args[0]) if task == WORK else IO_QUEUE
        try:
            self._app.send_task(task, args=args, queue=queue, ignore_result=True, retry=False)
        except (OperationalError, OSError) as exc:
            # The workers' own look into the ledger finds the work within seconds.
            self._quiet_until = self._clock() + self.QUIET_SECONDS
            logger.warning("ring %s not delivered: %s", task, exc, extra={"action": "ring_failed", "task": task})


class RecordingDoorbell:
    """Remembers rings instead of sending them; for tests and for tools without a broker."""

    def __init__(self) -> None:
        self.rings: list[tuple[str, ...]] = []

    def ring(self, task: str, *args: str) -> None:
        self.rings.append((task, *args))


def broker(broker_url: str, name: str = "bushel") -> Celery:
    """A Celery app whose messages may be lost, doubled or late (ADR 2); workers add their tasks to it.

    Early acks, JSON only, no result backend, no remote control, no ETA: messages are only rings.
    """
    app = Celery(name, set_as_current=False)
    app.conf.update(
        broker_url=broker_url,
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_default_queue=IO_QUEUE,
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5,
        broker_transport_options={
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "global_keyprefix": "bushel:",
            # No copy of what was taken, for a second delivery after an hour: a ring that a killed worker took is
            # found in the ledger. That leaves nothing that would need Lua scripts, which our user may not run (ADR 22).
            "ack_emulation": False,
        },
    )
    return app
