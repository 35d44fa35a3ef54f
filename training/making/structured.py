"""Cut the least important feed-forward neurons and attention heads out of a model, so that its matrices shrink.

bushel models prune structured MODEL OUT --pairs FILE.tsv [--ffn 0.75] [--heads 0.5] [--batches 8]

Importance is |activation x gradient of the loss|, summed over a sequence and averaged over some batches: the
first-order estimate of what the loss would gain by the part's loss (Michel et al. 2019, arXiv 1905.10650).
The fraction kept is the same in every layer, since a config has one size for all. Heads can go where a model's width
does not follow from their number (T5, Llama); BART, Marian, M2M100, mBART and Pegasus can lose neurons only.
A model with fewer heads runs in transformers only: CTranslate2 (4.8) refuses sizes of heads of their own.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from training.errors import CannotMake
from training.folders import model_folder, open_model, open_tokenizer
from training.learning.marian import padded
from training.making.anatomy import Anatomy, Stack, anatomy
from training.making.artifact import making, parameters, rebuilt
from training.making.languages import told
from training.making.options import cutting
from training.making.outcome import outcome
from training.pairs import Part
from training.progress import progress
from training.provenance import file_digest
from training.settings import run
from training.spread import spread

Batch = dict[str, torch.Tensor]
# A matrix that is cut: its name, the dimension, the places that stay.
Cut = tuple[str, int, torch.Tensor]


class Importance:
    """How much each input of some linear maps matters, gathered while the model runs forward and back."""

    def __init__(self, model: Any, groups: Mapping[str, int]) -> None:
        """`groups`: names of linear maps, and into how many equal parts their inputs are to be counted."""
        self._model, self._groups = model, groups
        self._inputs: dict[str, torch.Tensor] = {}
        self._sums = {name: torch.zeros(count) for name, count in groups.items()}

    def gather(self, batches: Iterable[Batch]) -> dict[str, torch.Tensor]:
        handles = [
            self._model.get_submodule(name).register_forward_pre_hook(self._keeper(name)) for name in self._groups
        ]
        try:
            for batch in batches:
                self._model.zero_grad(set_to_none=True)
                self._model(**batch, use_cache=False).loss.backward()
                self._add()
        finally:
            for handle in handles:
                handle.remove()
            self._model.zero_grad(set_to_none=True)
        return self._sums

    def _keeper(self, name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def keep(_: Any, given: tuple[torch.Tensor, ...]) -> None:
            given[0].retain_grad()
            self._inputs[name] = given[0]

        return keep

    def _add(self) -> None:
        for name, value in self._inputs.items():
            assert value.grad is not None
            gain = (value * value.grad).detach()
            parts = gain.reshape(len(gain), -1, self._groups[name], gain.shape[-1] // self._groups[name])
            self._sums[name] += parts.sum((1, 3)).abs().sum(0)
        self._inputs.clear()


def shrunk(model: Any, batches: Iterable[Batch], ffn: float = 1.0, heads: float = 1.0) -> Any:
    """A copy of the model that keeps these fractions of its neurons and heads, the most important ones."""
    parts, config = anatomy(model.config), copy.deepcopy(model.config)
    if heads < 1 and parts.heads is None:
        raise CannotMake(
            f"heads cannot be cut out of a {config.model_type} model: the size of a head is its width divided by "
            "their number, so fewer heads would have to be wider; cut neurons (--ffn) instead"
        )
    # Grouped queries share their keys, and go with them.
    groups = getattr(config, parts.key_heads or parts.heads or "", 0)
    found = Importance(model, _counted(model, parts, ffn, groups if heads < 1 else 0)).gather(batches)
    cuts: list[Cut] = []
    if ffn < 1:
        cuts += _neuron_cuts(model, parts.stacks, found, ffn)
        for name in {stack.ffn for stack in parts.stacks}:
            setattr(config, name, count(getattr(config, name), ffn))
    if heads < 1 and parts.heads is not None:
        for stack in parts.stacks:
            cuts += _head_cuts(model, stack, found, heads)
        kept = count(groups, heads)
        setattr(config, parts.heads, getattr(config, parts.heads) // groups * kept)
        if parts.key_heads is not None:
            # Else the size of a head would follow from their number.
            config.head_dim = _head_size(model.config)
            setattr(config, parts.key_heads, kept)
    return rebuilt(model, config, _cut(model.state_dict(), cuts))


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def count(of: int, fraction: float) -> int:
    """How many are kept: at least one."""
    return max(1, round(of * fraction))


def _counted(model: Any, parts: Anatomy, ffn: float, groups: int) -> dict[str, int]:
    """The linear maps whose inputs are judged, and in how many parts."""
    found: dict[str, int] = {}
    for stack in parts.stacks:
        for place in range(len(stack.of(model))):
            layer = f"{stack.layers}.{place}"
            if ffn < 1:
                found[f"{layer}.{stack.columns}"] = getattr(model.config, stack.ffn)
            if groups:
                found |= {f"{layer}.{each.output}": groups for each in stack.attentions}
    return found


def _best(importance: torch.Tensor, fraction: float) -> torch.Tensor:
    return importance.topk(count(len(importance), fraction)).indices.sort().values


def _neuron_cuts(
    model: Any, stacks: Sequence[Stack], found: Mapping[str, torch.Tensor], fraction: float
) -> Iterator[Cut]:
    for stack in stacks:
        for place in range(len(stack.of(model))):
            layer = f"{stack.layers}.{place}"
            kept = _best(found[f"{layer}.{stack.columns}"], fraction)
            yield f"{layer}.{stack.columns}.weight", 1, kept
            for row in stack.rows:
                yield f"{layer}.{row}.weight", 0, kept
                yield f"{layer}.{row}.bias", 0, kept


def _head_cuts(model: Any, stack: Stack, found: Mapping[str, torch.Tensor], fraction: float) -> Iterator[Cut]:
    layers = [f"{stack.layers}.{place}" for place in range(len(stack.of(model)))]
    for attention in stack.attentions:
        importance = torch.stack([found[f"{layer}.{attention.output}"] for layer in layers])
        if attention.has_bias:
            # One bias says for all layers where a head looks: the same heads have to go everywhere.
            importance = importance.sum(0, keepdim=True).expand_as(importance)
            name = f"{layers[0]}.{attention.queries.rpartition('.')[0]}.relative_attention_bias.weight"
            yield name, 1, _best(importance[0], fraction)
        for layer, each in zip(layers, importance, strict=True):
            kept, total = _best(each, fraction), len(each)
            yield f"{layer}.{attention.output}.weight", 1, _spread(model, f"{layer}.{attention.output}", 1, kept, total)
            for part in (attention.queries, attention.keys, attention.values):
                rows = _spread(model, f"{layer}.{part}", 0, kept, total)
                yield f"{layer}.{part}.weight", 0, rows
                yield f"{layer}.{part}.bias", 0, rows


def _spread(model: Any, name: str, dimension: int, kept: torch.Tensor, total: int) -> torch.Tensor:
    """The rows or columns of a matrix that belong to the heads `kept` of `total`."""
    size: int = model.get_submodule(name).weight.shape[dimension] // total
    return (kept[:, None] * size + torch.arange(size)).flatten()


def _cut(weights: Mapping[str, torch.Tensor], cuts: Iterable[Cut]) -> dict[str, torch.Tensor]:
    """Biases are named whether or not the model has them."""
    made = dict(weights)
    for name, dimension, kept in cuts:
        if name in made:
            made[name] = made[name].index_select(dimension, kept)
    return made


def batches_of(
    folder: Path,
    model: Any,
    pairs: Iterable[tuple[str, str]],
    size: int = 8,
    languages: tuple[str | None, str | None] = (None, None),
) -> list[Batch]:
    """Pairs as the model is trained on them; a decoder-only model reads both sides as one text."""
    tokenizer, is_pair = told(open_tokenizer(folder), *languages), bool(model.config.is_encoder_decoder)
    pad = model.config.pad_token_id or 0
    limit = min(256, getattr(model.config, "max_position_embeddings", None) or 256)
    rows = []
    for source, target in pairs:
        text = source if is_pair else f"{source} {target}"
        made = tokenizer(text)["input_ids"][:limit]
        rows.append((made, tokenizer(text_target=target)["input_ids"][:limit] if is_pair else made))
    found = []
    for start in range(0, len(rows), size):
        inputs, labels = zip(*rows[start : start + size], strict=True)
        mask = padded([[1] * len(row) for row in inputs], 0)
        found.append({"input_ids": padded(inputs, pad), "attention_mask": mask, "labels": padded(labels, -100)})
    return found


def structured(
    source: Path,
    out: Path,
    pairs: Part,
    data: Path,
    ffn: float,
    heads: float,
    batches: int,
    size: int = 8,
    is_again: bool = False,
) -> None:
    """Write the smaller model to `out`; importance is judged on pairs from all over the file."""
    settings = {"ffn": ffn, "heads": heads, "batches": batches, "pairs": file_digest(data / pairs.file)}
    settings |= {"tag": pairs.tag, "languages": [pairs.source_lang, pairs.target_lang]}
    with making(source, out, "structured", settings, is_again) as made:
        model = open_model(source)
        made.record["parameters_before"] = parameters(model)
        first = spread(list(pairs.read(data)), batches * size)
        some = [(f"{pair.tag or ''} {pair.source}".strip(), pair.target) for pair in first]
        read = batches_of(source, model, some, size, (pairs.source_lang, pairs.target_lang))
        made.save(shrunk(model, progress(read, len(read), "judging parts"), ffn, heads))


def main(argv: Sequence[str] | None = None) -> None:
    asked = cutting(argv)
    part = Part(asked.pairs.name, 0, 1, asked.tag, asked.source_lang, asked.target_lang)
    sizes = (asked.ffn, asked.heads, asked.batches)
    folder = model_folder(asked.model, asked.home)
    structured(folder, asked.out, part, asked.pairs.parent, *sizes, is_again=asked.again)
    print(outcome(asked.out))


if __name__ == "__main__":
    run(main)
