"""Training from recipes: what is learned, what is kept, and that stopping changes nothing."""

import itertools
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file

from models.registry import EngineKind, ModelSpec, Task
from tests.training.tiny import ENGLISH, GERMAN, causal_recipe, finetune_recipe, marian_recipe, write_data
from training.errors import AlreadyTrained, BadData, BadRecipe, BadSettings, OtherTraining
from training.learning import train
from training.learning.bytepairs import BytePairs
from training.learning.causal import CausalTask, pack
from training.learning.checkpoints import Checkpoints, Progress, average
from training.learning.curve import Curve
from training.learning.loop import Run
from training.learning.train import task_of
from training.recipe import load
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
    return [line["scores"][0] for line in curve(out) if "scores" in line]


def curve(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


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
    (data / "valid.tsv").write_text("one\teins\n")
    long = [" ".join(words * 3) for words in (ENGLISH, GERMAN)]
    (data / "pairs.tsv").write_text("\t".join(long) + "\n")
    head, valid = marian_recipe(tmp_path, pieces=40).read_text().split("[[valid]]")
    (tmp_path / "none.toml").write_text(f"{head}[[valid]]{valid.replace('pairs.tsv', 'valid.tsv')}")

    run = new_run(tmp_path / "none.toml", data, tmp_path / "out")

    with pytest.raises(BadData, match="nothing to train on"):
        run.train()


PART = '[[train]]\nfile = "a.tsv"\nsource = 0\ntarget = 1\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param('kind = "bert"', "no kind is called 'bert'", id="kind"),
        pytest.param("[pace]\nspeed = 1", "unknown in pace: speed", id="key"),
        pytest.param('kind = "causal"\nmax_tokens = 1', "unknown in causalrecipe: max_tokens", id="other kind's key"),
        pytest.param('metric = "bleu"', "no metric is called 'bleu'; there are chrf, rouge, loss", id="metric"),
        pytest.param(PART, "has no [[valid]]", id="no validation"),
        pytest.param('pieces = "many"', "pieces is 'many'; it must be int", id="type"),
        pytest.param("[pace]\nwarm_up = 0", "warm_up must be above 0", id="no warm-up"),
        pytest.param('[pace]\noptimizer = "sgd"', "no optimizer is called 'sgd'", id="optimizer"),
        pytest.param('kind = "finetune"\nkl = 2', "kl must be from 0 to 1", id="kl"),
        pytest.param("train = 3", "train must be tables", id="no tables"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)

    with pytest.raises(BadRecipe, match=re.escape(reason)):
        load(tmp_path / "bad.toml")


@pytest.mark.parametrize("name", ["translation", "summarization", "generation"])
def test_the_recipes_that_come_with_bushel_can_be_read(name: str) -> None:
    recipe = load(Path(train.__file__).parents[1] / "recipes" / f"{name}.toml")

    assert recipe.name == name
    assert recipe.train and recipe.valid


def test_finetuning_asks_for_a_folder(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="name it with --model"):
        train.main([str(finetune_recipe(tmp_path)), "--data", str(data), "--out", str(tmp_path / "out")])


# A rate of nothing: no validation is better than the first.
STANDSTILL = "patience = 3\nvalidate_every = 2\nrate = 0.0"


def standstill(folder: Path, steps: int = 100) -> Path:
    path = marian_recipe(folder, steps)
    text = path.read_text().replace("rate = 5e-3", "").replace("validate_every = 8", STANDSTILL)
    path.write_text(text)
    return path


def test_without_progress_the_decay_begins_and_runs_to_its_end(data: Path, tmp_path: Path) -> None:
    run = new_run(standstill(tmp_path), data, tmp_path / "out")

    assert run.train()

    # The first validation is at step 2, the third after it at step 8; four steps of decay.
    assert (run.progress.decay_from, run.progress.step) == (8, 12)
    said = curve(tmp_path / "out")
    assert [line["since_best"] for line in said if line["what"] == "running"] == [0, 1, 2, 3, 4, 5]
    (decay,) = [line for line in said if line["what"] == "decay"]
    assert (decay["step"], decay["why"]) == (8, "no better for 3 validations")


def test_patience_is_remembered_over_a_stop(data: Path, tmp_path: Path) -> None:
    recipe, out = standstill(tmp_path), tmp_path / "out"
    run = new_run(recipe, data, out)
    while not run.train(minutes=0):
        run = new_run(recipe, data, out)

    assert (run.progress.decay_from, run.progress.step) == (8, 12)


def test_what_was_validated_after_the_checkpoint_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    lines = [(2, 1.0), (4, 5.0), (6, 2.0), (4, 3.0), (8, 9.0)]
    path.write_text("".join(json.dumps({"what": "running", "step": step, "scores": [s]}) + "\n" for step, s in lines))

    assert Curve(path, 6).since_best == 1
    assert Curve(path, 8).since_best == 0
    assert Curve(tmp_path / "none.jsonl", 8).since_best == 0


def test_without_patience_a_standstill_goes_on(data: Path, tmp_path: Path) -> None:
    recipe = standstill(tmp_path, steps=10)
    recipe.write_text(recipe.read_text().replace("patience = 3", "patience = 0"))
    run = new_run(recipe, data, tmp_path / "out")

    assert run.train()

    assert run.progress.decay_from == 10


def test_a_training_that_has_ended_is_left_alone(data: Path, tmp_path: Path) -> None:
    words = [str(marian_recipe(tmp_path)), "--data", str(data), "--out", str(tmp_path / "out"), "--threads", "1"]
    train.main(words)
    written, before = (tmp_path / "out" / "model" / "record.json").stat().st_mtime_ns, curve(tmp_path / "out")

    with pytest.raises(AlreadyTrained, match="name another --out"):
        train.main(words)

    assert (tmp_path / "out" / "model" / "record.json").stat().st_mtime_ns == written
    assert not (tmp_path / "out" / "model.unfinished").exists()
    assert curve(tmp_path / "out") == before


def test_the_options_may_come_from_a_file(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f'recipe = "{marian_recipe(tmp_path)}"\ndata = "{data}"\nout = "{tmp_path / "out"}"\nseed = 4\nfinish = true\n'
    )

    train.main(["--config", str(config), "--seed", "5", "--threads", "1"])

    record = json.loads((tmp_path / "out" / "model" / "record.json").read_text())
    assert (record["recipe"]["seed"], record["steps"]) == (5, 4)


def test_the_average_is_that_of_the_weights_as_they_were(tmp_path: Path) -> None:
    layer, kept = torch.nn.Linear(3, 3, bias=False), Checkpoints(tmp_path)
    optimizer = torch.optim.AdamW(layer.parameters())
    for step, value in enumerate((1.001, 1.003), start=1):
        layer.weight.data.fill_(value)
        kept.save(layer, optimizer, Progress(step=step))

    found = average(kept.steps())["weight"]

    torch.testing.assert_close(found, torch.full((3, 3), 1.002), rtol=1e-6, atol=0)


@pytest.mark.parametrize("is_ended", [False, True])
def test_another_recipe_does_not_go_on_with_a_training(is_ended: bool, data: Path, tmp_path: Path) -> None:
    words = [str(marian_recipe(tmp_path)), "--data", str(data), "--out", str(tmp_path / "out"), "--threads", "1"]
    train.main([*words, *([] if is_ended else ["--minutes", "0"])])
    before = (tmp_path / "out" / "record.json").read_bytes()

    with pytest.raises(OtherTraining, match="seed"):
        train.main([*words, "--seed", "7"])

    assert (tmp_path / "out" / "record.json").read_bytes() == before


def test_other_data_do_not_go_on_with_a_training(data: Path, tmp_path: Path) -> None:
    recipe = marian_recipe(tmp_path)
    new_run(recipe, data, tmp_path / "out").train(minutes=0)
    other = write_data(tmp_path / "data", count=100)

    with pytest.raises(OtherTraining, match="data"):
        new_run(recipe, other, tmp_path / "out")


def test_the_pace_of_a_training_may_change(data: Path, tmp_path: Path) -> None:
    new_run(marian_recipe(tmp_path), data, tmp_path / "out").train(minutes=0)

    again = new_run(marian_recipe(tmp_path, steps=3), data, tmp_path / "out")

    assert again.train()
    assert again.progress.step == 7


def test_a_teacher_without_a_part_in_the_loss_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = load(finetune_recipe(tmp_path))

    with pytest.raises(BadSettings, match="kl"):
        task_of(recipe, data, tmp_path / "out", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        pytest.param('"pairs.tsv"', '"nope.tsv"', r"the file of its \[\[train\]\], nope.tsv, is not in", id="file"),
        pytest.param("target = 1", "target = 7", r"pairs.tsv:1 has 2 columns; column 7 is asked for", id="column"),
        pytest.param("pieces = 64", "pieces = 9000", "too high", id="found out later"),
    ],
)  # fmt: skip
def test_data_that_are_not_there_leave_nothing_behind(
    old: str, new: str, reason: str, data: Path, tmp_path: Path
) -> None:
    recipe = marian_recipe(tmp_path)
    recipe.write_text(recipe.read_text().replace(old, new))

    with pytest.raises((BadData, BadRecipe), match=reason):
        train.main([str(recipe), "--data", str(data), "--out", str(tmp_path / "out")])

    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there_is_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"the recipe .*no.toml cannot be read: No such file"):
        train.main([str(tmp_path / "no.toml"), "--data", str(data), "--out", str(tmp_path / "out")])


def test_the_process_it_was_called_in_keeps_its_arithmetic(trained: Path) -> None:
    assert sys.float_info.min / 2 > 0
    assert float(torch.full((1,), torch.finfo(torch.float32).tiny) / 2) > 0


def test_the_log_says_what_happens_and_nothing_else(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = marian_recipe(tmp_path, steps=8)
    caplog.set_level("INFO", "training")

    train.main([str(recipe), "--data", str(data), "--out", str(tmp_path / "out"), "--threads", "1"])

    lines = [record.getMessage() for record in caplog.records]
    assert "step 8: max_steps (8) reached: the rate now decays for 4 steps" in lines
    assert any(re.fullmatch(r"step 8: loss \d\.\d{3} \(pairs\.tsv\)", line) for line in lines)
    assert re.fullmatch(
        r"written to .*model: the (last checkpoint|average of the last checkpoints) with loss \d\.\d{3} "
        r"\(the (average of the last checkpoints|last checkpoint): \d\.\d{3}\)",
        lines[-1],
    )
    assert "shards" not in capfd.readouterr().err
