"""Students: what they take from a teacher's layers, and what they learn from its answers."""

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from api.config import APISettings
from cli.access import Target
from cli.client import Client
from models.registry import load as load_registry
from tests import models as tiny
from tests.conftest import LiveAPI, served
from tests.ledger import Ledger
from tests.training.tiny import causal_recipe, finetune_recipe, marian_recipe, write_data
from tests.working import AnsweredDoorbell, working
from training.errors import BadSettings, CannotMake
from training.folders import open_model, write_model
from training.learning import distil
from training.learning.bytepairs import BytePairs
from training.learning.distil import Asked, Lessons, NoLessons, best
from training.learning.finetune import FinetuneTask
from training.learning.loop import Run
from training.learning.teacher import divergence
from training.learning.train import task_of
from training.making import students
from training.making.drop_layers import spaced
from training.making.students import anew, make_student, select_layers
from training.pairs import Part
from training.recipe import load

TEACHER = """
[models.teacher]
task = "translation"
source = "."
engine = "echo"
default = true

[models.scorer]
task = "translation"
source = "."
engine = "echo"
options = { scores = true }
"""
MAKERS: dict[str, Callable[[Path], Path]] = {
    "marian": tiny.make_marian,
    "t5": tiny.make_t5,
    "bart": tiny.make_bart,
    "m2m100": tiny.make_m2m100,
    "pegasus": tiny.make_pegasus,
    "llama": tiny.make_causal,
    "qwen2": partial(tiny.make_causal, kind="qwen2"),
    "gpt2": partial(tiny.make_causal, kind="gpt2"),
}
LANGUAGES = 'source_lang = "en"\ntarget_lang = "de"'


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("teachers")

    def made(kind: str) -> Path:
        if not (root / kind).is_dir():
            (root / kind).mkdir()
            MAKERS[kind](root / kind)
        return root / kind

    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), count=80)


@pytest.fixture
def server(settings: APISettings, ledger: Ledger, tmp_path: Path) -> Iterator[LiveAPI]:
    """The service, with a worker that answers what it is asked."""
    registry = tmp_path / "teachers.toml"
    registry.write_text(TEACHER)
    bell = AnsweredDoorbell()
    with (
        working(ledger, bell, load_registry([registry])),
        served(settings.model_copy(update={"registry": registry}), bell) as api,
    ):
        yield api


@pytest.fixture
def teacher(server: LiveAPI, key: str) -> Iterator[Client]:
    with Client(server.url, key) as client:
        yield client


