"""A model's folder may come from anybody: nothing in it is run, however it is put."""

import io
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.registry import EngineKind
from models.spec import Task
from tests.engines.conftest import Bench, outputs
from workers.engines.base import ModelUnavailable, Params
from workers.engines.load import open_engine

ENGINES = (EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS)


class Canary:
    """What is unpickled as the making of a file, as an attack would be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """The file that must not be there in the end; and proof that it would be, if it were for pickle."""
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Canary(path)))
    assert path.exists()
    path.unlink()
    return path


@pytest.fixture
def folder(bench: Bench, tmp_path: Path) -> Path:
    """A copy of a small model that works."""
    folder = tmp_path / "model"
    shutil.copytree(Path(str(bench.spec("t5").source)), folder)
    return folder


def saved(canary: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"shared.weight": Canary(canary)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt"])
def test_a_folder_of_pickles_is_refused_and_none_of_them_is_opened(
    bench: Bench, folder: Path, canary: Path, name: str, engine: EngineKind
) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(saved(canary))

    with pytest.raises(ModelUnavailable, match=f"{name}.*safetensors only.*choose a revision"):
        open_engine(replace(bench.spec("t5", engine), source=folder), folder.parent, "cpu")

    assert not canary.exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pickle_beside_the_weights_is_left_alone(
    bench: Bench, folder: Path, canary: Path, engine: EngineKind
) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(saved(canary))

    model = open_engine(replace(bench.spec("t5", engine), source=folder), folder.parent, "cpu")

    assert len(outputs(model, ["the fox"], Params(max_new_tokens=3))) == 1
    model.close()
    assert not canary.exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_code_that_comes_with_a_model_is_not_run(bench: Bench, folder: Path, canary: Path, engine: EngineKind) -> None:
    """`auto_map` names classes in the folder's own Python files; a known type is then read by our own classes."""
    code = f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py"):
        (folder / name).write_text(code + "class Evil: pass\n")
    classes = {"AutoConfig": "configuration_evil.Evil", "AutoModelForSeq2SeqLM": "modeling_evil.Evil"}
    _change(folder / "config.json", auto_map=classes)
    _change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]})

    try:
        open_engine(replace(bench.spec("t5", engine), source=folder), folder.parent, "cpu").close()
    except ModelUnavailable as refusal:
        # Refusing it is as good, if it says why.
        assert "model t5" in str(refusal)

    assert not canary.exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_is_nothing_but_its_own_code_is_refused(
    bench: Bench, folder: Path, canary: Path, engine: EngineKind
) -> None:
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    (folder / "configuration_evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    classes = {"AutoConfig": "configuration_evil.Evil", "AutoModelForSeq2SeqLM": "modeling_evil.Evil"}
    _change(folder / "config.json", auto_map=classes, model_type="evil", architectures=["Evil"])

    with pytest.raises(ModelUnavailable, match="model t5"):
        open_engine(replace(bench.spec("t5", engine), source=folder), folder.parent, "cpu")

    assert not canary.exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_chat_template_runs_in_a_sandbox(bench: Bench, tmp_path: Path, canary: Path, engine: EngineKind) -> None:
    from workers.engines.base import Message, Prompt

    source = tmp_path / "chat"
    shutil.copytree(Path(str(bench.spec("llama").source)), source)
    attack = (
        "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{% if c.__name__ == 'Popen' %}"
        f"{{{{ c(['touch', '{canary}']).wait() }}}}{{% endif %}}{{% endfor %}}"
    )
    for name in ("chat_template.jinja",):
        (source / name).write_text(attack)
    _change(source / "tokenizer_config.json", chat_template=attack)
    model = open_engine(replace(bench.spec("llama", engine), source=source, task=Task.GENERATION), tmp_path, "cpu")

    with pytest.raises(ValueError, match="refuses these messages"):
        model.encode([Prompt(messages=(Message("user", "hello"),))], Params(max_new_tokens=3))

    model.close()
    assert not canary.exists()


def _change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps(content | values), "utf-8")
