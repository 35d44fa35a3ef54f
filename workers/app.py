"""The Celery application: `celery -A workers.app worker --pool threads`.

Celery carries rings and keeps the process; what the process does is in workers.process.
"""

import logging
from typing import Any

from celery import bootsteps, signals
from kombu.entity import Exchange, Queue

from db.discretion import leave_no_core
from db.doorbell import IO_QUEUE, CeleryDoorbell, broker, model_queue
from db.errors import ConfigError
from db.ringing import BackgroundDoorbell
from models.registry import RegistryError, load
from telemetry import logs, traces
from workers.config import WorkerSettings
from workers.process import WorkerProcess
from workers.tasks import add_tasks

try:
    settings = WorkerSettings.from_environment()
    _models = [spec.name for spec in load(settings.registry_files).all()]
except (ConfigError, RegistryError) as exc:
    raise SystemExit(f"bushel worker: {exc}") from None

app = broker(settings.broker_url)
app.conf.worker_consumer = "workers.rings:RingConsumer"
# Each with an exchange of its own name, as publishers make them; without one, all would share the default's.
app.conf.task_queues = [
    Queue(name, Exchange(name, "direct"), name) for name in (IO_QUEUE, *(model_queue(model) for model in _models))
]

# Set by Parts.start; tasks can only run after it.
_process: WorkerProcess | None = None


def process() -> WorkerProcess:
    """The running process's parts."""
    if _process is None:
        raise RuntimeError("a task ran before the worker was ready")
    return _process


add_tasks(app, process)


@signals.worker_init.connect
def _refuse_forking(sender: Any, **_: Any) -> None:
    """A model and its threads do not survive a fork, and time limits are ours anyway."""
    pool = getattr(sender.pool_cls, "__module__", str(sender.pool_cls))
    if "thread" not in pool and "solo" not in pool:
        raise SystemExit("bushel worker: start with --pool threads (a forked process cannot use a loaded model)")


@signals.worker_init.connect
def _leave_no_core(**_: Any) -> None:
    leave_no_core()


@signals.after_setup_task_logger.connect
@signals.after_setup_logger.connect
def _dress_log(logger: logging.Logger, **_: Any) -> None:
    logs.dress(logger, logs.LogFormat(settings.log_format), settings.passwords)


@signals.after_setup_logger.connect
def _quiet_rings(**_: Any) -> None:
    """Rings come by the thousand and say nothing; the ledger's moves are logged where they are made."""
    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger().setLevel(settings.log_level)


@signals.worker_shutting_down.connect
def _begin_stop(**_: Any) -> None:
    if _process is not None:
        _process.begin_stop()


class Parts(bootsteps.StartStopStep):
    """Starts the process's parts before the broker is reached, and stops them after the consumer.

    Before it on purpose: with Redis away, the look into the ledger still finds the work. And as a
    step, not in worker_init, because only by then Celery has its signal handlers: a SIGTERM sooner
    would end a process that already holds leases without handing them back.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        global _process
        try:
            traces.set_up("bushel-worker", settings.tracing)
        except ConfigError as exc:
            raise SystemExit(f"bushel worker: {exc}") from None
        bell = BackgroundDoorbell(CeleryDoorbell(app))
        _process = WorkerProcess(settings, bell, list(parent.app.amqp.queues.consume_from))
        _process.start()

    def stop(self, parent: Any) -> None:
        if _process is not None:
            _process.stop()
        traces.close()


app.steps["worker"].add(Parts)
