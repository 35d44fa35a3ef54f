"""The fault suite, in its short form; `make chaos` runs the whole of it."""

from pathlib import Path

import pytest

from chaos.scenarios.freezing import control
from chaos.scenarios.scenario import Terms
from chaos.scenarios.short import short
from chaos.schedule import strikes

pytestmark = pytest.mark.slow


def test_what_is_killed_flushed_or_frozen_loses_and_doubles_nothing(tmp_path: Path) -> None:
    row = short(Terms(tmp_path / "stack", seed=1, is_quick=True))

    assert row.problems == []
    assert (row.lost, row.doubled, row.unexpected) == (0, 0, 0)
    assert row.items == 7_000


def test_without_the_fence_the_suite_finds_what_is_doubled(tmp_path: Path) -> None:
    row = control(Terms(tmp_path / "stack", seed=1, is_quick=True))

    assert row.problems == []
    assert row.doubled > 0


def test_a_schedule_is_drawn_from_its_seed_alone() -> None:
    names = ["kill worker-1", "flush"]

    assert strikes(7, names, 20) == strikes(7, names, 20) != strikes(8, names, 20)
    assert [strike.share for strike in strikes(7, names, 20)] == sorted(
        strike.share for strike in strikes(7, names, 20)
    )
