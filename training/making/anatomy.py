"""Where the parts of a model are, by its architecture: layers, feed-forward networks, attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from training.errors import CannotMake


@dataclass(frozen=True, slots=True)
class Attention:
    """Names inside a layer. `has_bias`: heads are known by their number to a position bias all layers share."""

    queries: str
    keys: str
    values: str
    output: str
    has_bias: bool = False


@dataclass(frozen=True, slots=True)
class Stack:
    """Equal layers on top of each other, and the settings of the config their sizes are in.

    `rows` are the feed-forward matrices that have a row for each neuron, `columns` the one that has a column.
    """

    name: str
    layers: str
    count: str
    ffn: str
    rows: tuple[str, ...]
    columns: str
    attentions: tuple[Attention, ...]

    def of(self, model: Any) -> nn.ModuleList:
        found = model.get_submodule(self.layers)
        assert isinstance(found, nn.ModuleList)
        return found


@dataclass(frozen=True, slots=True)
class Anatomy:
    """`heads` is the setting of the number of heads where it may change without the width of the model."""

    stacks: tuple[Stack, ...]
    heads: str | None = None
    key_heads: str | None = None


def _bart_stack(side: str) -> Stack:
    names = ("self_attn",) if side == "encoder" else ("self_attn", "encoder_attn")
    attentions = (Attention(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj", f"{name}.out_proj") for name in names)
    return Stack(side, f"model.{side}.layers", f"{side}_layers", f"{side}_ffn_dim", ("fc1",), "fc2", tuple(attentions))


def _t5_stack(side: str, is_gated: bool) -> Stack:
    names = ("layer.0.SelfAttention",) if side == "encoder" else ("layer.0.SelfAttention", "layer.1.EncDecAttention")
    place = "layer.1" if side == "encoder" else "layer.2"
    rows = ("wi_0", "wi_1") if is_gated else ("wi",)
    attentions = (
        Attention(f"{name}.q", f"{name}.k", f"{name}.v", f"{name}.o", has_bias="Self" in name) for name in names
    )
    return Stack(
        side,
        f"{side}.block",
        "num_layers" if side == "encoder" else "num_decoder_layers",
        "d_ff",
        tuple(f"{place}.DenseReluDense.{row}" for row in rows),
        f"{place}.DenseReluDense.wo",
        tuple(attentions),
    )


_LLAMA = Stack(
    "decoder",
    "model.layers",
    "num_hidden_layers",
    "intermediate_size",
    ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj",
    (Attention("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),),
)
_BART = Anatomy((_bart_stack("encoder"), _bart_stack("decoder")))
_KNOWN: Mapping[str, Anatomy] = {
    **dict.fromkeys(("bart", "marian", "mbart", "m2m_100", "pegasus"), _BART),
    **dict.fromkeys(("llama", "mistral", "qwen2"), Anatomy((_LLAMA,), "num_attention_heads", "num_key_value_heads")),
}


def anatomy(config: Any) -> Anatomy:
    """CannotMake for an architecture nobody has described here."""
    if config.model_type in ("t5", "mt5"):
        stacks = tuple(_t5_stack(side, config.is_gated_act) for side in ("encoder", "decoder"))
        return Anatomy(stacks, "num_heads")
    if config.model_type not in _KNOWN:
        raise CannotMake(f"{config.model_type} models are not known here; known: t5, mt5, {', '.join(sorted(_KNOWN))}")
    return _KNOWN[config.model_type]
