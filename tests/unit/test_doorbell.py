"""Rings never fail their caller, and go to the queue that listens for them."""

import time

import pytest

from db.doorbell import IO_QUEUE, WORK, CeleryDoorbell, broker, model_queue
from db.errors import ConfigError
from db.ringing import BackgroundDoorbell


class Recorder:
    """Stands in for the Celery app: remembers what is sent, or refuses."""

    def __init__(self, refuses: bool = False) -> None:
        self.sent: list[tuple[str, tuple[str, ...], str]] = []
        self.tries = 0
        self.refuses = refuses

    def send_task(self, task: str, args: tuple[str, ...], queue: str, **_: object) -> None:
        self.tries += 1
        if self.refuses:
            raise ConnectionRefusedError
        self.sent.append((task, args, queue))


def test_work_is_rung_on_the_models_queue_and_steps_on_the_io_queue() -> None:
    app = Recorder()
    bell = CeleryDoorbell(app)  # type: ignore[arg-type]

    bell.ring(WORK, "opus")
    bell.ring("bushel.ingest", "job_1")

    assert [queue for _, _, queue in app.sent] == [model_queue("opus"), IO_QUEUE]


def test_a_broker_that_fails_is_left_alone_for_a_while() -> None:
    now = [0.0]
    app = Recorder(refuses=True)
    bell = CeleryDoorbell(app, clock=lambda: now[0])  # type: ignore[arg-type]

    for _ in range(100):
        bell.ring(WORK, "opus")
    assert app.tries == 1
    now[0], app.refuses = 6.0, False
    bell.ring(WORK, "opus")

    assert len(app.sent) == 1


def test_nobody_waits_for_a_broker_that_does_not_answer() -> None:
    """A refused connection alone costs the client seconds, because it tries again by itself."""
    bell = BackgroundDoorbell(CeleryDoorbell(broker("redis://127.0.0.1:1/0")))
    began = time.monotonic()

    for _ in range(300):
        bell.ring(WORK, "opus")

    assert time.monotonic() - began < 1


def test_messages_carry_no_pickle_no_results_and_no_remote_control() -> None:
    conf = broker("redis://h/0").conf

    assert conf.accept_content == ["json"] and conf.task_serializer == "json"
    assert conf.result_backend is None and conf.task_ignore_result
    assert not conf.worker_enable_remote_control and not conf.task_acks_late
    assert conf.broker_connection_max_retries is None and conf.worker_prefetch_multiplier == 1


def test_a_config_error_is_no_key_error() -> None:
    """Celery swallows KeyErrors of lazy settings and falls back to amqp."""
    with pytest.raises(ConfigError):
        raise ConfigError("BUSHEL_BROKER_URL is not set")
    assert not issubclass(ConfigError, KeyError)
