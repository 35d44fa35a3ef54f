"""Training from recipes: what is learned, what is kept, and that stopping changes nothing."""

import itertools
import json
import random
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file

from models.registry import EngineKind, ModelSpec, Task
from tests.training.tiny import ENGLISH, causal_recipe, finetune_recipe, marian_recipe, write_data
from training import train
from training.bytepairs import BytePairs
from training.causal import CausalTask, pack
from training.loop import Run
from training.recipe import load
from training.train import task_of
from workers.engines.base import Params, Prompt
from workers.engines.load import open_engine

MAKERS = {"marian": marian_recipe, "causal": causal_recipe}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_data(tmp_path_factory.mktemp("data"))


def new_run(recipe: Path, data: Path, out: Path) -> Run:
    """The run as the command makes it each time it is called."""
    loaded = load(recipe)
    return Run(loaded, task_of(loaded, data, out), out)


@pytest.fixture(scope="module", params=list(MAKERS))
def trained(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The out folder of a training that has ended, long enough to have learned something."""
    out = tmp_path_factory.mktemp(request.param)
    recipe = MAKERS[request.param](out, steps=150)
    train.main([str(recipe), "--data", str(data), "--out", str(out / "out"), "--threads", "1"])
    return out / "out"


def scores(out: Path) -> list[float]:
    return [json.loads(line)["scores"][0] for line in (out / "curve.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_run_taken_up_again_equals_an_unbroken_one(kind: str, data: Path, tmp_path: Path) -> None:
    recipe = MAKERS[kind](tmp_path, steps=6)
    unbroken = new_run(recipe, data, tmp_path / "unbroken")
    assert unbroken.train()

    broken = new_run(recipe, data, tmp_path / "broken")
    stops = 0
    while not broken.train(minutes=0):
        # Other random numbers in between, as another process would have.
        torch.rand(stops)
        broken = new_run(recipe, data, tmp_path / "broken")
        stops += 1

    assert stops > 6
    assert broken.progress.step == unbroken.progress.step == 10
    for one, other in zip(unbroken.model.parameters(), broken.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_without_random_numbers_is_taken_up_as_well(data: Path, tmp_path: Path) -> None:
    recipe = marian_recipe(tmp_path)
    new_run(recipe, data, tmp_path / "out").train(minutes=0)
    for path in (tmp_path / "out" / "checkpoints").glob("random-*"):
        path.unlink()

    again = new_run(recipe, data, tmp_path / "out")

    assert again.progress.step == 1
    assert again.train()


def test_the_validation_score_rises(trained: Path) -> None:
    found = scores(trained)

    # Both are negative: a loss, or a perplexity, with a minus.
    assert found[-1] > found[0] / 2


def test_the_written_folder_has_half_precision_and_a_record(trained: Path) -> None:
    weights = load_file(trained / "model" / "model.safetensors")
    record = json.loads((trained / "model" / "record.json").read_text())

    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert record["steps"] == 154
    assert set(record["scores"]) == {"last", "average"}
    assert all(len(digest) == 64 for digest in record["data"].values())
    assert record["seconds"] > 0


def test_both_engines_continue_alike(trained: Path, tmp_path: Path) -> None:
    is_marian = (trained / "model" / "source.spm").exists()
    if is_marian:
        texts = [f">>de<< {ENGLISH[place]} {ENGLISH[-place]}" for place in range(1, 9)]
    else:
        texts = [f"Title: {ENGLISH[place]} {ENGLISH[-place]}\nAbstract:" for place in range(1, 9)]
    params = Params(max_new_tokens=8)
    made = {}
    for engine in (EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS):
        spec = ModelSpec(
            "tiny",
            Task.TRANSLATION if is_marian else Task.GENERATION,
            trained / "model",
            engine,
            quantization="float32",
            options={"batch_tokens": 512}
            | ({"inter_threads": 1, "intra_threads": 1} if engine is EngineKind.CTRANSLATE2 else {}),
        )
        opened = open_engine(spec, tmp_path, "cpu")
        encoded = opened.encode([Prompt(text) for text in texts], params)
        found = sorted(opened.generate(encoded, params, lambda: False), key=lambda each: each.index)
        made[engine] = (
            [len(each) for each in encoded],
            opened.decode(found, params),
            [len(each.tokens) for each in found],
        )
        opened.close()

    assert made[EngineKind.CTRANSLATE2] == made[EngineKind.TRANSFORMERS]
    assert any(made[EngineKind.CTRANSLATE2][1])


def test_the_pad_row_of_a_marian_model_stays_zero(data: Path, tmp_path: Path) -> None:
    run = new_run(marian_recipe(tmp_path, steps=6), data, tmp_path / "out")
    pad = run.model.config.pad_token_id

    while not run.train(minutes=0):
        assert not run.model.model.shared.weight[pad].any()
    folder = run.finish()

    weights = load_file(folder / "model.safetensors")
    assert not weights["model.shared.weight"][pad].any()
    assert weights["model.shared.weight"][:pad].any(1).all()


def test_long_sources_are_cut_and_keep_their_end(data: Path, tmp_path: Path) -> None:
    loaded = load(marian_recipe(tmp_path, settings="source_tokens = 4"))
    task = task_of(loaded, data, tmp_path / "out")

    found = [task.data.pairs[place][0] for place in range(20)]  # type: ignore[attr-defined]

    assert all(len(source) <= 4 and source[-1] == 0 for source in found)
    assert task.facts()["cut"] > 0
    assert task.facts()["left_out"] == 0


def test_packing_predicts_every_token_once() -> None:
    texts = [numpy.array([0, *range(start, start + 5)], numpy.int32) for start in (10, 20, 30)]

    blocks = pack(texts, 6, random.Random(1))

    predicted = [token for block in blocks for token in block[1:].tolist()]
    assert sorted(predicted) == sorted([*range(10, 15), *range(20, 25), *range(30, 35), 0, 0, 0])
    assert all(one[-1] == other[0] for one, other in itertools.pairwise(blocks))


def test_any_text_survives_the_byte_level_vocabulary(data: Path, tmp_path: Path) -> None:
    task = CausalTask(load(causal_recipe(tmp_path)), data, tmp_path / "out")  # type: ignore[arg-type]
    text = "Émile writes 日本語 \N{GRINNING FACE}\n  and spaces "

    ids = task.vocabulary.encode([text])[0]

    assert ids[0] == 0
    assert BytePairs(tmp_path / "out" / "vocabulary").decode(ids[1:]) == text


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", count=30)
    recipe = marian_recipe(tmp_path, settings="").read_text().replace("max_tokens = 40", "max_tokens = 1")
    (tmp_path / "none.toml").write_text(recipe)

    run = new_run(tmp_path / "none.toml", data, tmp_path / "out")

    with pytest.raises(ValueError, match="nothing to train on"):
        run.train()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param('kind = "bert"', "no kind is called 'bert'", id="kind"),
        pytest.param("[pace]\nspeed = 1", "unknown in pace: speed", id="key"),
        pytest.param('kind = "causal"\nmax_tokens = 1', "unknown in causalrecipe: max_tokens", id="other kind's key"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)

    with pytest.raises(ValueError, match=reason):
        load(tmp_path / "bad.toml")


@pytest.mark.parametrize("name", ["translation", "summarization", "generation"])
def test_the_recipes_that_come_with_bushel_can_be_read(name: str) -> None:
    recipe = load(Path(train.__file__).parent / "recipes" / f"{name}.toml")

    assert recipe.name == name
    assert recipe.train and recipe.valid


def test_finetuning_asks_for_a_folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main([str(finetune_recipe(tmp_path)), "--data", str(data), "--out", str(tmp_path / "out")])

    assert "name it with --model" in capsys.readouterr().err
