"""Make a model's weights smaller: int8 by CTranslate2, or int8 and int4 weight-only by torchao for transformers.

bushel models quantize MODEL OUT [--method int8] [--texts FILE] [--smooth]

int8, int8-bf16 (what is not int8 is bfloat16), int16, bfloat16, float16: OUT is in CTranslate2's format (model.bin),
for programs that use CTranslate2 themselves. Bushel does not serve it: it loads safetensors only, and converts them on
its own. Register MODEL with `quantization = "int8"` for that, and read here what it costs.
torchao-int8, torchao-int4: OUT is a folder for transformers, which then needs torchao. On a CPU torchao has no packed
4-bit weights (mslk or CUDA is needed), so that its int4 rounds to 16 values in groups of 32 and keeps each in a byte.

`report.json` says for each matrix how far its weights (relative Frobenius error) and its outputs on some texts are off,
and for the whole model by how much the log-probabilities of its own outputs change. No method needs calibration;
`--smooth` first moves outliers from activations to weights, for which it reads the texts.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ctranslate2
import torch

from training.errors import BadSettings, CannotMake
from training.folders import model_folder, open_model, open_tokenizer
from training.lines import lines
from training.making.artifact import Making, making, parameters
from training.making.options import CTRANSLATE2, TORCHAO, quantizing
from training.making.outcome import megabytes
from training.making.smoothing import smooth
from training.progress import progress
from training.provenance import write_json
from training.settings import run
from workers.engines.convert import convert
from workers.engines.quiet import quietly

GROUP = 32
OUTPUT_TOKENS = 32
TEXTS = (
    "The committee will meet again on Thursday to decide how the money is spent.",
    "Could you tell me where the nearest station is, please?",
    "We propose a simple method that makes translation models smaller and faster without losing much of their quality.",
    "He was born in 1947, lived in three countries, and never learned to swim.",
)
Weights = torch.Tensor
Rounding = Callable[[Weights], Weights]


@dataclass(slots=True)
class LayerError:
    """One matrix: how far its weights and its outputs are off, relative to their own norms."""

    weights: float
    _difference: float = 0.0
    _norm: float = 0.0

    def add(self, wanted: Weights, found: Weights) -> None:
        self._difference += float((found - wanted).square().sum())
        self._norm += float(wanted.square().sum())

    @property
    def outputs(self) -> float | None:
        """None if no text has come by."""
        return math.sqrt(self._difference / self._norm) if self._norm else None


@dataclass(frozen=True, slots=True)
class Whole:
    """Of the whole model: the change of the log-probabilities of what it says itself in full precision."""

    texts: int
    tokens: int
    mean_change: float
    largest_change: float
    same_outputs: float


@dataclass(slots=True)
class Layers:
    """The errors of a model's matrices while texts go through the full-precision one."""

    errors: dict[str, LayerError] = field(default_factory=dict)

    def watch(self, name: str, module: Any, rounded: Weights, rounding: Rounding) -> Any:
        """Compare the module with itself with `rounded` weights, its inputs going through `rounding` before."""
        weight = module.weight.detach()
        off = float((rounded - weight).norm() / weight.norm().clamp(min=1e-12))
        error = self.errors[name] = LayerError(off)

        def compare(_: Any, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
            if isinstance(module, torch.nn.Embedding):
                error.add(weight[given[0]], rounded[given[0]])
            else:
                wanted = made if module.bias is None else made - module.bias
                error.add(wanted, rounding(given[0]) @ rounded.T)

        return module.register_forward_hook(compare)

    def said(self) -> dict[str, dict[str, float | None]]:
        """Without what no text came by: tied embeddings are there under several names, and used under some."""
        return {
            name: {"weights": each.weights, "outputs": each.outputs}
            for name, each in self.errors.items()
            if each.outputs is not None
        }


def int8_rows(values: Weights) -> Weights:
    """What CTranslate2's int8 makes of weights when they are stored, and of activations while it runs: one scale a row.

    >>> int8_rows(torch.tensor([[127.0, 1.4], [0.0, 0.0]])).tolist()
    [[127.0, 1.0], [0.0, 0.0]]
    """
    scale = 127 / values.abs().amax(-1, keepdim=True).clamp(min=1e-12)
    return (values * scale).round() / scale


def _rounding(method: str) -> tuple[Rounding, Rounding]:
    """Of weights and of activations, by CTranslate2's methods."""
    if method.startswith("int8"):
        return int8_rows, int8_rows
    if method == "int16":
        # As its quantization of weights has it: ten bits before the point would be lost otherwise.
        return lambda values: _scaled(values, 2**10 / float(values.abs().max().clamp(min=1e-12))), _unchanged
    kind = getattr(torch, method)
    return lambda values: values.to(kind).float(), _unchanged


def _unchanged(values: Weights) -> Weights:
    return values


def _scaled(values: Weights, scale: float) -> Weights:
    return (values * scale).round() / scale


def quantize(
    source: Path,
    out: Path,
    method: str,
    texts: Sequence[str] = TEXTS,
    is_smoothed: bool = False,
    is_again: bool = False,
) -> None:
    """Write the quantized model to `out`, with its report."""
    if method not in CTRANSLATE2 and method not in TORCHAO:
        raise CannotMake(f"{method} is not known; known: {', '.join((*CTRANSLATE2, *TORCHAO))}")
    # Before the minutes that the rest takes.
    config = _torchao_config(method) if method in TORCHAO else None
    said = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    settings = {"method": method, "texts": len(texts), "sha256": said, "smooth": is_smoothed}
    with making(source, out, "quantize", settings, is_again) as made, tempfile.TemporaryDirectory() as scratch:
        model = open_model(source)
        batches = _batches(source, model, texts)
        start = source
        if is_smoothed:
            start = Path(scratch) / "smooth"
            made.record["evened"] = smooth(model, batches)
            Making(source, start, {}).save(model)
            model = open_model(start)
        made.record["parameters"] = parameters(model)
        if method in CTRANSLATE2:
            report = _by_ctranslate2(made, start, model, method, batches, Path(scratch))
        else:
            report = _by_torchao(made, start, model, (method, config), batches)
        write_json(made.folder / "report.json", report)
        made.record["whole"] = report["whole"]


def _by_ctranslate2(
    made: Making, source: Path, model: Any, method: str, batches: Sequence[dict[str, torch.Tensor]], scratch: Path
) -> dict[str, Any]:
    of_weights, of_inputs = _rounding(method)
    embedding = model.get_input_embeddings().weight
    matrices = {
        name: (each, of_weights(each.weight.detach()))
        for name, each in model.named_modules()
        if isinstance(each, torch.nn.Linear) or getattr(each, "weight", None) is embedding
    }
    layers = _layer_errors(model, matrices, of_inputs, batches)
    # The converter wants to make the folder itself.
    made.folder.rmdir()
    convert(source, made.folder, CTRANSLATE2[method])
    convert(source, scratch / "full", "float32")
    return {"layers": layers, "whole": asdict(_compared(scratch / "full", made.folder, method, source, model, batches))}


def _compared(
    full: Path, small: Path, method: str, source: Path, model: Any, batches: Sequence[dict[str, torch.Tensor]]
) -> Whole:
    tokenizer, is_pair = open_tokenizer(source), bool(model.config.is_encoder_decoder)
    inputs = [_tokens(tokenizer, row) for batch in batches for row in batch["input_ids"].tolist()]
    kind = ctranslate2.Translator if is_pair else ctranslate2.Generator
    first, second = (
        kind(str(folder), inter_threads=1, compute_type=_computed(wanted))
        for folder, wanted in ((full, "float32"), (small, CTRANSLATE2[method]))
    )
    wanted, found = (_said(each, inputs, is_pair) for each in (first, second))
    if is_pair:
        scores = [each.score_batch(inputs, wanted) for each in (first, second)]
    else:
        whole = [[*given, *said] for given, said in zip(inputs, wanted, strict=True)]
        scores = [each.score_batch(whole) for each in (first, second)]
    before, after = ([value for row in rows for value in row.log_probs] for rows in scores)
    changes = [abs(one - other) for one, other in zip(before, after, strict=True)]
    same = sum(one == other for one, other in zip(wanted, found, strict=True))
    return _whole(changes, same, len(inputs))


def _computed(wanted: str) -> str:
    """What this CPU can compute of it: CTranslate2 would choose the same, with a warning."""
    able = ctranslate2.get_supported_compute_types("cpu")
    return next(kind for kind in (wanted, wanted.replace("bfloat16", "float32"), "float32") if kind in able)


def _whole(changes: Sequence[float], same: int, texts: int) -> Whole:
    mean = sum(changes) / max(1, len(changes))
    return Whole(texts, len(changes), mean, max(changes, default=0.0), same / max(1, texts))


def _said(model: Any, inputs: list[list[str]], is_pair: bool) -> list[list[str]]:
    if is_pair:
        found = model.translate_batch(inputs, beam_size=1, max_decoding_length=OUTPUT_TOKENS)
        return [each.hypotheses[0] for each in found]
    # One by one: prompts of different lengths would go through the decoder in pieces.
    made = [
        model.generate_batch([each], max_length=OUTPUT_TOKENS, include_prompt_in_result=False)[0] for each in inputs
    ]
    return [each.sequences[0] for each in made]


def _tokens(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(ids))


def _by_torchao(
    made: Making, source: Path, model: Any, method: tuple[str, Any], batches: Sequence[dict[str, torch.Tensor]]
) -> dict[str, Any]:
    small = _torchao(source, *method, made.folder)
    matrices: dict[str, tuple[Any, Weights]] = {}
    for name, each in small.named_modules():
        if isinstance(each, torch.nn.Linear) and hasattr(each.weight, "dequantize") and type(each.weight) is not _PLAIN:
            matrices[name] = (model.get_submodule(name), each.weight.dequantize().float())
    if not matrices:
        raise CannotMake("torchao has quantized nothing of this model")
    made.copy_others()
    layers = _layer_errors(model, matrices, lambda values: values, batches)
    return {"layers": layers, "whole": asdict(_twins(model, small, batches))}


_PLAIN = torch.nn.Parameter


def _torchao_config(method: str) -> Any:
    """What transformers is to be told; CannotMake where torchao is not installed."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup
        from transformers import TorchAoConfig
    except ImportError as exc:
        raise CannotMake(f"{method} needs torchao: pip install 'bushel[torchao]' ({exc})") from exc
    if method == "torchao-int8":
        return TorchAoConfig(Int8WeightOnlyConfig())
    # torch's own types do not list it.
    int4 = torch.int4  # type: ignore[attr-defined]
    return TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=int4, granularity=PerGroup(GROUP)))


def _torchao(source: Path, method: str, config: Any, folder: Path) -> Any:
    """The quantized model as it is read back from the folder, so that what is written is known to work."""
    try:
        with quietly():
            made = _kind(source).from_pretrained(
                source, local_files_only=True, dtype=torch.float32, quantization_config=config
            )
            made.save_pretrained(folder)
            return _kind(source).from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    except (RuntimeError, ValueError, NotImplementedError, AssertionError) as exc:
        raise CannotMake(
            f"{method}: transformers and torchao cannot write and read back this model ({exc}); matrices with a bias "
            "beside them get lost. Use CTranslate2's int8 for it"
        ) from exc


def _kind(folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


@torch.inference_mode()
def _twins(model: Any, small: Any, batches: Sequence[dict[str, torch.Tensor]]) -> Whole:
    changes: list[float] = []
    same = texts = 0
    for batch in progress(batches, len(batches), "comparing"):
        inputs = {name: value for name, value in batch.items() if name != "decoder_input_ids"}
        settings = {"max_new_tokens": OUTPUT_TOKENS, "min_length": 0, "num_beams": 1, "do_sample": False}
        wanted, found = (each.generate(**inputs, **settings) for each in (model, small))
        texts, same = texts + 1, same + int(torch.equal(wanted, found))
        is_pair = model.config.is_encoder_decoder
        first = 1 if is_pair else inputs["input_ids"].shape[1]
        given = {**inputs, "decoder_input_ids": wanted} if is_pair else {"input_ids": wanted}
        before, after = (each(**given).logits[:, first - 1 : -1].log_softmax(-1) for each in (model, small))
        chosen = wanted[:, first:, None]
        changes += (before.gather(2, chosen) - after.gather(2, chosen)).abs().flatten().tolist()
    return _whole(changes, same, texts)


@torch.inference_mode()
def _layer_errors(
    model: Any,
    matrices: dict[str, tuple[Any, Weights]],
    of_inputs: Rounding,
    batches: Iterable[dict[str, torch.Tensor]],
) -> dict[str, dict[str, float | None]]:
    layers = Layers()
    handles = [layers.watch(name, module, rounded, of_inputs) for name, (module, rounded) in matrices.items()]
    try:
        for batch in batches:
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return layers.said()


@torch.inference_mode()
def _batches(folder: Path, model: Any, texts: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    """Each text on its own, with what the model itself says to it, so that the decoder is judged too."""
    tokenizer, found = open_tokenizer(folder), []
    # Positions that are there for an input and what follows it.
    limit = min(256, (getattr(model.config, "max_position_embeddings", None) or 512) // 2)
    for text in progress(texts, len(texts), "reading texts"):
        rows = torch.tensor([tokenizer(text)["input_ids"][:limit]])
        batch = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
        if model.config.is_encoder_decoder:
            said = model.generate(**batch, max_new_tokens=OUTPUT_TOKENS, min_length=0, num_beams=1, do_sample=False)
            batch["decoder_input_ids"] = said
        found.append(batch)
    return found


def told(out: Path, method: str) -> str:
    """What it has come to, for the person at the terminal."""
    record, report = (json.loads((out / name).read_text("utf-8")) for name in ("record.json", "report.json"))
    before, after = (megabytes(record[side]["bytes"]) for side in ("source", "result"))
    whole, layers = report["whole"], report["layers"]
    same = round(whole["same_outputs"] * whole["texts"])
    rows = [
        f"{out}: {before} -> {after} of weights by {method}",
        f"Outputs the same for {same} of {whole['texts']} texts; log-probabilities change by "
        f"{whole['mean_change']:.3f} on average, {whole['largest_change']:.3f} at most.",
    ]
    if layers:
        worst = max(layers, key=lambda name: layers[name]["outputs"])
        rows.append(f"Worst layer: {worst}, outputs off by {layers[worst]['outputs']:.2%}. All: {out / 'report.json'}")
    if method in CTRANSLATE2:
        rows.append(
            "This is for programs that use CTranslate2 themselves. Bushel converts on its own: serve the unquantized "
            f'folder with quantization = "{method.replace("-", "_")}" in its registry entry.'
        )
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    asked = quantizing(argv)
    texts = [text for text in (lines(asked.texts) if asked.texts else TEXTS) if text.strip()]
    if not texts:
        raise BadSettings(f"{asked.texts} has no texts; it takes some to see how far outputs are off")
    quantize(model_folder(asked.model, asked.home), asked.out, asked.method, texts, asked.smooth, asked.again)
    print(told(asked.out, asked.method))


if __name__ == "__main__":
    run(main)
