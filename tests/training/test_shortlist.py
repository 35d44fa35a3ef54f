"""A lexical shortlist says what outputs may be made of, and CTranslate2 keeps to it."""

import json
from pathlib import Path

import pytest

from models.registry import ModelSpec, Task
from tests import models as tiny
from training.errors import BadSettings, CannotMake
from training.making import shortlist
from training.making.alignment import align
from workers.engines.base import Params, Prompt
from workers.engines.load import open_engine

WORDS = {"the": "der", "lazy": "faule", "dog": "Hund", "fox": "Fuchs", "sleeps": "schläft", "brown": "braune"}


def test_words_that_always_meet_are_translations() -> None:
    pairs = [([1, 2, 3], [11, 12, 13]), ([1, 2], [11, 12]), ([1, 3], [11, 13]), ([2], [12])]

    found = align(pairs)

    assert {source: best[0] for source, best in found.best(1).items() if source > 0} == {1: 11, 2: 12, 3: 13}
    for source in (-1, 1, 2, 3):
        assert found.probability[found.source == source].sum() == pytest.approx(1)


def test_rounds_make_the_pairs_likelier() -> None:
    pairs = [([1, 2], [11, 12]), ([1, 3], [11, 13]), ([2], [12])]

    first, last = (align(pairs, rounds) for rounds in (1, 6))

    def of(found: object, source: int, target: int) -> float:
        return float(found.probability[(found.source == source) & (found.target == target)][0])  # type: ignore[attr-defined]

    assert of(last, 1, 11) > of(first, 1, 11)
    assert of(last, 2, 12) > of(first, 2, 12)


def test_nothing_aligns_to_nothing() -> None:
    assert align([]).best(3) == {}
    assert align([([1], [])]).best(3) == {}


def test_a_shortlist_has_the_likely_the_common_and_the_word_itself() -> None:
    pairs = [(("a", "42"), ("x", "42")), (("a", "b"), ("x", "y")), (("b",), ("y",)), (("a",), ("x",))]

    made = shortlist.shortlist(pairs, best=1, common=1, special=("</s>",))

    assert {"</s>", "x"} <= set(made.always)
    assert made.of["42"] == ("42",)
    assert "y" in made.candidates([("b",)])
    assert "y" not in made.candidates([("42",)])


def test_coverage_counts_tokens_sentences_and_lists() -> None:
    lists = shortlist.Shortlist(("</s>",), {"a": ("x",), "b": ("y", "z")})

    found = shortlist.coverage(lists, [(("a",), ("x", "</s>")), (("b",), ("y", "q"))], batch=2)

    assert found == shortlist.Coverage(2, tokens=0.75, sentences=0.5, candidates=2.5, candidates_of_batch=4)


def test_tokens_the_format_cannot_hold_are_left_out(tmp_path: Path) -> None:
    shortlist.Shortlist(("</s>", "a b"), {"c": ("d", "\n"), "e f": ("g",)}).write(tmp_path / "vmap.txt")

    assert (tmp_path / "vmap.txt").read_text() == "\t</s>\nc\td\n"


def made(kind: str, folder: Path, *more: str) -> Path:
    """The folder of a tiny model with lists made of a few pairs, judged by the same ones."""
    model, pairs = folder / "model", folder / "pairs.tsv"
    model.mkdir()
    getattr(tiny, f"make_{kind}")(model)
    rows = [f"the {word} sleeps\tder {WORDS[word]} schläft\n" for word in ("dog", "fox", "brown", "lazy")]
    pairs.write_text("".join(rows * 3), "utf-8")
    shortlist.main([str(model), str(folder / "out"), "--pairs", str(pairs), "--heldout", str(pairs), *more])
    return folder / "out"


