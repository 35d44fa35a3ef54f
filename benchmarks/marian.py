"""A Marian model of 60 million parameters with random weights: as fast as a trained one of its shape, and as large."""

import json
import shutil
from pathlib import Path
from typing import Any

import models

NAME = "random-60m"
_STARTER = Path(models.__file__).parent / "translation-best"
VOCABULARY = 32_000
_POSITIONS = 512
_SEED = 6
# The second is for what the decoder takes from the encoder, which is a mean over the input and so comes out small.
_GAIN, _CROSS_GAIN, _EMBEDDING = 1.4, 4.0, 0.1


def make_random(folder: Path) -> Path:
    """The model's folder as transformers and CTranslate2 read it; made once, the same weights every time.

    d_model 512, 6 + 6 layers, feed-forward 2,048, 32,001 tokens: the shape of OPUS-MT's and Marian's base models. Its
    pieces are those of the starter translator, filled up with ones that no text has.
    """
    made = folder / NAME
    if not (made / "config.json").is_file():
        unfinished = folder / f"{NAME}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write_tokenizer(unfinished)
        _write_weights(unfinished)
        unfinished.rename(made)
    return made


def _write_tokenizer(folder: Path) -> None:
    for name in ("source.spm", "target.spm"):
        shutil.copyfile(_STARTER / name, folder / name)
    ids: dict[str, int] = json.loads((_STARTER / "vocab.json").read_text("utf-8"))
    known = len(ids) - 1
    filled = {token: id for token, id in ids.items() if token != "<pad>"}
    # Without the mark of a word's beginning, which tokenizers do not treat alike in pieces that they do not know.
    filled |= {f"~{id}": id for id in range(known, VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(filled | {"<pad>": VOCABULARY}, ensure_ascii=False), "utf-8")
    settings = {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": "en",
        "target_lang": "de",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "separate_vocabs": False,
        "model_max_length": _POSITIONS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def _write_weights(folder: Path) -> None:
    import torch
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(_SEED)
    pad = VOCABULARY
    config = MarianConfig(
        vocab_size=pad + 1,
        decoder_vocab_size=pad + 1,
        max_position_embeddings=_POSITIONS,
        scale_embedding=True,
        pad_token_id=pad,
        eos_token_id=0,
        decoder_start_token_id=pad,
        # Else transformers would end every output of the full length with it, and CTranslate2 none.
        forced_eos_token_id=None,
        share_encoder_decoder_embeddings=True,
        activation_function="swish",
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_ffn_dim=2_048,
        decoder_ffn_dim=2_048,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
    )
    model = MarianMTModel(config)
    _liven(model)
    model.generation_config.bad_words_ids = [[pad]]
    model.half().save_pretrained(folder)  # type: ignore[no-untyped-call]


def _liven(model: Any) -> None:
    """Let what a layer adds weigh as much as what it was given, so that the output depends on the input.

    With the usual small weights the decoder says one and the same token whatever it is asked: outputs would agree, and
    that would mean nothing. Now it says one token again and again that is another one for most inputs.
    """
    import torch

    pad = VOCABULARY
    torch.nn.init.normal_(model.model.shared.weight, std=_EMBEDDING)
    # CTranslate2 starts the decoder from a zero embedding, transformers from the pad row.
    model.model.shared.weight.data[pad] = 0
    for name, module in model.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            gain = _CROSS_GAIN if "encoder_attn.out_proj" in name else _GAIN
            torch.nn.init.normal_(module.weight, std=gain / module.in_features**0.5)
