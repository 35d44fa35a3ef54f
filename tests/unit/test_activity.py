"""The device is busy or idle; what of the last minute it was busy is what a heartbeat says."""

import pytest

from workers.activity import Loaded, activity, memory_bytes
from workers.engines.base import Tally


def test_a_process_without_models_says_what_it_has() -> None:
    found = activity(None, {})

    assert (found["busy"], found["running"], found["models"]) == (None, None, {})
    assert found["memory_bytes"] == pytest.approx(memory_bytes(), rel=0.2)


def test_a_model_that_has_not_run_has_no_speed() -> None:
    assert activity(None, {"echo": Loaded(0.25, 1_700_000_000.9, "cpu")})["models"] == {
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
