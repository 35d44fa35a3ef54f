"""Quantized models run, are smaller, and say how far they are off."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
import torch
from ctranslate2.specs import common_spec

from tests import models as tiny
from training.errors import BadSettings, CannotMake
from training.folders import open_model
from training.making import quantize
from training.making.artifact import weight_bytes
from training.making.smoothing import smooth

MAKERS: dict[str, Callable[[Path], Path]] = {
    "marian": tiny.make_marian,
    "t5": tiny.make_t5,
    "bart": tiny.make_bart,
    "m2m100": tiny.make_m2m100,
    "llama": tiny.make_causal,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "model"
            made[kind].mkdir()
            MAKERS[kind](made[kind])
        return made[kind]

    return folder


def report_of(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("method", ["int8", "int8-bf16"])
@pytest.mark.parametrize("kind", MAKERS)
def test_ctranslate2_runs_the_quantized_model(
    kind: str, method: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    quantize.main([str(folders(kind)), str(tmp_path / "out"), "--method", method])

    runtime = ctranslate2.Generator if kind == "llama" else ctranslate2.Translator
    # What the weights are; the CPU at hand may compute otherwise.
    loaded = runtime(str(tmp_path / "out"), compute_type="int8")
    assert loaded.compute_type.startswith("int8")
    assert weight_bytes(tmp_path / "out") < 0.6 * weight_bytes(folders(kind))
    report, record = report_of(tmp_path / "out"), json.loads((tmp_path / "out" / "record.json").read_text())
    linear = [name for name, each in open_model(folders(kind)).named_modules() if isinstance(each, torch.nn.Linear)]
    assert set(linear) < set(report["layers"])
    assert all(0 < each["weights"] < 0.02 for each in report["layers"].values())
    assert all(0 < each["outputs"] < 0.05 for each in report["layers"].values())
    assert record["whole"]["texts"] == len(quantize.TEXTS)
    assert 0 < record["whole"]["mean_change"] < 1.0


def test_a_file_without_texts_is_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n")

    with pytest.raises(BadSettings, match="no texts"):
        quantize.main([str(folders("marian")), str(tmp_path / "out"), "--texts", str(tmp_path / "texts.txt")])


def test_the_report_rounds_weights_as_ctranslate2_does() -> None:
    weights = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    weights[3] = 0
    spec = common_spec.LinearSpec()
    spec.weight = weights.copy()
    spec.bias = np.zeros(5, np.float32)

    spec.validate()
    spec.optimize("int8")

    stored = spec.weight.numpy().astype(np.float32) / spec.weight_scale.numpy()[:, None]
    np.testing.assert_allclose(quantize.int8_rows(torch.from_numpy(weights)).numpy(), stored, atol=1e-6)


@pytest.mark.parametrize(("kind", "pairs"), [("t5", 10), ("bart", 6), ("m2m100", 10), ("llama", 2), ("marian", 6)])
def test_smoothing_changes_nothing_in_full_precision(kind: str, pairs: int, folders: Callable[[str], Path]) -> None:
    model, changed = open_model(folders(kind)), open_model(folders(kind))
    batches = quantize._batches(folders(kind), model, quantize.TEXTS[:2])

    assert smooth(changed, batches) == pairs

    for batch in batches:
        with torch.inference_mode():
            torch.testing.assert_close(changed(**batch).logits, model(**batch).logits, rtol=1e-3, atol=1e-3)
    assert any(not torch.equal(one, other) for one, other in zip(model.parameters(), changed.parameters(), strict=True))


def test_smoothing_helps_where_a_channel_stands_out(folders: Callable[[str], Path], tmp_path: Path) -> None:
    model, name = open_model(folders("m2m100")), "model.encoder.layers.0.fc2"
    layer = model.model.encoder.layers[0]
    for side in (layer.fc1.weight, layer.fc1.bias):
        side.data[3] *= 300
    layer.fc2.weight.data[:, 3] /= 300
    outlying = tmp_path / "outlying"
    model.save_pretrained(outlying)
    for path in folders("m2m100").iterdir():
        if not (outlying / path.name).exists():
            (outlying / path.name).write_bytes(path.read_bytes())

    quantize.main([str(outlying), str(tmp_path / "plain")])
    quantize.main([str(outlying), str(tmp_path / "smooth"), "--smooth"])

    plain, smoothed = (report_of(tmp_path / each)["layers"][name]["outputs"] for each in ("plain", "smooth"))
    assert smoothed < plain / 2


@pytest.mark.parametrize("method", ["int8", "bfloat16"])
def test_the_result_is_told_and_nothing_else(
    method: str, folders: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quantize.main([str(folders("marian")), str(tmp_path / "out"), "--method", method])

    shown = capfd.readouterr()
    assert f"MB of weights by {method}" in shown.out
    assert "of 4 texts; log-probabilities change by" in shown.out
    assert "Worst layer: model." in shown.out
    assert str(tmp_path / "out" / "report.json") in shown.out
    assert f'quantization = "{method}"' in shown.out
    assert shown.err == ""


@pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed")
def test_torchao_is_looked_for_first(tmp_path: Path) -> None:
    with pytest.raises(CannotMake, match=r"torchao-int4 needs torchao: pip install 'bushel\[torchao\]'"):
        quantize.quantize(tmp_path / "no folder", tmp_path / "out", "torchao-int4")

    assert not list(tmp_path.iterdir())
