"""The CTranslate2 engine says only what a model's lexical shortlist allows, if the model's entry asks for it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from models.registry import ModelSpec
from tests.engines.conftest import SETTINGS, Bench, generated, languages
from workers.engines.base import Engine, Generation, ModelUnavailable, Params, Prompt
from workers.engines.load import open_engine

TEXTS = ["the quick brown fox", "we translate text by the file", "how much wood"]
# CTranslate2 lets these be said in any case.
ALWAYS = {"<s>", "</s>", "<unk>", "<pad>"}
SOME, OTHERS = ("▁a", "er"), ("▁or", "▁long")
LISTS = {"▁short": SOME, "▁text": OTHERS}


def listed(
    bench: Bench, kind: str, folder: Path, lists: Mapping[str, tuple[str, ...]], is_on: bool = True
) -> ModelSpec:
    """The tiny model with a shortlist; the list of "" is for every input."""
    if not folder.is_dir():
        shutil.copytree(bench.spec(kind).source, folder)
    (folder / "vmap.txt").write_text("".join(f"{token}\t{' '.join(said)}\n" for token, said in lists.items()), "utf-8")
    return replace(bench.spec(kind), source=folder, options={**SETTINGS, "shortlist": is_on})


def opened(spec: ModelSpec, cache: Path) -> Engine:
    return open_engine(spec, cache, "cpu")


def made(engine: Engine, spec: ModelSpec, texts: list[str], **changes: object) -> list[Generation]:
    params = replace(Params(max_new_tokens=8, min_new_tokens=8, **languages(spec)), **changes)
    return generated(engine, engine.encode([Prompt(text) for text in texts], params), params)


def said(generations: list[Generation]) -> set[object]:
    return {token for each in generations for token in each.tokens} - ALWAYS


@pytest.mark.parametrize("changes", [{}, {"num_beams": 3}, {"temperature": 1.5}], ids=["greedy", "beams", "sampled"])
@pytest.mark.parametrize("kind", ["marian", "t5", "pegasus"])
def test_outputs_are_made_of_what_is_listed(
    bench: Bench, kind: str, changes: dict[str, object], tmp_path: Path
) -> None:
    vocabulary = bench.open(kind)._tokens.plain  # type: ignore[attr-defined]
    allowed = tuple(token for token in vocabulary if token.isalpha())[:6]
    spec = listed(bench, kind, tmp_path / "model", {"": allowed})
    engine = opened(spec, tmp_path)

    kept, free = made(engine, spec, TEXTS, **changes), made(bench.open(kind), spec, TEXTS, **changes)

    assert said(kept) <= set(allowed)
    assert not said(free) <= set(allowed)
    engine.close()


def test_a_list_is_for_its_token_alone(bench: Bench, tmp_path: Path) -> None:
    spec = listed(bench, "marian", tmp_path / "model", LISTS)
    engine = opened(spec, tmp_path)

    one, other = (
        made(engine, spec, [text], temperature=5.0, max_new_tokens=60, min_new_tokens=60) for text in ("short", "text")
    )

    assert said(one) == set(SOME) and said(other) == set(OTHERS)
    engine.close()


def test_candidates_of_a_batch_are_put_together(bench: Bench, tmp_path: Path) -> None:
    """The one exception to outputs that do not depend on their batch-mates, and why the option is off by default."""
    spec = listed(bench, "marian", tmp_path / "model", LISTS)
    engine = opened(spec, tmp_path)

    together = made(engine, spec, ["short", "text"], temperature=5.0, max_new_tokens=60, min_new_tokens=60)

    assert [said([each]) for each in together] == [{*SOME, *OTHERS}] * 2
    engine.close()


@pytest.mark.parametrize("kind", ["marian", "marian-start", "t5", "pegasus"])
def test_batches_with_other_candidates_follow_each_other(bench: Bench, kind: str, tmp_path: Path) -> None:
    """What CTranslate2 gets wrong where tokens are forced."""
    spec = listed(bench, kind, tmp_path / "model", LISTS)
    engine = opened(spec, tmp_path)

    for _ in range(10):
        one, other = (made(engine, spec, [text]) for text in ("short", "text"))
        assert said(one) <= set(SOME) and said(other) <= set(OTHERS)
    engine.close()


def test_without_the_option_the_file_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    spec = listed(bench, "marian", tmp_path / "model", {"": SOME}, is_on=False)
    engine = opened(spec, tmp_path)

    assert made(engine, spec, TEXTS) == made(bench.open("marian"), spec, TEXTS)
    assert "shortlist" not in engine.recipe.details
    engine.close()


def test_a_list_has_a_conversion_of_its_own_and_a_changed_list_another(bench: Bench, tmp_path: Path) -> None:
    recipes = []
    for lists, is_on in (({"": SOME}, False), ({"": SOME}, True), ({"": OTHERS}, True), ({"": SOME}, True)):
        spec = listed(bench, "marian", tmp_path / "model", lists, is_on)
        engine = opened(spec, tmp_path)
        recipes.append(engine.recipe)
        engine.close()

    folders = [path for path in (tmp_path / "ctranslate2").iterdir() if path.is_dir()]
    digests = [recipe.details.get("shortlist") for recipe in recipes]
    assert len(folders) == 3
    assert digests[0] is None and digests[1] == digests[3] != digests[2]
    assert len(str(digests[1])) == 64


def test_threads_are_calibrated_with_the_list(bench: Bench, tmp_path: Path) -> None:
    spec = replace(listed(bench, "marian", tmp_path / "model", {"": SOME}), options={"shortlist": True})
    engine = opened(spec, tmp_path)
    engine.close()

    (stored,) = (tmp_path / "ctranslate2").glob("*/calibration.json")
    assert json.loads(stored.read_text("utf-8"))


def test_a_missing_list_says_what_to_do(bench: Bench, tmp_path: Path) -> None:
    spec = bench.spec("marian", options={**SETTINGS, "shortlist": True})

    with pytest.raises(ModelUnavailable, match=r"has no vmap\.txt; make one with `bushel models shortlist`"):
        opened(spec, tmp_path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        pytest.param("llama", "goes on from its input", id="no encoder"),
        pytest.param("m2m100", "begins every output with a forced token", id="forced language"),
    ],
)
def test_a_model_that_cannot_use_a_list_is_refused(bench: Bench, kind: str, reason: str, tmp_path: Path) -> None:
    spec = bench.spec(kind, options={**SETTINGS, "shortlist": True})

    with pytest.raises(ModelUnavailable, match=rf"{reason}.*remove options\.shortlist"):
        opened(spec, tmp_path)
