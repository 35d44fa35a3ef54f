"""What training files may hold, and what of them is looked at."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.tiny import ENGLISH as WORDS
from tests.training.tiny import causal_recipe, marian_recipe, write_data
from training.errors import BadData, BadRecipe
from training.learning.marian_task import MarianTask
from training.learning.train import task_of
from training.pairs import Pair, Part
from training.recipe import load
from training.spread import spread
from training.texts import Source


def test_only_a_newline_ends_a_line_and_a_mark_at_the_beginning_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("\ufeffone\teins\r\ntwo\rthree\u2028four\tzwei\n".encode())

    found = list(Part("a.tsv", 0, 1).read(tmp_path))

    assert found == [Pair("one", "eins"), Pair("two\rthree\u2028four", "zwei")]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("a.tsv", b"a\tb\n\xff\tb\n", ":2 is not UTF-8", id="not UTF-8"),
        pytest.param("a.tsv.gz", gzip.compress(b"a\tb\n" * 99)[:-9], "cannot be read on", id="broken off"),
        pytest.param("a.tsv.xz", b"a\tb\n", ":1 cannot be read on", id="not compressed"),
        pytest.param("a.tsv", b"a\n", ":1 has 1 column; column 1 is asked for", id="too few columns"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(BadData, match=reason):
        list(Part(name, 0, 1).read(tmp_path))


@pytest.mark.parametrize("row", [{"source": "a", "target": 3}, {"source": ["a"], "target": "b"}, ["a", "b"], "ab"])
def test_json_lines_hold_texts(tmp_path: Path, row: object) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")

    with pytest.raises(BadData, match=r"a\.jsonl:1\b"):
        list(Part("a.jsonl", "source", "target").read(tmp_path))


def test_null_is_no_text(tmp_path: Path) -> None:
    rows = [{"source": "a", "target": None}, {"source": "b", "target": "c"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert list(Part("a.jsonl", "source", "target").read(tmp_path)) == [Pair("b", "c")]
    with pytest.raises(BadData, match=r"a\.jsonl:1 does not fill"):
        list(Source("a.jsonl", "{source}: {target}").read(tmp_path))


def test_what_is_looked_at_is_spread_over_all() -> None:
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread([], 4) == []


def test_validation_is_not_of_the_shortest_alone(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    # Sorted by length, as files of pairs often are.
    pairs = [" ".join(WORDS[(place + more) % 20] for more in range(1 + place // 100)) for place in range(1000)]
    (data / "pairs.tsv").write_text("".join(f"{text}\t{text}\n" for text in pairs))

    task = MarianTask(load(marian_recipe(tmp_path, pieces=40)), data, tmp_path / "out")  # type: ignore[arg-type]

    looked_at = [len(source) for source, _ in task.valid[0].pairs]
    assert len(looked_at) == 250
    assert sum(looked_at) / 250 == pytest.approx(sum(len(s) for s, _ in task.data.pairs) / 1000, rel=0.05)


@pytest.mark.parametrize("make", [marian_recipe, causal_recipe])
def test_a_validation_file_with_nothing_in_it_is_found_out_at_once(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data")
    recipe = make(tmp_path)
    head, valid = recipe.read_text().split("[[valid]]")
    (data / "none.tsv").touch()
    valid = valid.replace("pairs.tsv", "none.tsv").replace("texts.jsonl.gz", "none.tsv")
    recipe.write_text(f"{head}[[valid]]{valid}")

    with pytest.raises(BadData, match=r"none\.tsv has nothing to judge by"):
        task_of(load(recipe), data, tmp_path / "out")


def test_a_vocabulary_larger_than_its_texts_is_told(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", count=10)

    with pytest.raises(BadRecipe, match=r"pieces = 5000: .*too high"):
        task_of(load(marian_recipe(tmp_path, pieces=5000)), data, tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "source", "target", "reason"),
    [
        pytest.param("a\tb", 0, 7, r"1 has 2 columns; column 7 is asked for \(counted from 0\)", id="column"),
        pytest.param('{"src": "a"}', "source", "src", "1 has no 'source'; it has 'src'", id="key"),
        pytest.param("a\tb", "source", "target", "1 is no JSON", id="a table with keys"),
        pytest.param("[1]", "source", "target", "1 is no JSON object, and 'source' and 'target'", id="a list"),
        pytest.param("a\tb", 0, "target", "must be the number of a column, and not 'target'", id="both kinds"),
    ],
)
def test_what_a_row_lacks_is_told(line: str, source: int | str, target: int | str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(line + "\n")

    with pytest.raises(BadData, match=reason):
        list(Part("a", source, target).read(tmp_path))
