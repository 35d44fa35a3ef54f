"""`bushel models train` and its neighbours, run as a user would."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cli.main import run
from cli.training import TOOLS
from tests import models as tiny
from tests.training.tiny import marian_recipe, write_data

ABSENT = ("torch", "transformers", "ctranslate2", "numpy", "sacrebleu", "matplotlib")
BARE = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); from cli.main import main; main(sys.argv[1:])"
REGISTRY = """
[models.mine]
task = "translation"
source = "{folder}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose models.toml has a model."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("home")
    (folder / "weights").mkdir()
    tiny.make_marian(folder / "weights")
    (folder / "models.toml").write_text(REGISTRY.format(folder=folder / "weights"))
    return folder


def said(*words: object) -> int:
    """The exit code."""
    try:
        return run([str(word) for word in words])
    except SystemExit as exc:
        assert isinstance(exc.code, int)
        return exc.code


def test_the_help_lists_the_tools_in_a_section_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert said("models", "--help") == 0

    shown = capsys.readouterr().out
    ours = shown.partition("Making and judging models:")[2]
    assert all(f"  {name}" in ours for name in TOOLS)
    assert "pull" in shown.partition("Making and judging models:")[0]


@pytest.mark.parametrize("name", list(TOOLS))
def test_each_has_a_help_that_names_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = (name, "trim") if name == "prune" else (name,)

    assert said("models", *words, "--help") == 0

    shown = capsys.readouterr().out
    assert f"bushel models {' '.join(words)}" in shown
    assert "--config FILE.toml" in shown


@pytest.mark.parametrize("name", list(TOOLS))
def test_without_the_extra_a_line_says_what_to_install(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", BARE, "models", name], capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert "pip install 'bushel[training]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_model_of_ones_own_registry_is_quantized_once(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", home, "models", "quantize", "mine", tmp_path / "small")

    assert said(*words) == 0
    written = (tmp_path / "small" / "record.json").stat().st_mtime_ns
    capsys.readouterr()

    assert said(*words) == 0
    assert "done already" in capsys.readouterr().err
    assert (tmp_path / "small" / "record.json").stat().st_mtime_ns == written
    assert said(*words, "--again") == 0
    assert (tmp_path / "small" / "record.json").stat().st_mtime_ns > written


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(("quantize", "nobody", "out"), "nobody is neither a model's folder nor a registered", id="model"),
        pytest.param(("train", "no.toml", "--data", ".", "--out", "out"), "no.toml", id="recipe"),
        pytest.param(("train", "--config", "no.toml"), "no.toml cannot be read", id="config"),
        pytest.param(("prune", "layers", "mine", "out", "--decoder", "9"), "9 layers cannot be kept of 2", id="layers"),
    ],
)
def test_what_cannot_be_is_a_line(
    words: tuple[str, ...], reason: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)

    code = said("--data", home, "models", *words)

    shown = capsys.readouterr().err
    assert (code, len(shown.splitlines())) == (1, 1)
    assert reason in shown
    assert not list(tmp_path.iterdir())


def test_wrong_usage_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert said("models", "train") == 2
    assert "--out" in capsys.readouterr().err


# Words that the tools answer without doing anything, and the exit code.
ANSWERED = [
    *((f"{name} --help", 0) for name in ("train", "distil", "student", "quantize", "shortlist", "prune", "prune trim")),
    ("train", 2),
    ("quantize", 2),
    ("quantize m o --method int3", 2),
    ("quantize m o --texts nope.txt", 1),
    ("student t o --layers many", 2),
    ("prune", 2),
    ("prune nope", 2),
    ("prune layers m o", 2),
    ("prune structured m o --pairs nope.tsv --ffn 0.5", 1),
    ("shortlist m o", 1),
]
WATCHED = """
import json, sys
from cli.main import run
found = []
for words in json.loads(sys.argv[1]):
    try:
        code = run(["models", *words.split()])
    except SystemExit as exc:
        code = exc.code
    found.append((words, code))
assert "torch" not in sys.modules
json.dump(found, open(sys.argv[2], "w"))
"""


def test_help_and_mistakes_do_not_wait_for_torch(tmp_path: Path) -> None:
    words = [sys.executable, "-c", WATCHED, json.dumps([words for words, _ in ANSWERED]), str(tmp_path / "found")]

    done = subprocess.run(words, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert [tuple(each) for each in json.loads((tmp_path / "found").read_text())] == ANSWERED
    assert "--texts: there is no file nope.txt" in done.stderr


def test_prune_names_its_operations(capsys: pytest.CaptureFixture[str]) -> None:
    assert said("models", "prune", "nope") == 2
    told = capsys.readouterr().err
    assert said("models", "prune", "--help") == 0
    shown = capsys.readouterr().out
    assert said("models", "--help") == 0
    listed = capsys.readouterr().out

    for word in ("trim", "layers", "structured"):
        assert word in told
        assert re.search(rf"^ *bushel models prune {word} MODEL OUT .{{10,}}$", shown, re.MULTILINE)
        assert word in re.search(r"prune  .*", listed)[0]  # type: ignore[index]


@pytest.mark.parametrize(
    "words",
    [*("train", "distil", "student", "quantize", "shortlist"), *("prune trim", "prune layers", "prune structured")],
)
def test_every_option_is_explained_with_its_default(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said("models", *words.split(), "--help") == 0

    shown = capsys.readouterr().out
    assert "python -m" not in shown and "training." not in shown.replace("training.md", "")
    usage, options = shown.partition("\n\n")[0], shown.partition("\noptions:\n")[2]
    for option in re.split(r"\n  (?=-)", "\n" + options)[1:]:
        head, _, text = option.partition("  ")
        name, _, value = head.partition(" ")
        assert len(text.split()) > 1, option
        is_flag, is_required = not value or name == "-h,", f"[{name}" not in usage
        assert is_flag or is_required or "default" in text, option


def test_what_was_made_is_told(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("the lazy dog\n")
    for words in (
        ("prune", "layers", "mine", tmp_path / "layers", "--decoder", "1"),
        ("prune", "trim", "mine", tmp_path / "trim", "--texts", tmp_path / "texts.txt"),
        ("student", "mine", tmp_path / "student", "--decoder-layers", "1"),
    ):
        capsys.readouterr()

        assert said("--data", home, "models", *words) == 0

        shown = capsys.readouterr()
        assert re.fullmatch(r"\S+: [\d,]+ -> [\d,]+ parameters, [\d.]+ MB -> [\d.]+ MB of weights\n", shown.out)
        assert shown.err == ""


def test_a_model_is_trained(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe, data = marian_recipe(tmp_path, steps=4), write_data(tmp_path / "data")

    code = said("models", "train", recipe, "--data", data, "--out", tmp_path / "out", "--threads", "1", "--seed", 3)

    record = json.loads((tmp_path / "out" / "model" / "record.json").read_text())
    assert (code, record["recipe"]["seed"]) == (0, 3)
