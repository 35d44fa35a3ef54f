"""Rings from a thread of their own."""

import threading

import pytest

from db import ringing
from db.ringing import BackgroundDoorbell
from tests.waiting import eventually


class Hanging:
    """A broker that answers only once it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.rings: list[tuple[str, ...]] = []

    def ring(self, task: str, *args: str) -> None:
        assert self.go.wait(10)
        if task == "bad":
            raise RuntimeError("a fault of the broker's client")
        self.rings.append((task, *args))


def test_ringing_returns_while_the_broker_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ringing, "_MOST_WAITING", 3)
    hanging = Hanging()
    bell = BackgroundDoorbell(hanging)

    for number in range(50):
        bell.ring("task", str(number))
    hanging.go.set()

    eventually(lambda: len(hanging.rings) >= 3)
    assert hanging.rings[0] == ("task", "0")
    assert len(hanging.rings) <= 4


def test_a_fault_does_not_end_the_ringing() -> None:
    hanging = Hanging()
    hanging.go.set()
    bell = BackgroundDoorbell(hanging)

    bell.ring("bad")
    bell.ring("good")

    eventually(lambda: hanging.rings == [("good",)])
