"""Between which times a job is said to end. Pure."""

import itertools
import math
import random

import pytest

from db.bands import LEAST_SECONDS, PRIOR_VARIANCE, SHARE, Spread, band


@pytest.mark.parametrize(
    ("eta", "spreads", "expected"),
    [
        pytest.param(100.0, [Spread(0.0)], (59.9, 167.0), id="chunks that are never off are not all there is"),
        pytest.param(100.0, [Spread(0.0, 1.0, 1.0)], (99.0, 101.0), id="estimates that are never off: a second"),
        pytest.param(0.0, [Spread()], (0.0, 1.0), id="no time before now"),
        pytest.param(100.0, [Spread(0.9, 0.8, 1.3)], (80.0, 130.0), id="what was seen goes before what is computed"),
        pytest.param(100.0, [Spread(0.0, 0.8, None)], (59.9, 167.0), id="half of it was never seen"),
        pytest.param(100.0, [Spread(0.0, 1.2, 1.6)], (99.0, 160.0), id="always late: the estimate is still inside"),
        pytest.param(100.0, [Spread(0.0, 0.5, 0.7)], (50.0, 101.0), id="always early: the estimate is still inside"),
        pytest.param(
            100.0, [Spread(0.0, 0.9, 1.1), Spread(0.0, 0.7, 1.05)], (70.0, 110.0), id="of several models the widest"
        ),
    ],
)
def test_a_band_is_made_of_an_estimate_and_a_spread(
    eta: float, spreads: list[Spread], expected: tuple[float, float]
) -> None:
    assert band(eta, spreads) == expected


def test_before_anything_was_measured_a_band_is_wide_and_not_absurd() -> None:
    low, high = band(100.0, [])

    assert (low, high) == band(100.0, [Spread(PRIOR_VARIANCE)])
    assert 55 < low < 65 and 160 < high < 175


def test_the_more_chunks_are_off_the_wider_the_band() -> None:
    widths = [band(1000.0, [Spread(variance)]) for variance in (0.16, 0.3, 0.6, 1.0)]

    assert all(low > next_low for (low, _), (next_low, _) in itertools.pairwise(widths))
    assert all(high < next_high for (_, high), (_, next_high) in itertools.pairwise(widths))


@pytest.mark.parametrize("deviation", [0.4, 0.6, 0.8])
def test_a_band_of_chunks_holds_for_its_share_of_jobs_that_are_off_as_much(deviation: float) -> None:
    """A job whose chunks are off together, by what chunks have been off: the case that the computed band is for."""
    dice = random.Random(7)
    low, high = band(1000.0, [Spread(deviation**2)])

    ends = [1000.0 * math.exp(dice.gauss(0, deviation)) for _ in range(4000)]

    assert sum(low <= end <= high for end in ends) / len(ends) == pytest.approx(SHARE, abs=0.03)


def test_the_estimate_is_in_its_band_whatever_the_spread() -> None:
    dice = random.Random(3)
    for _ in range(2000):
        eta = round(dice.uniform(0, 1e5), 1)
        factors = sorted(dice.uniform(0, 30) for _ in range(2))
        spread = Spread(dice.uniform(0, 6), *(factors if dice.random() < 0.5 else (None, None)))

        low, high = band(eta, [spread])

        assert 0 <= low <= eta <= high
        assert high - eta >= LEAST_SECONDS - 0.05
