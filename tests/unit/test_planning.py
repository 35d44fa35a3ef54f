"""Grouping by length: examples, and laws that hold for any lengths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.planning import (
    CHUNK_SECONDS,
    MAX_CHUNK_TOKENS,
    MIN_CHUNK_TOKENS,
    UNMEASURED_CHUNK_TOKENS,
    chunk_budget,
    plan,
)


@pytest.mark.parametrize(
    ("lengths", "max_items", "max_tokens", "expected"),
    [
        pytest.param([], 4, 100, [], id="nothing"),
        pytest.param([5, 5, 5], 2, 100, [[0, 1], [2]], id="full by count"),
        pytest.param([3, 9, 3], 8, 9, [[1], [0, 2]], id="full by padded tokens"),
        pytest.param([999], 8, 9, [[0]], id="too long goes alone"),
        pytest.param([1, 999, 1], 8, 9, [[1], [0, 2]], id="too long does not take others along"),
        pytest.param([0, 0, 0], 8, 9, [[0, 1, 2]], id="empty ones cost nothing"),
    ],
)
def test_plan(lengths: list[int], max_items: int, max_tokens: int, expected: list[list[int]]) -> None:
    assert plan(lengths, max_items, max_tokens) == expected


LENGTHS = st.lists(st.integers(0, 600), max_size=200)


@given(LENGTHS, st.integers(1, 40), st.integers(1, 2000))
def test_every_item_is_in_exactly_one_group(lengths: list[int], max_items: int, max_tokens: int) -> None:
    groups = plan(lengths, max_items, max_tokens)

    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 40), st.integers(1, 2000))
def test_a_group_keeps_both_limits_unless_it_is_one_item(lengths: list[int], max_items: int, max_tokens: int) -> None:
    for group in plan(lengths, max_items, max_tokens):
        padded = max(lengths[place] for place in group) * len(group)
        assert len(group) <= max_items
        assert padded <= max_tokens or len(group) == 1


@given(LENGTHS, st.integers(1, 40), st.integers(1, 2000))
def test_groups_go_from_long_to_short(lengths: list[int], max_items: int, max_tokens: int) -> None:
    flat = [lengths[place] for group in plan(lengths, max_items, max_tokens) for place in group]

    assert flat == sorted(lengths, reverse=True)


def test_an_unmeasured_model_gets_the_cautious_budget() -> None:
    assert chunk_budget(None, None) == UNMEASURED_CHUNK_TOKENS


@given(st.floats(0.01, 1e9), st.floats(0, 50))
def test_a_measured_budget_is_the_work_of_a_chunk_within_its_bounds(rate: float, ratio: float) -> None:
    budget = chunk_budget(rate, ratio)

    assert MIN_CHUNK_TOKENS <= budget <= MAX_CHUNK_TOKENS
    if MIN_CHUNK_TOKENS < budget < MAX_CHUNK_TOKENS:
        assert budget * (1 + ratio) / rate <= CHUNK_SECONDS
