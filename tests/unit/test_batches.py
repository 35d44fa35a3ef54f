"""Which prompts go to the device together, and where outputs end."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engines.batches import Budget, token_batches
from workers.engines.stops import cut_text, cut_tokens, tail_length


@pytest.mark.parametrize(
    ("lengths", "budget", "spread", "most", "expected"),
    [
        pytest.param([], 10, None, 9, [], id="nothing"),
        pytest.param([5, 5, 5], 10, None, 9, [[0, 1], [2]], id="full by tokens"),
        pytest.param([1, 9, 2], 20, None, 9, [[1, 2], [0]], id="the longest sets the price"),
        pytest.param([999], 10, None, 9, [[0]], id="too long goes alone"),
        pytest.param([5, 9, 8, 4], 100, 1, 9, [[1, 2], [0, 3]], id="no wider than the spread"),
        pytest.param([1, 1, 1], 100, None, 2, [[0, 1], [2]], id="full by count"),
        pytest.param([0, 0], 1, None, 9, [[0], [1]], id="an empty prompt costs one"),
    ],
)
def test_batches(lengths: list[int], budget: int, spread: int | None, most: int, expected: list[list[int]]) -> None:
    assert token_batches(lengths, budget, spread, most) == expected


@given(st.lists(st.integers(0, 300), max_size=200), st.integers(1, 2000))
def test_every_prompt_is_in_exactly_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = token_batches(lengths, budget)

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget for batch in batches)


def test_a_budget_shrinks_below_the_batch_that_failed() -> None:
    budget = Budget(4096)
    budget.note_failure(prompts=3, tokens=30)

    assert budget.shrink() and budget.tokens == 15

    budget.note_failure(prompts=1, tokens=15)
    assert not budget.shrink()


@given(st.text("ab ", max_size=40), st.lists(st.text("ab ", min_size=1, max_size=3), max_size=3))
def test_a_cut_is_before_the_first_stop_and_keeps_all_it_can(text: str, stops: list[str]) -> None:
    cut = cut_text(text, stops)

    assert text.startswith(cut)
    assert not any(stop in cut for stop in stops)
    assert cut == text or any(text[len(cut) :].startswith(stop) for stop in stops)


@given(st.lists(st.sampled_from(["a", "ab", "ba", "b "]), max_size=20), st.text("ab ", min_size=1, max_size=4))
def test_tokens_end_with_the_one_that_completes_the_stop(tokens: list[str], stop: str) -> None:
    kept, is_stopped = cut_tokens(tuple(tokens), [stop], "".join)

    assert is_stopped == (stop in "".join(tokens))
    if is_stopped:
        assert stop in "".join(kept) and stop not in "".join(kept[:-1])
    else:
        assert kept == tuple(tokens)


@pytest.mark.parametrize(
    "stop", ["(a+)+$", "(a|a)*b", "a{9999}{9999}", "[^\\0]*?x", ".*.*.*=", "(?:a?){30}a{30}", "\\"]
)
def test_a_stop_string_that_looks_like_a_pattern_is_taken_literally_and_at_once(stop: str) -> None:
    text = "a" * 10_000 + "!"
    tokens = tuple(text)

    def find() -> float:
        began = time.perf_counter()
        assert cut_text(text, [stop]) == text
        assert cut_text(f"{text}{stop}{text}", [stop]) == text
        return time.perf_counter() - began

    # As a pattern, the first takes longer than there is time. The best of several, since others use the machine too.
    assert min(find() for _ in range(20)) < 0.001
    assert cut_tokens(tokens, [stop], "".join) == (tokens, False)
    assert cut_tokens((*tokens, stop, "a"), [stop], "".join) == ((*tokens, stop), True)


def test_the_tail_holds_a_stop_of_four_byte_characters() -> None:
    assert tail_length(["🙂🙂"]) >= 4 * 2 + 3
    assert tail_length([]) > 0
