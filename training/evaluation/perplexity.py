"""How surprised a model is by given texts: perplexity per token, and bits per byte, which other tokenizers share.

Scored is the first reference of each item, after its source; or, where there are no references, the source itself. An
encoder-decoder's end of text counts, and not the tokens it is forced to begin with. A causal model's text is tokenized
apart from its prompt, and no end of text is expected of it; without a prompt, its first token follows the one that
begins a text.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from models.spec import EngineKind, ModelSpec
from training.evaluation.ngrams import KneserNey
from training.evaluation.references import Item
from training.progress import progress
from workers.engines.base import Limits, Params, Prompt
from workers.engines.files import ModelFiles, find_files
from workers.engines.tokens import AutoTokens, full_prefix

BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Text:
    """A text in tokens: what stands before it, what is forced, what is to be foretold. Cut, it has no `bytes`."""

    context: tuple[int, ...]
    forced: tuple[int, ...]
    target: tuple[int, ...]
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Over all texts; `cut` of them were longer than the model can take, and lack their ends.

    Bits per byte are of the others only, and None if there are none.
    """

    perplexity: float
    nats: float
    tokens: int
    bits_per_byte: float | None
    cut: int


class Reader(Protocol):
    """A loaded model that judges texts instead of writing them."""

    def nats(self, texts: Sequence[Text]) -> list[float]:
        """How much each text surprises, in the order of `texts`."""
        ...


def measure(
    spec: ModelSpec, cache: Path, limits: Limits, params: Params, items: Sequence[Item], device: str | None = None
) -> Perplexity:
    """With the weights and the arithmetic that `spec` names."""
    return summed(*_read(spec, cache, limits, params, items, device))


def nats(
    spec: ModelSpec, cache: Path, limits: Limits, params: Params, items: Sequence[Item], device: str | None = None
) -> list[float]:
    """How much each item's text surprises, in their order."""
    return _read(spec, cache, limits, params, items, device)[1]


def baseline(
    spec: ModelSpec, cache: Path, limits: Limits, params: Params, items: Sequence[Item], training: Sequence[Item]
) -> Perplexity:
    """That of a 3-gram model of the same tokens, which has read `training`; it never sees what stands before a text."""
    files = find_files(spec, cache)
    tokens = AutoTokens(spec, files)
    texts = tokenized(spec, files, tokens, limits, params, items)
    read = [text.target for text in tokenized(spec, files, tokens, limits, params, training)]
    with tokens.borrowed() as tokenizer:
        size = len(tokenizer)
    counted = KneserNey(read, max(size, int(files.config.get("vocab_size", 0))))
    return summed(texts, [-float(counted.log_probabilities(text.target).sum()) for text in texts])


def summed(texts: Sequence[Text], nats: Sequence[float]) -> Perplexity:
    count = sum(len(text.target) for text in texts)
    whole = [(text.bytes, each) for text, each in zip(texts, nats, strict=True) if text.bytes is not None]
    size = sum(length for length, _ in whole)
    bits = sum(each for _, each in whole) / math.log(2) / size if size else None
    # A model that holds a text for impossible is infinitely surprised, not an error.
    mean = sum(nats) / max(1, count)
    return Perplexity(
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        nats=sum(nats),
        tokens=count,
        bits_per_byte=bits,
        cut=len(texts) - len(whole),
    )


def tokenized(
    spec: ModelSpec, files: ModelFiles, tokens: AutoTokens, limits: Limits, params: Params, items: Sequence[Item]
) -> list[Text]:
    """Each item's text, cut to what the model can take."""
    if files.is_encoder_decoder:
        return list(_answers(spec, files, tokens, limits, params, items))
    return list(_continuations(spec, files, tokens, limits, params, items))


