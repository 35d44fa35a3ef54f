"""The device is busy or idle; what of the last minute it was busy is what a heartbeat says."""

import pytest

from workers.activity import WINDOW_SECONDS, DeviceClock, Loaded, activity, memory_bytes
from workers.engines.base import Tally


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def spell(clock: DeviceClock, time: Time, idle: float, busy: float) -> None:
    time.now += idle
    clock.begin()
    time.now += busy
    clock.end()


def test_busy_and_idle_are_all_of_the_time() -> None:
    time = Time()
    clock = DeviceClock(time)

    spell(clock, time, idle=2, busy=3)
    time.now += 5

    assert clock.seconds() == (3, 7)


def test_a_chunk_that_runs_counts_as_it_runs() -> None:
    time = Time()
    clock = DeviceClock(time)
    clock.begin()
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


def test_a_process_without_models_says_what_it_has() -> None:
    found = activity(None, {})

    assert (found["busy"], found["running"], found["models"]) == (None, None, {})
    assert found["memory_bytes"] == pytest.approx(memory_bytes(), rel=0.2)


def test_a_model_that_has_not_run_has_no_speed() -> None:
    assert activity(None, {"echo": Loaded(0.25, 1_700_000_000.9)})["models"] == {
        "echo": {"load_seconds": 0.25, "loaded_at": 1_700_000_000, "tokens_per_second": None}
    }


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        pytest.param([], Tally(), id="nothing"),
        pytest.param([([4, 4], 10)], Tally(1, 2, 8, 8, 10), id="no padding"),
        pytest.param([([4, 1], 10), ([2], 10)], Tally(2, 3, 7, 10, 20), id="padding"),
        pytest.param([([50], 10)], Tally(1, 1, 50, 50, 50), id="longer than there is room"),
    ],
)
def test_a_tally_tells_padding_from_room(batches: list[tuple[list[int], int]], expected: Tally) -> None:
    tally = Tally()
    for lengths, room in batches:
        tally.add(lengths, room)

    assert tally == expected
    assert tally.since(Tally()) == tally and tally.since(tally) == Tally()
