"""Earlier inputs are known by digests in a table that forgets, and never confuses."""

import pytest

from workers.seen import Seen

SETUP = ("model", '{"num_beams":1}')


def test_what_came_before_is_known_and_what_is_new_from_then_on() -> None:
    seen = Seen(16)

    assert seen.firsts({"a": 0, "b": 1}, 0, SETUP) == {}
    assert seen.firsts({"c": 0, "a": 1}, 2, SETUP) == {1: 0}
    assert seen.firsts({"c": 0, "b": 2}, 4, SETUP) == {0: 2, 2: 1}


@pytest.mark.parametrize(
    ("said", "setup"),
    [
        pytest.param("other", SETUP, id="another text"),
        pytest.param(b"same", SETUP, id="bytes that are no text"),
        pytest.param("same", ("another", SETUP[1]), id="another model"),
        pytest.param("same", (SETUP[0], "{}"), id="other parameters"),
        pytest.param("same", ("", "\0".join(SETUP)), id="a model and parameters that only read alike"),
    ],
)
def test_what_differs_in_anything_is_another(said: str | bytes, setup: tuple[str, str]) -> None:
    seen = Seen(16)
    seen.firsts({"same": 0}, 0, SETUP)

    assert seen.firsts({said: 0}, 1, setup) == {}


def test_texts_of_equal_memory_are_told_apart() -> None:
    """Python hashes the memory of a text, and these have the same: in one byte a character, and in two."""
    narrow, wide = "\x01\x01", "\u0101"
    assert hash(narrow) == hash(wide)
    seen = Seen(16)

    seen.firsts({narrow: 0}, 0, SETUP)

    assert seen.firsts({wide: 0}, 1, SETUP) == {}


def test_a_full_table_forgets_and_keeps_what_is_met_again() -> None:
    seen = Seen(1)
    seen.firsts({"first": 0, "often": 1}, 0, SETUP)
    assert seen.firsts({"often": 0}, 2, SETUP) == {0: 1}

    for number in range(100):
        assert seen.firsts({f"once {number}": 0}, 3 + number, SETUP) == {}

    assert seen.firsts({"often": 0}, 103, SETUP) == {0: 1}
    assert seen.firsts({"first": 0}, 104, SETUP) == {}


def test_however_many_come_none_is_taken_for_another() -> None:
    seen, first_of = Seen(64), {}
    for start in range(0, 20_000, 100):
        texts = {f"text {(start + place) * 7919 % 3_000}": place for place in range(100)}
        for text, place in texts.items():
            first_of.setdefault(text, []).append(start + place)

        for place, first in seen.firsts(texts, start, SETUP).items():
            text = next(text for text, each in texts.items() if each == place)
            assert first in first_of[text] and first < start
