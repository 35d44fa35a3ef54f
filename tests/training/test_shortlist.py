"""A lexical shortlist says what outputs may be made of, and CTranslate2 keeps to it."""

import json
from pathlib import Path

import ctranslate2
import pytest

from tests import models as tiny
from training import shortlist
from training.alignment import align
from training.making import CannotMake

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


@pytest.mark.parametrize("kind", ["marian", "m2m100", "bart", "t5"])
def test_ctranslate2_says_only_what_is_on_the_list(kind: str, tmp_path: Path) -> None:
    model, out, pairs = tmp_path / "model", tmp_path / "out", tmp_path / "pairs.tsv"
    model.mkdir()
    getattr(tiny, f"make_{kind}")(model)
    rows = [f"the {word} sleeps\tder {WORDS[word]} schläft\n" for word in ("dog", "fox", "brown", "lazy")]
    pairs.write_text("".join(rows * 3), "utf-8")

    shortlist.main(
        [str(model), str(out), "--pairs", str(pairs), "--heldout", str(pairs), "--best", "3", "--common", "2"]
    )

    record = json.loads((out / "record.json").read_text())
    assert record["coverage"]["pairs"] == 12
    assert 0.5 < record["coverage"]["tokens"] <= 1
    assert record["coverage"]["candidates"] <= record["coverage"]["candidates_of_batch"]
    assert 0 <= record["cost"]["same_outputs"] <= 1
    spelling = shortlist.Spelling(model)
    (source, _), *_ = spelling.pairs(shortlist.Part(str(pairs), 0, 1), Path(), 1)
    lists = dict(line.split("\t") for line in (out / "vmap.txt").read_text("utf-8").splitlines())
    candidates = {each for token in ("", *source) for each in lists.get(token, "").split()}
    # CTranslate2 adds the special ones by itself.
    candidates |= {"<unk>", "<s>", "</s>"}
    translator = ctranslate2.Translator(str(out))
    options = {"beam_size": 1, "max_decoding_length": 12, "min_decoding_length": 8}
    free, kept = (translator.translate_batch([source], use_vmap=on, **options)[0].hypotheses[0] for on in (False, True))
    assert set(kept) <= candidates
    assert not set(free) <= candidates


def test_a_file_without_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = tiny.make_marian(tmp_path / "model")
    (tmp_path / "pairs.tsv").write_text("")

    with pytest.raises(CannotMake, match="no pairs"):
        shortlist.main([str(model), str(tmp_path / "out"), "--pairs", str(tmp_path / "pairs.tsv")])
