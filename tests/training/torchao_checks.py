"""What needs torchao; run by test_torchao.py where it can be imported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tests import models as tiny
from training.folders import open_tokenizer
from training.making import quantize
from training.making.artifact import CannotMake, weight_bytes


@pytest.mark.parametrize("method", quantize.TORCHAO)
@pytest.mark.parametrize("make", [tiny.make_t5, tiny.make_causal])
def test_transformers_runs_what_torchao_made(make: Callable[[Path], Path], method: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    folder.mkdir()
    make(folder)

    quantize.main([str(folder), str(out), "--method", method])

    made = (AutoModelForCausalLM if make is tiny.make_causal else AutoModelForSeq2SeqLM).from_pretrained(out)
    rows = open_tokenizer(out)("the quick brown fox", return_tensors="pt")
    assert made.generate(input_ids=rows["input_ids"], max_new_tokens=4).shape[1] > 1
    assert weight_bytes(out) < weight_bytes(folder)
    errors = [each["weights"] for each in json.loads((out / "report.json").read_text())["layers"].values()]
    least, most = (0, 0.02) if method == "torchao-int8" else (0.02, 0.2)
    assert errors and all(least < each < most for each in errors)


def test_a_model_torchao_cannot_keep_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tiny.make_marian(folder)

    with pytest.raises(CannotMake, match="CTranslate2's int8"):
        quantize.main([str(folder), str(tmp_path / "out"), "--method", "torchao-int8"])

    assert [path.name for path in tmp_path.iterdir()] == ["model"]
