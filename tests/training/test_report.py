"""What a report is made of beside figures: floors, examples, and Markdown of texts that may hold anything."""

import re
from itertools import combinations
from pathlib import Path

import pytest

from scoring.bootstrap import Difference, Interval
from training.evaluation import report
from training.evaluation.examples import drawn, markdown
from training.evaluation.floors import UNTRANSLATED, first_sentence
from training.evaluation.frontier import BEATEN, BEST, LEGEND, Point, draw
from training.evaluation.references import Item
from training.evaluation.report import Compared, Findings, Floor, Report, Scored, Speed
from training.evaluation.summary import text
from training.markdown import escaped, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("One. Two.", "One.", id="two"),
        pytest.param("No end", "No end", id="none"),
        pytest.param("A net, e.g. BERT. It works.", "A net, e.g. BERT.", id="e.g."),
        pytest.param("As Devlin et al. (2019) show. So.", "As Devlin et al. (2019) show.", id="et al."),
        pytest.param("J. Smith wrote it. Then not.", "J. Smith wrote it.", id="initial"),
        pytest.param("It is 3.5 times faster! Yes.", "It is 3.5 times faster!", id="a number"),
        pytest.param('He said "no." She left.', 'He said "no."', id="quoted"),
        pytest.param("The iOS app vs. others. ok then. End.", "The iOS app vs. others. ok then.", id="a small letter"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_the_first_sentence_ends_where_a_reader_would_say(text: str, expected: str) -> None:
    assert first_sentence(text) == expected


def test_examples_are_drawn_by_seed_and_not_by_what_models_wrote() -> None:
    items = [Item(f"source {place}", (f"reference {place}",)) for place in range(50)]
    one = drawn(items, {"a": ["x"] * 50}, 5, seed=3)
    other = drawn(items, {"b": [f"{place}" for place in range(50)]}, 5, seed=3)

    assert [each.place for each in one] == [each.place for each in other]
    assert [each.place for each in one] != [each.place for each in drawn(items, {}, 5, seed=4)]
    assert all(each.outputs == {"b": str(each.place)} for each in other)
    assert len(drawn(items[:3], {}, 5, seed=3)) == 3


def test_a_hostile_example_stays_text() -> None:
    text = "a | b\n\n# c <script>alert(1)</script> [d](http://e) **f** `g` www.h.org ![i](j) | :-- |"
    item = Item(text, (text,))

    shown = markdown(drawn([item], {"m": [text]}, 1, seed=1), 1)

    rows = shown.splitlines()[2:]
    assert len(rows) == 5
    assert all(row.count("|") == 3 for row in rows)
    assert "<script" not in shown and "](" not in shown and "http://" not in shown and "**f" not in shown
    assert "`" not in shown and "www." not in shown


def test_a_long_example_says_what_is_not_shown() -> None:
    shown = markdown(drawn([Item("word " * 400)], {}, 1, seed=1), 1)

    assert "and 1,400 characters more" in shown


def test_plain_prose_stays_readable() -> None:
    assert escaped("Well-known, e.g. 3 % (see Fig. 2): yes!") == "Well-known, e.g. 3 % (see Fig. 2): yes!"
    assert table(["a|b"], [["c"]]).startswith("| a&#124;b |")


def findings(name: str) -> Findings:
    return Findings(
        name=name,
        speed=Speed([0.5, 1.0], 40.0, 100.0, 100.0),
        load_seconds=1.0,
        shipped_bytes=9_000_000,
        engine_bytes=4_000_000,
        peak_bytes=80_000_000,
        cut=0,
        unfinished=0,
        copied_whole=0.0,
        copied_words=0.1,
        recipe={},
        params={},
        scores={"chrf": Scored(60.0, Interval(50.0, 70.0), "sig")},
        length_ratio=1.0,
    )


def made(floor: str) -> Report:
    clear, unsure = Difference(-3.0, Interval(-5.0, -1.0), 0.041), Difference(-7.7, Interval(-17.1, -0.9), 0.057)
    scores = {"chrf": Scored(20.0, Interval(10.0, 30.0), "sig")}
    return Report(
        data="data.tsv",
        items=30,
        machine="a machine",
        rounds=2,
        samples=100,
        baseline="a",
        shown=("chrf",),
        findings=[findings("a"), findings("b"), findings("c")],
        compared=[
            Compared("b", "a", {"chrf": clear}),
            Compared("c", "a", {"chrf": unsure}),
            Compared("a", floor, {"chrf": clear}),
        ],
        floors=[Floor(floor, scores, 1.0, 1.0, 1.0)],
    )


def test_a_difference_is_clear_where_interval_and_p_value_say_so() -> None:
    shown = report.markdown(made("first sentence"))

    assert "-3.00 (-5.00 to -1.00, p = 0.041, clear)" in shown
    assert "-7.70 (-17.10 to -0.90, p = 0.057)" in shown
    assert "if its interval leaves out 0 and p is below 0.05" in shown


@pytest.mark.parametrize(("floor", "is_compared"), [("first sentence", True), (UNTRANSLATED, False)])
def test_no_model_is_compared_with_no_translation(floor: str, is_compared: bool) -> None:
    shown = report.markdown(made(floor))

    assert (f"Against {floor}:" in shown) is is_compared
    assert f"| {floor} | 20.0 (10.0 to 30.0)" in shown


def test_the_terminal_is_shown_a_line_for_each_model_and_floor() -> None:
    rows = [line.split() for line in text(made("first sentence")).splitlines()]

    assert rows == [
        ["model", "chrF", "items/s", "MB", "memory"],
        *(([name, "60.0", "40.0", "4.0", "80.0"]) for name in "abc"),
        ["first", "sentence", "20.0"],
    ]


def test_the_plot_says_what_its_colours_mean_and_draws_steps(tmp_path: Path) -> None:
    points = [Point("good", 10, 40), Point("fast", 40, 30), Point("beaten", 20, 25)]

    draw(points, "BLEU", "Translation en to de: BLEU against speed", tmp_path)
    both = (tmp_path / "frontier.svg").read_text("utf-8")
    draw(points[:2], "BLEU", "title", tmp_path)
    best = (tmp_path / "frontier.svg").read_text("utf-8")

    assert LEGEND[BEST] in both and LEGEND[BEATEN] in both and "en to de: BLEU against speed" in both
    assert LEGEND[BEST] in best and LEGEND[BEATEN] not in best
    # The line between the two models goes straight down and then across.
    path = re.search(r'<path d="([^"]*)"[^>]*stroke: #9a9a9a', best)
    assert path is not None
    corners = [tuple(map(float, pair)) for pair in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1])]
    assert len(corners) == 3 and corners[0][0] == corners[1][0] and corners[1][1] == corners[2][1]