def outputs(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    with torch.inference_mode():
        logits: torch.Tensor = model(**inputs).logits
    return logits


@pytest.mark.parametrize("kind", list(MAKERS))
def test_keeping_every_layer_keeps_the_model(kind: str, folders: Callable[[str], Path]) -> None:
    teacher = open_model(folders(kind))

    student = select_layers(teacher, {side: [0, 1] for side in students.layers_of(teacher.config)})

    assert torch.equal(outputs(student), outputs(teacher))


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_student_has_its_teachers_chosen_layers(kind: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folders(kind)
    sides = list(students.layers_of(open_model(folder).config))
    last = sides[-1]

    out = make_student(folder, tmp_path / "student", {last: 1})

    teacher, student = open_model(folder), open_model(out)
    assert student.num_parameters() < teacher.num_parameters()
    assert students.layers_of(student.config) == {side: 1 if side == last else 2 for side in sides}
    theirs = teacher.state_dict()
    for name, value in student.state_dict().items():
        # It is written in half precision, but for the positions of some, which are computed and not written.
        assert "embed_positions" in name or torch.equal(value, theirs[name].half().float()), name
    assert outputs(student).isfinite().all()
    assert json.loads((out / "record.json").read_text())["layers"][last] == [0]


def test_layers_are_taken_from_where_they_were(folders: Callable[[str], Path]) -> None:
    wide = anew(open_model(folders("marian")), {"encoder_layers": 6, "decoder_layers": 3})

    student = select_layers(wide, {"encoder": spaced(6, 3), "decoder": spaced(3, 2)})

    theirs, own = wide.state_dict(), student.state_dict()
    weight = "model.{}.layers.{}.self_attn.q_proj.weight"
    for side, old, new in (
        ("encoder", 0, 0), ("encoder", 2, 1), ("encoder", 5, 2), ("decoder", 0, 0), ("decoder", 2, 1)
    ):  # fmt: skip
        assert torch.equal(own[weight.format(side, new)], theirs[weight.format(side, old)])


def test_a_student_made_anew_has_other_sizes(folders: Callable[[str], Path], tmp_path: Path) -> None:
    students.main([str(folders("marian")), str(tmp_path / "s"), "--anew", "d_model=16", "--anew", "encoder_layers=1"])

    student = open_model(tmp_path / "s")
    assert (student.config.d_model, student.config.encoder_layers, student.config.decoder_layers) == (16, 1, 2)
    assert not student.get_input_embeddings().weight[student.config.pad_token_id].any()
    assert (tmp_path / "s" / "source.spm").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(["--encoder-layers", "3"], "3 layers cannot be kept of 2", id="too many"),
        pytest.param(["--layers", "1"], "has no '' side", id="not causal"),
        pytest.param([], "say either", id="nothing"),
        pytest.param(["--anew", "width=3"], "unknown to marian: width", id="unknown size"),
    ],
)
def test_a_student_that_cannot_be_made_is_refused(
    arguments: list[str],
    reason: str,
    folders: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(CannotMake, match=reason):
        students.main([str(folders("marian")), str(tmp_path / "s"), *arguments])

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_folder_goes_on_learning(kind: str, folders: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    recipe = load(finetune_recipe(tmp_path, steps=40, more=LANGUAGES if kind == "m2m100" else ""))
    run = Run(recipe, FinetuneTask(recipe, folders(kind), data), tmp_path / "out")  # type: ignore[arg-type]

    run.train()
    folder = run.finish()

    curve = [
        said["scores"][0]
        for line in (tmp_path / "out" / "curve.jsonl").read_text().splitlines()
        if "scores" in (said := json.loads(line))
    ]
    assert curve[-1] > curve[0]
    assert outputs(open_model(folder)).isfinite().all()
    if kind == "marian":
        pad = run.model.config.pad_token_id
        assert not load_file(folder / "model.safetensors")["model.shared.weight"][pad].any()


@pytest.mark.parametrize("kind", ["marian", "m2m100", "llama"])
def test_checkpoints_are_compared_by_what_they_say(
    kind: str, folders: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    path = finetune_recipe(tmp_path, settings="", more=LANGUAGES if kind == "m2m100" else "")
    path.write_text(path.read_text().replace('metric = "loss"', 'metric = "chrf"'))
    recipe = load(path)
    task = FinetuneTask(recipe, folders(kind), data)  # type: ignore[arg-type]
    task.model.eval()

    alone, together = task._greedy(task.valid[0][:1]), task._greedy(task.valid[0][:9])

    assert alone[0] == together[0]
    assert 0 <= task.scores()[0] <= 100


def test_a_student_comes_near_its_teachers_distributions(
    folders: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    teacher = folders("marian")
    student = make_student(teacher, tmp_path / "student", {"decoder": 1})
    recipe = load(finetune_recipe(tmp_path, steps=40, settings="kl = 1.0\ntemperature = 2.0"))
    task = FinetuneTask(recipe, student, data, teacher)  # type: ignore[arg-type]
    run = Run(recipe, task, tmp_path / "out")
    batch = list(range(20))
    task.model.eval()
    with torch.inference_mode():
        before = float(task.loss(batch)[0])
    task.model.train()

    run.train()

    task.model.eval()
    with torch.inference_mode():
        assert float(task.loss(batch)[0]) < before / 2


@pytest.mark.parametrize("bias", [0.0, 2.0], ids=["plain", "with biased logits"])
def test_a_marian_has_the_same_loss_the_short_way_and_the_long_one(
    bias: float, folders: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    model = open_model(folders("marian"))
    model.final_logits_bias[0, 5] = bias
    write_model(model, folders("marian"), tmp_path / "marian")
    recipe = load(finetune_recipe(tmp_path))
    short = FinetuneTask(recipe, tmp_path / "marian", data)  # type: ignore[arg-type]
    # With a teacher that the recipe gives no part of the loss to, all logits are there.
    long = FinetuneTask(recipe, tmp_path / "marian", data, tmp_path / "marian")  # type: ignore[arg-type]

    losses = []
    for task in (short, long):
        task.model.eval()
        losses.append(float(task.loss(range(9))[0].detach()))

    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_divergence_is_nothing_between_equals() -> None:
    logits = torch.randn(5, 7)

    assert divergence(logits, logits + 3, 2.0).abs() < 1e-6
    assert divergence(logits, -logits, 1.0) > 0


def test_divergence_weighs_by_the_teachers_probabilities() -> None:
    student, teacher = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.1, 0.1, 0.8]])

    found = divergence(student.log(), teacher.log(), 1.0)

    assert float(found) == pytest.approx(float((teacher * (teacher / student).log()).sum()))


def test_word_by_word_needs_one_vocabulary(folders: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    recipe = load(finetune_recipe(tmp_path, settings="kl = 0.5"))

    with pytest.raises(ValueError, match="another vocabulary"):
        FinetuneTask(recipe, folders("bart"), data, folders("t5"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name the teacher's folder"):
        FinetuneTask(recipe, folders("bart"), data)  # type: ignore[arg-type]


@pytest.fixture
def causal(data: Path, tmp_path: Path) -> Path:
    """A causal model as a recipe makes it."""
    recipe = load(causal_recipe(tmp_path))
    run = Run(recipe, task_of(recipe, data, tmp_path / "causal"), tmp_path / "causal")
    run.train()
    return run.finish()


def test_a_causal_student_learns_its_teachers_words(causal: Path, data: Path, tmp_path: Path) -> None:
    student = tmp_path / "student"
    make_student(causal, student, {"": 1})
    recipe = load(causal_recipe(tmp_path, steps=60, settings="kl = 1.0", name="taught"))
    run = Run(recipe, task_of(recipe, data, tmp_path / "out", student, causal), tmp_path / "out")
    task = run.task
    batch = task.batches(0)[0]
    with torch.inference_mode():
        before = float(task.loss(batch)[0])

    run.train()
    made = run.finish()

    with torch.inference_mode():
        assert float(task.loss(batch)[0]) < before / 2
    assert open_model(made).config.num_hidden_layers == 1
    assert BytePairs(made).words == BytePairs(causal).words
    record = json.loads((made / "record.json").read_text("utf-8"))
    assert sorted(record["weights"]) == ["model", "teacher"]


def test_a_recipe_of_texts_goes_on_only_from_what_such_a_recipe_made(
    folders: Callable[[str], Path], causal: Path, data: Path, tmp_path: Path
) -> None:
    plain = load(causal_recipe(tmp_path))
    taught = load(causal_recipe(tmp_path, settings="kl = 0.5", name="taught"))

    with pytest.raises(CannotMake, match="one of kind finetune goes on with pairs"):
        task_of(plain, data, tmp_path / "out", folders("bart"))
    with pytest.raises(CannotMake, match="is a gpt2, and"):
        task_of(plain, data, tmp_path / "out", folders("gpt2"))
    with pytest.raises(BadSettings, match="name the teacher's folder"):
        task_of(taught, data, tmp_path / "out", causal)
    with pytest.raises(BadSettings, match="has no kl"):
        task_of(plain, data, tmp_path / "out", causal, causal)
    with pytest.raises(BadSettings, match="name it with --model"):
        task_of(taught, data, tmp_path / "out", None, causal)


def test_answers_come_from_a_job_and_are_kept(teacher: Client, server: LiveAPI, data: Path, tmp_path: Path) -> None:
    lessons = Lessons(teacher, Asked("teacher", params={"num_beams": 2}), tmp_path / "pairs")
    part = Part("pairs.tsv", 0, 1)

    path = lessons.of(0, part, data)
    again = lessons.of(0, part, data)

    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    sources = dict(line.split("\t") for line in (data / "pairs.tsv").read_text("utf-8").splitlines())
    assert again == path
    assert {row["source"]: row["reference"] for row in rows} == sources
    assert all(row["target"] for row in rows)
    jobs = list(teacher.jobs())
    assert len(jobs) == 1
    assert jobs[0].raw["params"]["num_beams"] == 2  # type: ignore[index]
    assert lessons.notes()[0]["job"] == jobs[0].id
    assert lessons.notes()[0]["pairs"] == len(rows)


def kept(path: Path) -> list[tuple[str, str, float | None]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [(row["source"], row["target"], row["score"]) for row in map(json.loads, file)]


def test_the_best_of_a_search_are_all_kept_in_its_order(teacher: Client, data: Path, tmp_path: Path) -> None:
    lessons = Lessons(teacher, Asked("scorer", params={"num_beams": 4, "n": 3}), tmp_path / "pairs")

    rows = kept(lessons.of(0, Part("pairs.tsv", 0, 1), data))

    sources = dict.fromkeys(line.split("\t")[0] for line in (data / "pairs.tsv").read_text("utf-8").splitlines())
    # The echo's second says a word less; of two words nothing is left to be left out but one.
    expected = []
    for source in sources:
        words = source.split()
        answers = dict.fromkeys(" ".join(words[: max(1, len(words) - rank)]) for rank in range(3))
        expected += [(source, text, -0.1 * (rank + 1)) for rank, text in enumerate(answers)]
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    assert [row[2] for row in rows] == pytest.approx([row[2] for row in expected])
    [note] = lessons.notes()
    assert (note["pairs"], note["without"]) == (len(rows), 0)
    assert len(rows) > 2 * len(sources)


def test_one_answer_of_several_is_the_surest_or_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    answers = [("a", "one two", -0.3), ("a", "one", -0.1), ("b", "eins", -0.2), ("b", "zwei", -0.2), ("c", "x", None)]
    references = {"a": "one two three", "b": "zwei", "c": "y"}
    with gzip.open(path, "wt") as file:
        for source, target, score in answers:
            row = {"source": source, "target": target, "reference": references[source], "score": score}
            file.write(json.dumps(row) + "\n")

    assert [row[:2] for row in kept(distil.one_each(path, "best"))] == [("a", "one"), ("b", "eins"), ("c", "x")]
    assert [row[:2] for row in kept(distil.one_each(path, "nearest"))] == [("a", "one two"), ("b", "zwei"), ("c", "x")]
    assert distil.one_each(path, "all") == path


def test_other_wishes_are_another_job(teacher: Client, data: Path, tmp_path: Path) -> None:
    part = Part("pairs.tsv", 0, 1)

    Lessons(teacher, Asked("teacher"), tmp_path / "pairs").of(0, part, data)
    Lessons(teacher, Asked("teacher", params={"num_beams": 2}), tmp_path / "pairs").of(0, part, data)

    assert len(list(teacher.jobs())) == 2


def test_some_of_the_sources_are_spread_over_all(teacher: Client, data: Path, tmp_path: Path) -> None:
    sources = dict(line.split("\t") for line in (data / "pairs.tsv").read_text("utf-8").splitlines())

    rows = kept(Lessons(teacher, Asked("teacher"), tmp_path / "pairs").of(0, Part("pairs.tsv", 0, 1), data, limit=4))

    step = len(sources) // 4
    assert [row[0] for row in rows] == list(sources)[: 4 * step : step]


def test_other_references_are_asked_for_anew(teacher: Client, data: Path, tmp_path: Path) -> None:
    lessons = Lessons(teacher, Asked("teacher"), tmp_path / "pairs")
    lessons.of(0, Part("pairs.tsv", 0, 1), data, limit=2)
    lines = (data / "pairs.tsv").read_text("utf-8").splitlines()
    (tmp_path / "pairs.tsv").write_text("".join(f"{line}!\n" for line in lines), "utf-8")

    path = lessons.of(0, Part("pairs.tsv", 0, 1), tmp_path, limit=2)

    with gzip.open(path, "rt", encoding="utf-8") as file:
        found = [json.loads(line)["reference"] for line in file]
    expected = [lines[0], lines[len(lines) // 2]]
    assert found == [f"{line.split(chr(9))[1]}!" for line in expected]


def test_a_job_that_was_begun_is_gone_on_with(teacher: Client, data: Path, tmp_path: Path) -> None:
    part = Part("pairs.tsv", 0, 1)
    lessons = Lessons(teacher, Asked("teacher"), tmp_path / "pairs")
    path = lessons.of(0, part, data)
    whole = path.read_bytes()
    path.unlink()

    assert lessons.of(0, part, data).read_bytes() == whole
    assert whole[4:8] == bytes(4), "the time of writing is not among it"
    assert len(list(teacher.jobs())) == 1


def test_an_unknown_teacher_is_told(teacher: Client, data: Path, tmp_path: Path) -> None:
    lessons = Lessons(teacher, Asked("nobody"), tmp_path / "pairs")

    with pytest.raises(NoLessons, match="nobody"):
        lessons.of(0, Part("pairs.tsv", 0, 1), data)


def test_an_unknown_teacher_is_sent_nothing(
    server: LiveAPI, key: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSHEL_API_KEY", key)
    asked = [str(marian_recipe(tmp_path)), "--data", str(data), "--out", str(tmp_path / "out"), "--model", "nobody"]

    with pytest.raises(NoLessons, match=r"has no model 'nobody'; it has .*teacher"):
        distil.main([*asked, "--url", server.url])

    with Client(server.url, key) as client:
        assert not list(client.files())
    assert not (tmp_path / "out").exists()
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO), "a line for each request"


def test_the_surest_answers_are_kept_in_order(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for source, score in (("a", -3.0), ("b", -0.1), ("c", -2.0), ("d", -0.2)):
            file.write(json.dumps({"source": source, "target": source, "score": score}) + "\n")

    with gzip.open(best(path, 0.5), "rt") as file:
        assert [json.loads(line)["source"] for line in file] == ["b", "d"]
    assert best(path, 1.0) == path


@pytest.mark.parametrize(("learn", "pairs"), [("best", 80), ("all", None)])
def test_a_student_learns_of_the_n_best(
    learn: str,
    pairs: int | None,
    server: LiveAPI,
    key: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BUSHEL_API_KEY", key)
    config = tmp_path / "distil.toml"
    config.write_text(f'n-best = 3\nlearn = "{learn}"\nmodel = "scorer"\n')
    recipe = marian_recipe(tmp_path, steps=8, pieces=40)

    asked = [str(recipe), "--data", str(data), "--out", str(tmp_path / "out"), "--config", str(config)]
    distil.main([*asked, "--url", server.url, "--threads", "1"])

    record = json.loads((tmp_path / "out" / "model" / "record.json").read_text())
    assert record["lessons"][0]["wanted"]["params"]["n"] == 3
    assert record["learn"] == learn
    assert record["pairs"] == (pairs or record["lessons"][0]["pairs"])
    assert record["lessons"][0]["pairs"] > 160


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--n-best", "5"], "num_beams 4 has no 5 best outputs", id="beams"),
        pytest.param(["--learn", "all"], "say --n-best 2 or more", id="one answer"),
    ],
)
def test_more_answers_than_a_search_has_are_refused(
    options: list[str],
    said: str,
    server: LiveAPI,
    key: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BUSHEL_API_KEY", key)
    asked = [str(marian_recipe(tmp_path)), "--data", str(data), "--out", str(tmp_path / "out"), "--model", "teacher"]

    with pytest.raises((NoLessons, SystemExit)) as caught:
        distil.main([*asked, "--url", server.url, *options])

    assert said in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        pytest.param("marian", ["--student", "s"], "for finetune", id="student of nothing"),
        pytest.param("finetune", [], "name it with --student", id="no student"),
        pytest.param("finetune", ["--student", "s", "--teacher", "t"], "kl", id="teacher without a part"),
    ],
)
def test_a_teacher_is_asked_nothing_in_vain(
    kind: str,
    options: list[str],
    said: str,
    server: LiveAPI,
    key: str,
    folders: Callable[[str], Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BUSHEL_API_KEY", key)
    recipe = marian_recipe(tmp_path) if kind == "marian" else finetune_recipe(tmp_path)
    asked = [str(recipe), "--data", str(data), "--out", str(tmp_path / "out"), "--model", "teacher"]
    options = [str(folders("marian")) if word in ("s", "t") else word for word in options]

    with pytest.raises(BadSettings, match=said):
        distil.main([*asked, "--url", server.url, *options])

    with Client(server.url, key) as client:
        assert not list(client.jobs())


@pytest.mark.parametrize("with_references", [False, True])
def test_a_student_is_distilled_by_one_command(
    with_references: bool, server: LiveAPI, key: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSHEL_API_KEY", key)
    recipe = marian_recipe(tmp_path, steps=8, pieces=40)
    asked = [str(recipe), "--data", str(data), "--out", str(tmp_path / "out"), "--model", "teacher"]
    asked += ["--url", server.url, "--threads", "1"] + (["--references"] if with_references else [])

    distil.main(asked)

    record = json.loads((tmp_path / "out" / "model" / "record.json").read_text())
    assert record["lessons"][0]["wanted"]["model"] == "teacher"
    assert record["pairs"] == 80 * (2 if with_references else 1)
    with Target(server.url, tmp_path).client() as client:
        assert len(list(client.jobs())) == 1
    assert outputs(open_model(tmp_path / "out" / "model")).isfinite().all()


def test_a_selected_student_is_distilled_word_by_word(
    server: LiveAPI,
    key: str,
    folders: Callable[[str], Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BUSHEL_API_KEY", key)
    teacher = folders("t5")
    student = make_student(teacher, tmp_path / "student", {"encoder": 1, "decoder": 1})
    recipe = finetune_recipe(tmp_path, steps=8, settings="kl = 0.5")

    asked = [str(recipe), "--data", str(data), "--out", str(tmp_path / "out"), "--model", "teacher"]
    asked += ["--url", server.url, "--student", str(student), "--teacher", str(teacher), "--threads", "1"]
    distil.main(asked)

    model = open_model(tmp_path / "out" / "model")
    assert students.layers_of(model.config) == {"encoder": 1, "decoder": 1}
    assert set(json.loads((tmp_path / "out" / "record.json").read_text())["weights"]) == {"model", "teacher"}
