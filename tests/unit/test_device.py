"""How long the device was busy, and for whom."""

import pytest

from workers.device import WINDOW_SECONDS, DeviceClock, Running


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


CHUNK, NEXT = Running(1, "echo", 1_700_000_000.0, 10), Running(2, "echo", 1_700_000_001.0, 10)


def spell(clock: DeviceClock, time: Time, idle: float, busy: float) -> None:
    time.now += idle
    clock.begin(CHUNK)
    time.now += busy
    assert clock.end(CHUNK) == busy


def test_busy_and_idle_are_all_of_the_time() -> None:
    time = Time()
    clock = DeviceClock(time)

    spell(clock, time, idle=2, busy=3)
    time.now += 5

    assert clock.seconds() == (3, 7)


def test_a_chunk_that_runs_counts_as_it_runs() -> None:
    time = Time()
    clock = DeviceClock(time)
    clock.begin(CHUNK)
    time.now += 4

    assert clock.seconds() == (4, 0)
    assert clock.share() == 1


def test_the_share_is_of_the_last_minute_alone() -> None:
    time = Time()
    clock = DeviceClock(time)

    spell(clock, time, idle=0, busy=100)
    assert clock.share() == 1
    time.now += WINDOW_SECONDS / 2
    assert clock.share() == pytest.approx(0.5)
    spell(clock, time, idle=0, busy=WINDOW_SECONDS / 4)
    assert clock.share() == pytest.approx(0.5)
    time.now += 2 * WINDOW_SECONDS
    assert clock.share() == 0


def test_of_a_young_process_the_share_is_of_its_life() -> None:
    time = Time()
    clock = DeviceClock(time)
    assert clock.share() == 0

    spell(clock, time, idle=1, busy=3)

    assert clock.share() == pytest.approx(0.75)


def test_two_chunks_at_once_share_what_they_were_both_there_for() -> None:
    time = Time()
    clock = DeviceClock(time)

    clock.begin(CHUNK)
    time.now += 3
    clock.begin(NEXT)
    assert clock.running == NEXT
    time.now += 2
    first = clock.end(CHUNK)
    time.now += 4
    second = clock.end(NEXT)

    assert (first, second) == (4, 5)
    assert clock.seconds() == (9, 0) and clock.running is None


def test_the_later_chunk_may_end_first() -> None:
    time = Time()
    clock = DeviceClock(time)

    clock.begin(CHUNK)
    clock.begin(NEXT)
    time.now += 2
    second = clock.end(NEXT)
    assert clock.running == CHUNK
    time.now += 5

    assert (second, clock.end(CHUNK)) == (1, 6)
