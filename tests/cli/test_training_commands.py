"""`bushel models train` and its neighbours, run as a user would."""

import json
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
        pytest.param(("prune", "layers", "mine", "out", "--decoder", "9"), "9 of 2 layers cannot be kept", id="layers"),
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


def test_a_model_is_trained(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe, data = marian_recipe(tmp_path, steps=4), write_data(tmp_path / "data")

    code = said("models", "train", recipe, "--data", data, "--out", tmp_path / "out", "--threads", "1", "--seed", 3)

    record = json.loads((tmp_path / "out" / "model" / "record.json").read_text())
    assert (code, record["recipe"]["seed"]) == (0, 3)
