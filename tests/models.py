"""Tiny real models with random weights, for tests: each under 2 MB and made in a few seconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MPNetConfig,
    MPNetModel,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from workers.engines.quiet import quietly

CORPUS = (
    "the quick brown fox jumps over the lazy dog and then it sleeps in the warm sun all day long",
    "we translate, summarize and generate text by the file; every line is kept in order",
    "how much wood would a woodchuck chuck if a woodchuck could chuck wood? nobody knows",
    "Numbers like 1, 23 and 456, names like Ada or Émile, and signs: % $ ( ) are here too!",
    "Guten Morgen, wie geht es dir heute? Das Wetter ist schön und der Kaffee ist heiß.",
    "summarize: translate English to German: long texts become short ones, short ones stay short",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_marian(folder: Path, targets: tuple[str, ...] = ("deu", "fra"), has_start: bool = False) -> Path:
    """A Marian model for several targets, named by `>>deu<<` before the text.

    With `has_start`, the padding's row is not zero, as fine-tuning by other tools leaves it; the decoder starts there.
    """
    source = _train_pieces(folder / "source", 250, bos_id=-1, pad_id=-1, eos_id=0, unk_id=1)
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    pieces = [source.id_to_piece(index) for index in range(source.get_piece_size())]
    vocabulary = [*pieces, *(f">>{target}<<" for target in targets), "<pad>"]
    pad = len(vocabulary) - 1
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(vocabulary)}), "utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "MarianTokenizer", "model_max_length": 64, "source_lang": "en"}), "utf-8"
    )
    config = MarianConfig(
        vocab_size=len(vocabulary), decoder_vocab_size=len(vocabulary), max_position_embeddings=64,
        scale_embedding=True, activation_function="swish",
        pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=0,
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    model = _random(MarianMTModel, config)
    if has_start:
        model.model.shared.weight.data[pad] = model.model.shared.weight.data[5:25].mean(0) * 3
    model.generation_config.bad_words_ids = [[pad]]
    return _saved(model, folder)


def make_t5(folder: Path, kind: str = "t5-1.1") -> Path:
    """The T5 of 2019 (`t5-1.0`), whose outputs are scaled, or its successors' shape, whose are not.

    Those are `t5-1.1`; `flan-t5`, with an output layer of its own, as the published ones have; and `mt5`.
    """
    tokenizer = _unigram(["<pad>", "</s>", "<unk>"], 250)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=512
    )
    fast.save_pretrained(folder)
    is_first = kind == "t5-1.0"
    sizes: dict[str, Any] = {
        "vocab_size": len(fast), "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
        "feed_forward_proj": "relu" if is_first else "gated-gelu", "tie_word_embeddings": is_first,
    }  # fmt: skip
    if kind == "mt5":
        model = _random(MT5ForConditionalGeneration, MT5Config(**sizes))
    else:
        model = _random(T5ForConditionalGeneration, T5Config(**sizes))
    if not is_first:
        # Outputs that nothing scales would be so sharp that rounding errors become several nats.
        model.decoder.final_layer_norm.weight.data.mul_(0.05)
    if kind == "flan-t5":
        model.lm_head.weight = torch.nn.Parameter(torch.randn(len(fast), 32))
    return _saved(model, folder)


def make_bart(folder: Path) -> Path:
    """BART as its summarizers are: the first token is forced to be <s>."""
    tokenizer = _unigram(["<s>", "<pad>", "</s>", "<unk>"], 250)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    config = BartConfig(
        vocab_size=len(fast), d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=96, bos_token_id=0,
        pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_bos_token_id=0, forced_eos_token_id=2,
    )  # fmt: skip
    model = _random(BartForConditionalGeneration, config)
    # As in the published summarizers, whose recommended search must not leak into what a request asks for.
    model.generation_config.update(num_beams=4, length_penalty=2.0, min_length=20, max_length=60, early_stopping=True)
    return _saved(model, folder)


def make_pegasus(folder: Path) -> Path:
    tokenizer = _unigram(["<pad>", "</s>", "<unk>"], 250)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=96
    )
    fast.save_pretrained(folder)
    config = PegasusConfig(
        vocab_size=len(fast), d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=96, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=1, scale_embedding=True,
    )  # fmt: skip
    return _saved(_random(PegasusForConditionalGeneration, config), folder)


def make_m2m100(folder: Path) -> Path:
    pieces = _train_pieces(folder / "sentencepiece.bpe", 250, bos_id=0, pad_id=1, eos_id=2, unk_id=3, suffix=".model")
    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    config = M2M100Config(
        vocab_size=len(vocabulary) + len(tokenizer.lang_code_to_id) + 8, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=2, decoder_attention_heads=2,
        max_position_embeddings=96, bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    return _saved(_random(M2M100ForConditionalGeneration, config), folder)


def make_causal(folder: Path, kind: str = "llama", context: int = 128, pieces: bool = False, padding: int = 0) -> Path:
    """A decoder-only model (`llama`, `qwen2` or `gpt2`), with a chat template and two tokens that end its turn.

    With `pieces`, its tokenizer is like Llama 2's: words begin with `▁`, and rare characters are spelled in bytes. With
    `padding`, the model has so many tokens more than the tokenizer, as many of the hub do.
    """
    tokenizer = _byte_fallback() if pieces else _byte_level()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
        unk_token="<|endoftext|>", model_max_length=context,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    sizes: dict[str, Any] = {"vocab_size": len(fast) + padding, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    rotary = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        # A base other than 10,000, as SmolLM2 and Qwen2 have: a converter that drops it is wrong without a word.
        "num_key_value_heads": 2, "max_position_embeddings": context,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    }  # fmt: skip
    makers: dict[str, Callable[[], PreTrainedModel]] = {
        "llama": lambda: _random(LlamaForCausalLM, LlamaConfig(**sizes, **rotary, tie_word_embeddings=True)),
        "qwen2": lambda: _random(Qwen2ForCausalLM, Qwen2Config(**sizes, **rotary, tie_word_embeddings=True)),
        "gpt2": lambda: _random(
            GPT2LMHeadModel, GPT2Config(**sizes, n_embd=32, n_layer=2, n_head=2, n_positions=context)
        ),
    }
    model = makers[kind]()
    model.generation_config.eos_token_id = [2, 0]
    return _saved(model, folder)


def make_bert(folder: Path, kind: str = "bert", pooling: str | None = None) -> Path:
    """An encoder (`bert` or `mpnet`); with `pooling`, as sentence-transformers saves it, cutting at 48 tokens."""
    # Padding is number 1, as in the RoBERTa family, where the positions depend on it.
    specials = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(tokenizer_models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]", model_max_length=64,
    )  # fmt: skip
    fast.save_pretrained(folder)
    sizes: dict[str, Any] = {
        "vocab_size": len(fast), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "pad_token_id": 1,
    }  # fmt: skip
    if kind == "mpnet":
        model = _random(MPNetModel, MPNetConfig(**sizes, max_position_embeddings=66))
    else:
        model = _random(BertModel, BertConfig(**sizes, max_position_embeddings=64))
    if pooling is not None:
        (folder / "1_Pooling").mkdir(parents=True)
        (folder / "1_Pooling" / "config.json").write_text(
            json.dumps({f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")})
        )
        layers = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in layers]
        (folder / "modules.json").write_text(json.dumps(listed))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48, "do_lower_case": False}))
    return _saved(model, folder)


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _byte_fallback() -> Tokenizer:
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(tokenizer_models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=[*SPECIALS, *every_byte], show_progress=False)
    )
    learned = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(tokenizer_models.BPE(learned["vocab"], merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def _train_pieces(prefix: Path, size: int, suffix: str = ".spm", **ids: int) -> sentencepiece.SentencePieceProcessor:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    target = prefix.with_name(prefix.name + suffix)
    with target.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS * 4), model_writer=file, vocab_size=size, hard_vocab_limit=False,
            character_coverage=1.0, minloglevel=2, **ids,
        )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_file=str(target))


def _unigram(specials: list[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(tokenizer_models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    return tokenizer


def _random(model_class: type[Any], config: Any) -> Any:
    torch.manual_seed(7)
    model = model_class(config).eval()
    # Larger than the usual initialization, so that outputs vary and the best token is clearly the best.
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8 if "embed" not in name and "shared" not in name else 4)
    return model


def _saved(model: Any, folder: Path) -> Path:
    with quietly():
        model.save_pretrained(folder)
    return folder
