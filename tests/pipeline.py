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


class Handled:
    """An engine of the tests' own: another one, with some of its calls replaced."""

    def __init__(self, engine: Engine, **calls: Any) -> None:
        self._engine, self._calls = engine, calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._engine, name)


def announced(engine: Engine, begun: threading.Event) -> Engine:
    """The engine, which says when it is asked to generate."""

    def generate(*args: Any) -> Any:
        begun.set()
        return engine.generate(*args)

    return cast("Engine", Handled(engine, generate=generate))


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
    shelf = Shelf(registry, lambda wanted: announced(open_echo(wanted, None), begun), capacity=2)
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


def outcome(ledger: Ledger, idx: int) -> tuple[str, str | None]:
    """The text of an item, or the code it failed with, where there is one job."""
    [row] = ledger.rows("SELECT output->>'text' AS text, error_code FROM results WHERE idx = :idx", idx=idx)
    return row.text, row.error_code


def runner_of(ledger: Ledger, engine: Any, deadline: float = 600) -> tuple[Runner, Shelf, Exits]:
    """For an engine of the test's own; it is started and stopped by the test."""
    shelf, exits = Shelf(Registry([spec()]), lambda _: cast("Engine", engine), capacity=2), Exits()
    return Runner(ledger.sessions, shelf, ledger.bell, "runner", ["echo"], deadline, 0.05, exits), shelf, exits


def held(ledger: Ledger) -> list[Any]:
    """The chunks under lease."""
    return ledger.rows("SELECT id, crashes FROM chunks WHERE state = 'leased' ORDER BY id")
