"""Opening models: once converted, once measured, and refused with advice where they cannot be used."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ctranslate2
import pytest
from safetensors.torch import load_file, save_file

from models.params import NUMBERS
from models.registry import BUILTIN, EngineKind, ModelSpec, Task, load
from tests.engines.conftest import SETTINGS, Bench, outputs
from workers.engines.base import ModelUnavailable, Params
from workers.engines.calibration import Calibration, Measurement, choose
from workers.engines.load import decoding_params, is_wanted, open_engine, pull

ROOT = Path(__file__).parents[2]

OPEN = """
import sys
from pathlib import Path
from models.registry import EngineKind, ModelSpec, Task
from workers.engines import convert
from workers.engines.load import open_engine

run, runs = convert._run, []
convert._run = lambda *arguments: (runs.append(1), run(*arguments))
spec = ModelSpec("m", Task.TRANSLATION, Path(sys.argv[1]), quantization="int8",
                 options={"inter_threads": 1, "intra_threads": 1, "batch_tokens": 64})
open_engine(spec, Path(sys.argv[2]), "cpu").close()
sys.stdout.write(f"{len(runs)} {'torch' in sys.modules}")
"""


def test_two_processes_that_start_together_convert_once(bench: Bench, tmp_path: Path) -> None:
    source = str(bench.spec("marian").source)
    command = [sys.executable, "-c", OPEN, source, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path) for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0].split() for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(count for count, _ in said) == ["0", "1"]
    # Converting took torch, but not in the processes that go on to serve.
    assert [has_torch for _, has_torch in said] == ["False", "False"]
    converted = tmp_path / "ctranslate2"
    assert len([path for path in converted.iterdir() if path.is_dir()]) == 1


def test_changed_weights_are_converted_again(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(bench.spec("gpt2").source, source)
    spec = replace(bench.spec("gpt2"), source=source)
    open_engine(spec, tmp_path, "cpu").close()
    shutil.copy(bench.spec("gpt2").source / "model.safetensors", source / "model.safetensors")
    open_engine(spec, tmp_path, "cpu").close()
    before = _folders(tmp_path)

    content = bytearray((source / "model.safetensors").read_bytes())
    content[-4:] = b"\0\0\0\0"
    (source / "model.safetensors").write_bytes(content)
    open_engine(spec, tmp_path, "cpu").close()

    assert len(before) == 1
    assert len(_folders(tmp_path)) == 2


def test_a_conversion_that_broke_off_is_done_again(bench: Bench, tmp_path: Path) -> None:
    spec = bench.spec("gpt2")
    open_engine(spec, tmp_path, "cpu").close()
    (folder,) = _folders(tmp_path)
    folder.rename(folder.with_suffix(".unfinished"))

    open_engine(spec, tmp_path, "cpu").close()

    assert _folders(tmp_path) == [folder]


def test_calibration_is_stored_and_used_again(bench: Bench, tmp_path: Path) -> None:
    spec = replace(bench.spec("t5"), options={})
    first = open_engine(spec, tmp_path, "cpu")
    first.close()
    (stored,) = (tmp_path / "ctranslate2").glob("*/calibration.json")
    (key,) = content = json.loads(stored.read_text("utf-8"))
    assert Calibration(**content[key]) == first.calibration  # type: ignore[attr-defined]
    assert key.startswith("cpu:") and content[key]["tokens_per_second"] > 0

    content[key]["batch_tokens"] = 77
    stored.write_text(json.dumps(content), "utf-8")
    second = open_engine(spec, tmp_path, "cpu")
    second.close()

    assert second.calibration.batch_tokens == 77  # type: ignore[attr-defined]
    third = open_engine(spec, tmp_path, "cpu", recalibrate=True)
    third.close()
    assert third.calibration.batch_tokens != 77  # type: ignore[attr-defined]


def test_a_setting_of_the_entry_goes_before_the_measured_one(bench: Bench, tmp_path: Path) -> None:
    engine = open_engine(replace(bench.spec("t5"), options={"batch_tokens": 99}), tmp_path, "cpu")
    engine.close()

    assert engine.calibration.batch_tokens == 99  # type: ignore[attr-defined]
    assert engine.calibration.tokens_per_second > 0  # type: ignore[attr-defined]


def test_calibration_takes_the_fastest_and_stops_before_batches_get_long() -> None:
    def measure(threads: tuple[int, int], budget: int) -> Measurement:
        asked.append((threads, budget))
        rate = {(2, 1): 200.0, (1, 2): 100.0}[threads] * (1 + budget / 1000)
        return Measurement(rate, budget / 2000)

    asked: list[tuple[tuple[int, int], int]] = []

    best = choose([(2, 1), (1, 2)], [100, 200, 400, 800, 1600], measure, seconds=60)

    assert (best.inter_threads, best.intra_threads, best.batch_tokens) == (2, 1, 800)
    assert asked == [((2, 1), 100), ((1, 2), 100), ((2, 1), 200), ((2, 1), 400), ((2, 1), 800)]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tf_model.h5"])
@pytest.mark.parametrize("engine", [EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS])
def test_weights_that_can_run_code_are_refused(bench: Bench, tmp_path: Path, name: str, engine: EngineKind) -> None:
    source = tmp_path / "model"
    shutil.copytree(bench.spec("t5").source, source)
    (source / "model.safetensors").rename(source / name)

    with pytest.raises(ModelUnavailable, match=f"{name}.*safetensors only"):
        open_engine(replace(bench.spec("t5", engine), source=source), tmp_path, "cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"source": Path("/nowhere")}, "the folder /nowhere does not exist", id="no folder"),
        pytest.param({"source": "org/name", "revision": "v1"}, "bushel models pull bart", id="not pulled"),
        pytest.param({"max_input_tokens": 97}, "max_input_tokens is 97, but the model has room for 96", id="too long"),
    ],
)
@pytest.mark.parametrize("engine", [EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS])
def test_what_cannot_be_loaded_says_why(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], said: str, engine: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(ModelUnavailable, match=said):
        open_engine(replace(bench.spec("bart", EngineKind(engine)), **changes), bench.cache, "cpu")


def test_a_quantization_the_cpu_lacks_names_those_it_has(bench: Bench) -> None:
    # Which those are is the processor's affair: one without MKL's kernels has no int16.
    there = ", ".join(sorted(ctranslate2.get_supported_compute_types("cpu")))
    assert "int8" in there and "float16" not in there

    with pytest.raises(ModelUnavailable, match=f"float16 is not supported by this cpu; .* offers {there} here"):
        open_engine(bench.spec("bart", quantization="float16"), bench.cache, "cpu")


@pytest.mark.parametrize("engine", [EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS])
@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(bench: Bench, engine: EngineKind, device: str) -> None:
    with pytest.raises(ModelUnavailable, match="device"):
        open_engine(bench.spec("bart", engine), bench.cache, device)


def test_an_architecture_without_converter_points_to_the_other_engine(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(bench.spec("bart").source, source)
    config = json.loads((source / "config.json").read_text("utf-8"))
    (source / "config.json").write_text(json.dumps({**config, "model_type": "led"}), "utf-8")

    with pytest.raises(ModelUnavailable, match=r'cannot be converted.*set engine = "transformers"'):
        open_engine(replace(bench.spec("bart"), source=source), tmp_path, "cpu")


@pytest.mark.parametrize("engine", [EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS])
def test_languages_the_model_does_not_speak_are_refused_at_loading(bench: Bench, engine: EngineKind) -> None:
    with pytest.raises(ModelUnavailable, match="no language 'tlh'"):
        open_engine(bench.spec("m2m100", engine, target_languages=("tlh",)), bench.cache, "cpu")
    with pytest.raises(ModelUnavailable, match="list source_languages and target_languages"):
        open_engine(bench.spec("m2m100", engine, target_languages=()), bench.cache, "cpu")


def test_a_language_code_the_vocabulary_lacks_is_refused_at_loading(bench: Bench) -> None:
    with pytest.raises(ModelUnavailable, match=">>tlh<<"):
        open_engine(bench.spec("marian", target_languages=("deu", "tlh")), bench.cache, "cpu")


def test_two_vocabularies_point_to_the_other_engine(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(bench.spec("marian").source, source)
    config = json.loads((source / "config.json").read_text("utf-8"))
    (source / "config.json").write_text(json.dumps({**config, "share_encoder_decoder_embeddings": False}), "utf-8")

    with pytest.raises(ModelUnavailable, match="two vocabularies"):
        open_engine(replace(bench.spec("marian"), source=source), tmp_path, "cpu")


@pytest.mark.parametrize("name", ["vocab.json", "source.spm"])
@pytest.mark.parametrize("engine", [EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS])
def test_a_missing_tokenizer_file_makes_the_model_unavailable(
    bench: Bench, tmp_path: Path, name: str, engine: EngineKind
) -> None:
    source = tmp_path / "model"
    shutil.copytree(bench.spec("marian").source, source)
    (source / name).unlink()

    with pytest.raises(ModelUnavailable):
        open_engine(replace(bench.spec("marian", engine), source=source), tmp_path, "cpu")


@pytest.mark.parametrize("engine", [EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS])
def test_damaged_weights_make_the_model_unavailable(bench: Bench, tmp_path: Path, engine: EngineKind) -> None:
    source = tmp_path / "model"
    shutil.copytree(bench.spec("t5").source, source)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])

    with pytest.raises(ModelUnavailable, match="model t5 cannot be"):
        open_engine(replace(bench.spec("t5", engine), source=source), tmp_path, "cpu")


@pytest.mark.parametrize("engine", [EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS])
def test_missing_weights_are_not_made_up(bench: Bench, tmp_path: Path, engine: EngineKind) -> None:
    source = tmp_path / "model"
    shutil.copytree(bench.spec("t5").source, source)
    weights = load_file(source / "model.safetensors")
    gone = next(name for name in sorted(weights) if name.startswith("decoder.block.1"))
    del weights[gone]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelUnavailable, match=f"lack 1 of the model's tensors, {gone}"):
        open_engine(replace(bench.spec("t5", engine), source=source), tmp_path, "cpu")


def test_half_precision_runs_on_the_reference_engine(bench: Bench, sentences: list[str]) -> None:
    params = Params(max_new_tokens=40)
    half = outputs(bench.open("starter", EngineKind.TRANSFORMERS, quantization="bfloat16"), sentences[:50], params)
    full = outputs(bench.open("starter", EngineKind.TRANSFORMERS), sentences[:50], params)

    assert sum(one == other for one, other in zip(half, full, strict=True)) >= 40


def test_pulling_a_folder_only_looks_at_it(bench: Bench, tmp_path: Path) -> None:
    assert pull(bench.spec("bart"), tmp_path) == bench.spec("bart").source
    with pytest.raises(ModelUnavailable, match="does not exist"):
        pull(ModelSpec("m", Task.TRANSLATION, tmp_path / "nowhere"), tmp_path)


def test_checked_parameters_become_what_engines_take() -> None:
    assert decoding_params({"num_beams": 2, "stop": ["a"]}) == Params(num_beams=2, stop=("a",))
    # Copies are prompts of their own.
    assert decoding_params({"n": 3, "top_logprobs": 0}) == Params(top_logprobs=0)


@pytest.mark.parametrize("engine", [EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS])
@pytest.mark.parametrize("name", [name for name, rule in NUMBERS.items() if not rule.is_int])
def test_a_whole_number_is_a_number(bench: Bench, engine: EngineKind, name: str) -> None:
    clean: dict[str, object] = {"temperature": 1, name: 1, "max_new_tokens": 2}

    assert outputs(bench.open("llama", engine), ["the fox"], decoding_params(clean))


def test_of_a_repository_only_what_is_loaded_is_downloaded() -> None:
    names = [
        "model.safetensors",
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "onnx/config.json",
        "original/model.safetensors",
        "tokenizer.json",
    ]

    assert [name for name in names if is_wanted(name)] == [*names[:4], "tokenizer.json"]


def test_the_builtin_model_opens_as_it_is_registered(bench: Bench) -> None:
    spec = replace(load([BUILTIN]).default(Task.TRANSLATION), options=SETTINGS)

    engine = open_engine(spec, bench.cache)

    assert engine.recipe.quantization == "int8"
    # What is not int8 is told as well.
    assert str(engine.recipe.details["compute_type"]).startswith("int8_")
    engine.close()


def _folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "ctranslate2").iterdir() if path.is_dir()]
