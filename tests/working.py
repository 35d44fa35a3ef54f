"""A worker inside the test: what the API rings for is done by the service's own steps, on the echo engine."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from db.doorbell import FINALIZE, INGEST, WORK, RecordingDoorbell
from models.registry import Registry
from tests.ledger import BOUNDS, Ledger
from workers.engines.echo import open_echo
from workers.finalize import Finalize
from workers.ingest import Ingest
from workers.runner import Runner
from workers.shelf import Shelf


class AnsweredDoorbell(RecordingDoorbell):
    """Remembers rings and hands them to whoever answers them."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: queue.Queue[tuple[str, ...] | None] = queue.Queue()

    def ring(self, task: str, *args: str) -> None:
        super().ring(task, *args)
        self.waiting.put((task, *args))


@contextmanager
def working(ledger: Ledger, bell: AnsweredDoorbell, registry: Registry) -> Iterator[None]:
    """Rings are answered and items run while the block lasts."""
    ingest = Ingest(ledger.sessions, ledger.store, lambda: registry, bell, BOUNDS, "ingester")
    finalize = Finalize(ledger.sessions, ledger.store, bell, "finalizer")
    shelf = Shelf(registry, lambda spec: open_echo(spec, None), capacity=4)
    names = [spec.name for spec in registry.all()]
    runner = Runner(ledger.sessions, shelf, bell, "runner", names, 600, 0.05, lambda status: None)

    def answer() -> None:
        while (ring := bell.waiting.get()) is not None:
            task, *args = ring
            if task == WORK:
                runner.wake()
            elif task == FINALIZE or (task == INGEST and ingest.run(*args)):
                finalize.run(*args)

    thread = threading.Thread(target=answer, name="steps")
    thread.start()
    runner.start()
    try:
        yield
    finally:
        runner.stop(5)
        shelf.close()
        bell.waiting.put(None)
        thread.join()
