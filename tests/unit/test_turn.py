"""One feeds the device at a time."""

import threading

import pytest

from workers.turn import Turn


def test_the_next_may_begin_once_the_turn_is_passed_on() -> None:
    lock = threading.Lock()

    with Turn(lock) as turn:
        assert lock.locked()
        turn.pass_on()
        with Turn(lock):
            turn.pass_on()
            assert lock.locked(), "it was another's to pass on"
    assert not lock.locked()


def test_a_turn_ends_with_its_block_whatever_happens() -> None:
    lock = threading.Lock()

    with pytest.raises(ValueError), Turn(lock):
        raise ValueError

    assert not lock.locked()
