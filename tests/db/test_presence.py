"""What a worker process says of itself, before it has loaded a model and afterwards."""

from pathlib import Path

import pytest

from db import workers
from db.doorbell import IO_QUEUE, model_queue
from tests.conftest import NO_BROKER, REGISTRY
from tests.ledger import Ledger
from tests.pipeline import ended
from tests.waiting import eventually
from workers.config import WorkerSettings
from workers.process import WorkerProcess


def devices(ledger: Ledger) -> list[str]:
    with ledger.sessions() as session:
        return [seen.presence.device for seen in workers.seen(session, ledger.tenant)]


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> WorkerSettings:
    registry = tmp_path / "registry.toml"
    registry.write_text(REGISTRY)
    return WorkerSettings(
        database_url=database_url, broker_url=NO_BROKER, data=tmp_path, registry=registry, min_free_bytes=0
    )


def test_a_worker_tells_the_device_that_its_engines_found(ledger: Ledger, settings: WorkerSettings) -> None:
    process = WorkerProcess(settings, ledger.bell, [model_queue("echo")])
    process.start()
    try:
        eventually(lambda: devices(ledger) == ["auto"])
        ended(ledger, ledger.started(1), 60)
        eventually(lambda: devices(ledger) == ["cpu"], 60)
    finally:
        process.stop()


def test_a_process_without_models_is_on_the_cpu(ledger: Ledger, settings: WorkerSettings) -> None:
    process = WorkerProcess(settings, ledger.bell, [IO_QUEUE])
    process.start()
    try:
        assert eventually(lambda: devices(ledger)) == ["cpu"]
    finally:
        process.stop()
