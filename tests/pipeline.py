"""A worker's device pipeline over a test's ledger, with echo engines."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from db.audit import audit
from models.registry import Registry
from models.spec import EngineKind, ModelSpec, Task
from tests.ledger import Ledger
from tests.waiting import eventually
from workers.engines.base import Engine
from workers.engines.echo import open_echo
from workers.runner import Runner
from workers.shelf import Shelf


def spec(name: str = "echo", **options: Any) -> ModelSpec:
    return ModelSpec(name, Task.TRANSLATION, Path("/nowhere"), EngineKind.ECHO, options={"markers": True, **options})


class Exits(list[int]):
    """Records what the watchdog would have ended the process with."""

    def __call__(self, status: int) -> None:
        self.append(status)


class Begun:
    """An engine that says when it was first asked to generate."""

    def __init__(self, engine: Engine, begun: threading.Event) -> None:
        self._engine, self._begun = engine, begun

    def __getattr__(self, name: str) -> Any:
        if name == "generate":
            self._begun.set()
        return getattr(self._engine, name)


@contextmanager
def running(
    ledger: Ledger,
    *specs: ModelSpec,
    deadline: float = 600,
    grace: float = 5,
    begun: threading.Event | None = None,
) -> Iterator[tuple[Runner, Exits]]:
    registry = Registry(specs or [spec()])
    begun = begun or threading.Event()
    shelf = Shelf(registry, lambda wanted: cast("Engine", Begun(open_echo(wanted, None), begun)), capacity=2)
    exits = Exits()
    names = [one.name for one in registry.all()]
    runner = Runner(ledger.sessions, shelf, ledger.bell, "runner", names, deadline, 0.05, exits)
    runner.start()
    try:
        yield runner, exits
    finally:
        runner.stop(grace)
        shelf.close()


def ended(ledger: Ledger, job_id: str, seconds: float = 20) -> Any:
    """The job once it was finalized."""
    eventually(lambda: ledger.finalize(job_id) or ledger.job(job_id).completed_at, seconds)
    with ledger.sessions() as session:
        found = audit(session, ledger.tenant, job_id)
    assert found.ok, found
    return ledger.job(job_id)
