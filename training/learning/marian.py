"""A new Marian model, its training loss, and its folder as transformers and CTranslate2 read it."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, MarianConfig, MarianMTModel

from training.learning.loss import linear_cross_entropy
from training.learning.vocabulary import EOS
from training.recipe import Shape
from workers.engines.quiet import quietly


def new_model(shape: Shape, pad: int) -> MarianMTModel:
    """`pad` is the last id of the vocabulary, and starts the decoder."""
    model = MarianMTModel(
        MarianConfig(
            vocab_size=pad + 1,
            decoder_vocab_size=pad + 1,
            max_position_embeddings=shape.positions,
            scale_embedding=True,
            pad_token_id=pad,
            eos_token_id=EOS,
            decoder_start_token_id=pad,
            forced_eos_token_id=EOS,
            share_encoder_decoder_embeddings=True,
            activation_function="relu",
            d_model=shape.d_model,
            encoder_layers=shape.encoder_layers,
            decoder_layers=shape.decoder_layers,
            encoder_ffn_dim=shape.ffn,
            decoder_ffn_dim=shape.ffn,
            encoder_attention_heads=shape.heads,
            decoder_attention_heads=shape.heads,
            dropout=shape.dropout,
        )
    )
    hold_pad_at_zero(model)
    return model


def pad_of(model: MarianMTModel) -> int:
    pad = model.config.pad_token_id
    assert pad is not None
    return pad


def hold_pad_at_zero(model: MarianMTModel) -> None:
    """CTranslate2 starts the decoder from a zero embedding, transformers from the pad row: it has to be zero."""
    shared = model.model.shared.weight
    shared.data[model.config.pad_token_id] = 0
    if shared.grad is not None:
        shared.grad[model.config.pad_token_id] = 0


def lighten(model: MarianMTModel) -> None:
    """Make training on a CPU faster: what passes between layers is in bfloat16 wherever products are.

    A sixth of the time of a step goes into conversions otherwise. And attention is computed step by step, twice as fast
    there as scaled_dot_product_attention, whose gradients take long where sentences are short.
    """
    model.set_attn_implementation("eager")
    for stack in (model.model.encoder, model.model.decoder):
        stack.layers[0].register_forward_pre_hook(_halve)


def _halve(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    states, *others = given
    return (states.bfloat16() if torch.is_autocast_enabled(states.device.type) else states, *others)


def loss_of(
    model: MarianMTModel, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy per target token, in nats; the products are in bfloat16."""
    pad, device = pad_of(model), model.device
    source, target = padded(sources, pad).to(device), padded(targets, pad).to(device)
    shifted = torch.cat([torch.full((len(target), 1), pad, device=device), target[:, :-1]], 1)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        states = model.model(
            input_ids=source, attention_mask=(source != pad).long(), decoder_input_ids=shifted, use_cache=False
        ).last_hidden_state
        flat = states.to(torch.bfloat16).flatten(0, 1)
    return linear_cross_entropy(flat, model.lm_head.weight, target.flatten(), pad, smoothing)


def padded(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])


@torch.inference_mode()
def greedy(model: MarianMTModel, sources: Sequence[Sequence[int]], max_tokens: int, batch: int = 64) -> list[list[int]]:
    """Greedy outputs in the order of `sources`."""
    pad = pad_of(model)
    # Its types know nothing of models that have no search of their own.
    generating: Any = model
    order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        rows = padded([sources[place] for place in places], pad).to(model.device)
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_tokens,
            num_beams=1,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=EOS,
            decoder_start_token_id=pad,
        )
        made = generating.generate(rows, attention_mask=(rows != pad).long(), generation_config=settings)
        found |= dict(zip(places, made[:, 1:].tolist(), strict=True))
    return [found[place] for place in range(len(sources))]


def save(model: MarianMTModel, folder: Path) -> None:
    """In half precision; the tokenizer's files are the vocabulary's."""
    # A copy of the whole, so that what is tied stays tied and is written once.
    with quietly():
        copy.deepcopy(model).half().save_pretrained(folder)  # type: ignore[no-untyped-call]