def _answers(
    spec: ModelSpec, files: ModelFiles, tokens: AutoTokens, limits: Limits, params: Params, items: Sequence[Item]
) -> Iterator[Text]:
    wanted = [item.references[0] if item.references else item.source for item in items]
    contexts = tokens.encode([Prompt(item.source) for item in items], params, limits.max_input)
    forced, ends = tokens.forced(params), files.token_ids("eos_token_id")
    with tokens.borrowed() as tokenizer:
        if params.target_lang is not None and hasattr(tokenizer, "tgt_lang"):
            tokenizer.tgt_lang = params.target_lang
        rows = tokenizer(text_target=wanted, truncation=False, verbose=False)["input_ids"]
    for text, context, row in zip(wanted, contexts, rows, strict=True):
        bare = tuple(row[:-1] if row and row[-1] in ends else row)
        if forced and bare[: len(forced)] == forced:
            bare = bare[len(forced) :]
        whole = (*bare, *ends[:1])
        kept = whole[: limits.max_output]
        is_whole = len(kept) == len(whole)
        yield Text(_ids(context.tokens), forced, kept, len(text.encode()) if is_whole else None)


def _continuations(
    spec: ModelSpec, files: ModelFiles, tokens: AutoTokens, limits: Limits, params: Params, items: Sequence[Item]
) -> Iterator[Text]:
    prefix = full_prefix(spec, params)
    with tokens.borrowed() as tokenizer:
        # What it puts before every text, or what would begin one.
        starts = tuple(tokenizer("")["input_ids"]) or _begin(files, tokenizer)
        for item in items:
            text = item.references[0] if item.references else item.source
            context = tuple(tokenizer(prefix + item.source, verbose=False)["input_ids"]) if item.references else starts
            target = tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            # The end of a long prompt is nearer to the text than its beginning.
            context = context[-max(1, limits.max_input // 2) :] or starts
            kept = target[: max(1, limits.max_input - len(context))]
            yield Text(context, (), kept, len(text.encode()) if len(kept) == len(target) else None)


def _read(
    spec: ModelSpec, cache: Path, limits: Limits, params: Params, items: Sequence[Item], device: str | None
) -> tuple[list[Text], list[float]]:
    files = find_files(spec, cache)
    tokens = AutoTokens(spec, files)
    texts = tokenized(spec, files, tokens, limits, params, items)
    return texts, _all_nats(_reader(spec, files, tokens, cache, device), texts, spec.name)


def _begin(files: ModelFiles, tokenizer: Any) -> tuple[int, ...]:
    ends = files.token_ids("eos_token_id")
    candidates = (tokenizer.bos_token_id, *files.token_ids("bos_token_id"), tokenizer.eos_token_id, *ends, 0)
    return (next(int(each) for each in candidates if each is not None),)


def _all_nats(reader: Reader, texts: Sequence[Text], name: str) -> list[float]:
    order = sorted(range(len(texts)), key=lambda place: _length(texts[place]))
    found: dict[int, float] = {}
    batches = list(_batches(texts, order))
    for places in progress(batches, len(batches), f"perplexity of {name}"):
        found |= dict(zip(places, reader.nats([texts[place] for place in places]), strict=True))
    return [found[place] for place in range(len(texts))]


def _batches(texts: Sequence[Text], order: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for place in order:
        # In rising order the one that is added is the longest, and all are padded up to it.
        if batch and (len(batch) + 1) * _length(texts[place]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _length(text: Text) -> int:
    return len(text.context) + len(text.forced) + len(text.target)


def _reader(spec: ModelSpec, files: ModelFiles, tokens: AutoTokens, cache: Path, device: str | None) -> Reader:
    if spec.engine is EngineKind.CTRANSLATE2:
        return _CTranslate2Reader(spec, files, tokens, cache, device)
    return _TorchReader(spec, files, device)


class _CTranslate2Reader:
    def __init__(self, spec: ModelSpec, files: ModelFiles, tokens: AutoTokens, cache: Path, device: str | None) -> None:
        import ctranslate2

        from workers.engines.convert import converted
        from workers.engines.ctranslate2 import COMPUTE_TYPES

        kind = COMPUTE_TYPES.get(spec.quantization, spec.quantization)
        where, _, index = (device or ("cuda" if ctranslate2.get_cuda_device_count() else "cpu")).partition(":")
        self._is_causal, self._tokens = not files.is_encoder_decoder, tokens
        self._ends = frozenset(files.token_ids("eos_token_id"))
        maker = ctranslate2.Generator if self._is_causal else ctranslate2.Translator
        folder = str(converted(spec, files, kind, cache))
        self._model = maker(folder, device=where, device_index=int(index or 0), compute_type=kind)

    def nats(self, texts: Sequence[Text]) -> list[float]:
        pieces = self._tokens.pieces
        if self._is_causal:
            rows = [pieces((*text.context, *text.target)) for text in texts]
            results = self._model.score_batch([list(row) for row in rows], max_input_length=0)
            return [-sum(each.log_probs[-len(text.target) :]) for each, text in zip(results, texts, strict=True)]
        sources = [list(pieces(text.context)) for text in texts]
        # It puts the end behind every target by itself, and tells its odds too; those of a cut text are not wanted.
        bare = [(*text.forced, *(text.target[:-1] if self._is_ended(text) else text.target)) for text in texts]
        results = self._model.score_batch(sources, [list(pieces(row)) for row in bare], max_input_length=0)
        return [
            -sum(each.log_probs[len(text.forced) : len(text.forced) + len(text.target)])
            for each, text in zip(results, texts, strict=True)
        ]

    def _is_ended(self, text: Text) -> bool:
        return bool(text.target) and text.target[-1] in self._ends


class _TorchReader:
    def __init__(self, spec: ModelSpec, files: ModelFiles, device: str | None) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        from workers.engines.files import load_weights
        from workers.engines.quiet import quietly
        from workers.engines.torch_device import TYPES, find_device
        from workers.engines.transformers import DEFAULT_TYPES

        where = find_device(device)
        kind = spec.quantization if spec.quantization != "default" else DEFAULT_TYPES[where.type]
        self._is_causal = not files.is_encoder_decoder
        self._start = files.token_ids("decoder_start_token_id")[:1]
        # What may never be written; CTranslate2 has no such tokens at all (Marian's padding).
        banned = files.generation.get("bad_words_ids") or files.config.get("bad_words_ids") or []
        self._banned = [each[0] for each in banned if len(each) == 1]
        maker = AutoModelForCausalLM if self._is_causal else AutoModelForSeq2SeqLM
        with quietly():
            model = load_weights(maker, files.folder, dtype=TYPES[kind], trust_remote_code=False)
        self._model = model.eval().to(where)

    def nats(self, texts: Sequence[Text]) -> list[float]:
        import torch

        with torch.inference_mode():
            before = [text.context if self._is_causal else (*self._start, *text.forced) for text in texts]
            rows = [(*first, *text.target) for first, text in zip(before, texts, strict=True)]
            # What is last is foretold, and never read; there may be no position for it.
            given, mask = self._padded([row[:-1] for row in rows])
            wanted, _ = self._padded([row[1:] for row in rows])
            if self._is_causal:
                logits = self._model(input_ids=given, attention_mask=mask, use_cache=False).logits
            else:
                sources, source_mask = self._padded([text.context for text in texts])
                logits = self._model(
                    input_ids=sources, attention_mask=source_mask, decoder_input_ids=given, use_cache=False
                ).logits
            logits[..., self._banned] = -torch.inf
            odds = logits.float().log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
            return [
                -float(odds[place, len(first) - 1 : len(row) - 1].double().sum())
                for place, (first, row) in enumerate(zip(before, rows, strict=True))
            ]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Padded behind, where nothing that counts can look."""
        import torch

        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self._model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._model.device)
        return ids, mask


def _ids(tokens: Sequence[str] | Sequence[int]) -> tuple[int, ...]:
    return tuple(int(token) for token in tokens)