def test_names_in_the_plot_do_not_cover_each_other(tmp_path: Path) -> None:
    # Two models of nearly the same speed and quality, and two more whose names reach for the same place.
    points = [
        Point("opus-mt-en-de-int8", 30, 45.7, Interval(44.4, 46.9)),
        Point("translation-en-de-balanced", 31, 46.0, Interval(44.8, 47.3)),
        Point("student-without-teacher", 94, 42.1, Interval(40.9, 43.4)),
        Point("translation-balanced", 60, 42.0, Interval(40.8, 43.2)),
    ]

    paths = draw(points, "BLEU", "title", tmp_path)

    picture = paths[0].read_text("utf-8")
    boxes = [_box(picture, point.name) for point in points]
    for (left, right, base), (other_left, other_right, other_base) in combinations(boxes, 2):
        is_apart = right <= other_left or other_right <= left or abs(base - other_base) >= 9
        assert is_apart, boxes
    assert "items per second (log scale)" in picture and "BLEU (higher is better)" in picture
    # Equal figures make equal files.
    draw(points, "BLEU", "title", tmp_path)
    assert paths[0].read_text("utf-8") == picture


@pytest.mark.parametrize("is_lower_better", [True, False])
def test_one_model_alone_is_a_plot_too(tmp_path: Path, is_lower_better: bool) -> None:
    paths = draw([Point("only", 30, 45.7)], "perplexity", "title", tmp_path, is_lower_better)

    assert ">only<" in paths[0].read_text("utf-8")


def _box(picture: str, name: str) -> tuple[float, float, float]:
    """Left, right and base line; letters are taken for rather wide than narrow."""
    found = re.search(rf'text-anchor: (start|end)[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*>{re.escape(name)}<', picture)
    assert found is not None
    at, base, width = float(found[2]), float(found[3]), 6.2 * len(name)
    return (at, at + width, base) if found[1] == "start" else (at - width, at, base)