@pytest.mark.parametrize("kind", ["marian", "pegasus", "t5"])
def test_the_lists_are_what_the_engine_says_and_their_cost_is_measured(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = made(kind, tmp_path, "--best", "3", "--common", "2")

    record = json.loads((out / "record.json").read_text())
    assert record["coverage"]["pairs"] == 12
    assert 0.5 < record["coverage"]["tokens"] <= 1
    assert record["coverage"]["candidates"] <= record["coverage"]["candidates_of_batch"]
    assert 0 <= record["cost"]["same_outputs"] <= 1
    for metric in ("bleu", "chrf"):
        assert set(record["cost"][metric]) == {"full", "shortlist", "shortlist_alone"}
    assert min(record["cost"]["seconds"].values()) > 0
    assert "12 held-out pairs" in capsys.readouterr().out
    lists = dict(line.split("\t") for line in (out / "vmap.txt").read_text("utf-8").splitlines())
    # CTranslate2 adds the special ones by itself.
    candidates = {"<unk>", "<s>", "</s>", "<pad>", *(token for each in lists.values() for token in each.split())}
    free, kept = (said(out, is_on, tmp_path) for is_on in (False, True))
    assert kept <= candidates
    assert not free <= candidates


def said(folder: Path, is_on: bool, cache: Path) -> set[str]:
    """The tokens of some outputs, by the engine."""
    options = {"inter_threads": 1, "intra_threads": 1, "batch_tokens": 256, "shortlist": is_on}
    params = Params(max_new_tokens=12, min_new_tokens=12)
    engine = open_engine(ModelSpec("m", Task.TRANSLATION, folder, options=options), cache, "cpu")
    encoded = engine.encode([Prompt("the dog sleeps"), Prompt("the lazy fox")], params)
    found = {str(token) for each in engine.generate(encoded, params, lambda: False) for token in each.tokens}
    engine.close()
    return found


def test_the_folder_is_the_model_with_the_lists(tmp_path: Path) -> None:
    out = made("marian", tmp_path)

    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {path.name for path in out.iterdir()} == {*names, "vmap.txt", "record.json"}
    assert all((out / name).read_bytes() == (tmp_path / "model" / name).read_bytes() for name in names)


def test_special_tokens_are_for_every_batch(tmp_path: Path) -> None:
    out = made("marian", tmp_path)

    always = (out / "vmap.txt").read_text("utf-8").splitlines()[0].removeprefix("\t").split()
    assert {"</s>", "<unk>"} <= set(always)


@pytest.mark.parametrize("kind", ["m2m100", "causal"])
def test_a_model_that_cannot_use_lists_gets_none(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CannotMake, match="no use for a shortlist"):
        made(kind, tmp_path)


def test_every_direction_of_a_recipe_gets_its_lists(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    tiny.make_marian(tmp_path / "model")
    (tmp_path / "pairs.tsv").write_text("".join(f"the {one}\tder {other}\n" for one, other in WORDS.items()) * 3)
    parts = "".join(
        f'[[{side}]]\nfile = "pairs.tsv"\nsource = {source}\ntarget = {1 - source}\ntag = "{tag}"\n'
        for side in ("train", "valid")
        for source, tag in ((0, ">>deu<<"), (1, ">>fra<<"))
    )
    (tmp_path / "recipe.toml").write_text(parts)

    out = tmp_path / "out"
    words = ["--recipe", str(tmp_path / "recipe.toml"), "--data", str(tmp_path), "--best", "2", "--common", "1"]
    shortlist.main([str(tmp_path / "model"), str(out), *words])

    lists = dict(line.split("\t") for line in (out / "vmap.txt").read_text("utf-8").splitlines())
    assert {"", "▁the", "▁d"} <= set(lists)
    assert json.loads((out / "record.json").read_text())["coverage"]["pairs"] == 36


@pytest.mark.parametrize("words", [[], ["--pairs", "p.tsv", "--recipe", "r.toml"]], ids=["neither", "both"])
def test_pairs_come_from_one_place(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="either --pairs or --recipe"):
        shortlist.main(["model", str(tmp_path / "out"), *words])


def test_a_file_without_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = tiny.make_marian(tmp_path / "model")
    (tmp_path / "pairs.tsv").write_text("")

    with pytest.raises(CannotMake, match="no pairs"):
        shortlist.main([str(model), str(tmp_path / "out"), "--pairs", str(tmp_path / "pairs.tsv")])


def test_lists_are_of_all_of_a_file_and_not_of_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = tiny.make_marian(tmp_path / "model")
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("the\tder\n" * 50 + "the dog sleeps\tder Hund\n" * 50)

    made = shortlist.Spelling(model).pairs(shortlist.Part("pairs.tsv", 0, 1), tmp_path, 10)

    assert len(made) == 10
    assert len({source for source, _ in made}) == 2


def test_long_pairs_are_read_as_far_as_memory_goes() -> None:
    pairs = [(("a",) * 9, ("b",) * 10)] * 50

    # A hundred meetings each, the empty source's among them.
    assert len(shortlist.affordable(pairs, 1000)) == 10
    assert shortlist.affordable(pairs, 10_000) == pairs
