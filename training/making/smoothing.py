"""Move what is hard to round from activations into weights, before int8; the model says the same in full precision.

Where one matrix makes what another one reads and nothing but a product or a ReLU is between them, a channel can be
divided in the first and multiplied in the second (Xiao et al. 2023, arXiv 2211.10438; Nagel et al. 2019). How large
activations become is measured on calibration texts. Where other functions are between, nothing is moved.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from training.making.anatomy import anatomy

Batch = dict[str, torch.Tensor]
STRENGTH = 0.5


def smooth(model: Any, batches: Iterable[Batch], strength: float = STRENGTH) -> int:
    """Change the model in place; how many pairs of matrices were evened out."""
    pairs = list(_pairs(model))
    largest: dict[str, torch.Tensor] = {}
    handles = [model.get_submodule(name).register_forward_pre_hook(_keeper(largest, name)) for _, name in pairs]
    try:
        with torch.inference_mode():
            for batch in batches:
                model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for maker, reader in pairs:
            _even(model.get_submodule(maker), model.get_submodule(reader), largest[reader], strength)
    return len(pairs)


def _pairs(model: Any) -> Iterator[tuple[str, str]]:
    """Names of the matrix that makes channels and of the one that reads them."""
    for stack in anatomy(model.config).stacks:
        for place in range(len(stack.of(model))):
            layer = f"{stack.layers}.{place}"
            # With a gate, the last of the rows is what the gate is multiplied with.
            if len(stack.rows) > 1 or getattr(model.config, "activation_function", None) == "relu":
                yield f"{layer}.{stack.rows[-1]}", f"{layer}.{stack.columns}"
            for each in stack.attentions:
                values, output = (model.get_submodule(f"{layer}.{name}") for name in (each.values, each.output))
                # Where heads share values, a channel is read at several places.
                if values.weight.shape[0] == output.weight.shape[1]:
                    yield f"{layer}.{each.values}", f"{layer}.{each.output}"


def _keeper(largest: dict[str, torch.Tensor], name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
    def keep(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        found = given[0].abs().flatten(0, -2).amax(0)
        largest[name] = torch.maximum(largest[name], found) if name in largest else found

    return keep


def _even(maker: Any, reader: Any, largest: torch.Tensor, strength: float) -> None:
    weights = reader.weight.abs().amax(0)
    scale = largest.clamp(min=1e-5) ** strength / weights.clamp(min=1e-5) ** (1 - strength)
    scale = scale / scale.log().mean().exp()
    maker.weight /= scale[:, None]
    if maker.bias is not None:
        maker.bias /= scale
    reader.weight *= scale
