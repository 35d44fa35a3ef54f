"""Models in memory: never more than there is room for, and looking at them never waits."""

import threading
from pathlib import Path
from typing import Any

from models.registry import Registry
from models.spec import EngineKind, ModelSpec, Task
from tests.waiting import eventually
from workers.engines.echo import EchoEngine
from workers.shelf import Shelf

NAMES = ("a", "b", "c")
REGISTRY = Registry([ModelSpec(name, Task.TRANSLATION, Path("/nowhere"), EngineKind.ECHO) for name in NAMES])


class Closing(EchoEngine):
    def __init__(self, spec: ModelSpec, closed: list[str]) -> None:
        super().__init__(spec)
        self._closed = closed

    def close(self) -> None:
        self._closed.append(self._spec.name)


def shelf(capacity: int) -> tuple[Shelf, list[str]]:
    closed: list[str] = []
    return Shelf(REGISTRY, lambda spec: Closing(spec, closed), capacity), closed


def test_the_longest_unused_model_is_put_away() -> None:
    models, closed = shelf(2)
    for name in ("a", "b", "a", "c"):
        models.take(name)
        models.put_back(name)

    assert closed == ["b"] and models.loaded() == ["a", "c"]


def test_a_model_in_use_is_waited_for_and_not_joined_by_one_too_many() -> None:
    models, closed = shelf(1)
    models.take("a")
    taker = threading.Thread(target=models.take, args=("b",))

    taker.start()
    taker.join(0.1)
    assert taker.is_alive() and models.loaded() == ["a"] and not closed
    models.put_back("a")
    taker.join(5)

    assert models.loaded() == ["b"] and closed == ["a"]


def test_while_a_model_loads_the_others_can_be_looked_at_and_put_back() -> None:
    loading, go_on = threading.Event(), threading.Event()

    def open_engine(spec: ModelSpec) -> Any:
        if spec.name == "b":
            loading.set()
            go_on.wait(10)
        return EchoEngine(spec)

    models = Shelf(REGISTRY, open_engine, 2)
    models.take("a")
    taker = threading.Thread(target=models.take, args=("b",))
    taker.start()
    assert loading.wait(5)

    seen: list[Any] = []
    looker = threading.Thread(target=lambda: seen.append((models.loaded(), models.put_back("a"))))
    looker.start()
    looker.join(2)
    assert seen == [(["a"], None)]

    go_on.set()
    taker.join(5)
    eventually(lambda: models.loaded() == ["a", "b"])
