"""The reference runtime: transformers' own model classes, on CUDA or the CPU, at full or half precision."""

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from models.registry import ModelSpec
from workers.engines.base import (
    Encoded,
    EngineBroken,
    Generation,
    Limits,
    ModelUnavailable,
    OutOfMemory,
    Params,
    Prompt,
    Recipe,
)
from workers.engines.batches import Budget, token_batches
from workers.engines.files import ModelFiles, load_weights
from workers.engines.limits import find_limits
from workers.engines.quiet import quietly
from workers.engines.stops import cut_text, cut_tokens, has_stop, tail_length
from workers.engines.tokens import AutoTokens

TYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
DEFAULT_TYPES: Mapping[str, str] = {"cpu": "float32", "cuda": "bfloat16"}
BATCH_TOKENS: Mapping[str, int] = {"cpu": 2048, "cuda": 32768}
# Asking may cost a lock or more, and a decoding step of a small model takes a millisecond.
POLL_SECONDS = 0.1
# What a decoder-only prompt costs on top of its length, since its output shares the cache.
CAUSAL_OUTPUT_COST = 32


class TransformersEngine:
    """A model of transformers behind the engine protocol."""

    def __init__(self, spec: ModelSpec, files: ModelFiles, tokens: AutoTokens, model: Any, recipe: Recipe) -> None:
        self._spec, self._files, self._tokens, self._model = spec, files, tokens, model
        self._recipe = recipe
        self._is_causal = not files.is_encoder_decoder
        self._ends = files.token_ids("eos_token_id")
        self._limits = find_limits(spec, files, tokens.limit, len(self._forced(_some_params(spec))))
        self._pad = next(iter((*files.token_ids("pad_token_id"), *self._ends)), 0)
        self._wants_scores = bool(spec.options.get("scores", False))
        self._budget = Budget(int(spec.options.get("batch_tokens", BATCH_TOKENS[model.device.type])))
        # What the model's author recommends is for the registry's defaults; left here, it would fill every gap.
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def recipe(self) -> Recipe:
        return self._recipe

    def encode(self, prompts: Sequence[Prompt], params: Params) -> list[Encoded]:
        limit = self._limits.max_input
        if self._is_causal:
            limit = max(1, limit - self._max_new(params))
        return self._tokens.encode(prompts, params, limit)

    def generate(
        self, prompts: Sequence[Encoded], params: Params, should_stop: Callable[[], bool]
    ) -> Iterator[Generation]:
        extra = CAUSAL_OUTPUT_COST if self._is_causal else 0
        budget = max(1, self._budget.tokens // params.num_beams)
        for batch in token_batches([len(prompt) + extra for prompt in prompts], budget):
            cancel = Cancel(should_stop)
            if cancel.is_wanted():
                return
            rows = [_ids(prompts[index]) for index in batch]
            with self._faults(rows):
                outputs = self._run(rows, params, cancel)
            # A batch that was stopped half-way is not a result.
            if cancel.is_wanted():
                return
            for index, output in zip(batch, outputs, strict=True):
                yield self._generation(index, output, params)

    def shrink(self) -> bool:
        return self._budget.shrink()

    def decode(self, generations: Sequence[Generation], params: Params) -> list[str]:
        texts = self._tokens.decode([_ids(generation) for generation in generations])
        return [cut_text(text, params.stop) for text in texts]

    def close(self) -> None:
        is_cuda = self._model.device.type == "cuda"
        del self._model
        if is_cuda:
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _run(self, rows: list[tuple[int, ...]], params: Params, cancel: "Cancel") -> list["Output"]:
        longest = max(map(len, rows))
        device = self._model.device
        inputs = torch.tensor([self._padded(row, longest) for row in rows], device=device)
        mask = torch.tensor([self._padded((1,) * len(row), longest, 0) for row in rows], device=device)
        forced = self._forced(params)
        # Before the new tokens stand the prompt, or the decoder's start and what was forced.
        skipped = longest if self._is_causal else 1 + len(forced)
        made = self._model.generate(
            inputs,
            attention_mask=mask,
            generation_config=self._generation_config(params, forced),
            logits_processor=self._processors(rows, params, skipped),
            stopping_criteria=self._criteria(cancel, params, skipped),
        )
        scores = self._scores(made, params, skipped, len(forced))
        return [
            Output(tuple(row), score) for row, score in zip(made.sequences[:, skipped:].tolist(), scores, strict=True)
        ]

    def _padded(self, row: tuple[int, ...], length: int, pad: int | None = None) -> list[int]:
        padding = [self._pad if pad is None else pad] * (length - len(row))
        # A decoder-only model goes on from the last position, so that must hold the prompt's end.
        return [*padding, *row] if self._is_causal else [*row, *padding]

    def _generation_config(self, params: Params, forced: Sequence[int]) -> GenerationConfig:
        files = self._files
        start = files.token_ids("decoder_start_token_id")
        suppressed = files.generation.get("bad_words_ids") or files.config.get("bad_words_ids")
        return GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            num_beams=params.num_beams,
            # Where tokens are forced, transformers counts them as new.
            max_new_tokens=self._max_new(params) + len(forced),
            min_new_tokens=params.min_new_tokens + len(forced) if params.min_new_tokens else None,
            length_penalty=params.length_penalty,
            early_stopping=False,
            decoder_start_token_id=start[0] if start and not self._is_causal else None,
            forced_bos_token_id=forced[0] if forced else None,
            bad_words_ids=suppressed,
            eos_token_id=list(self._ends) or None,
            pad_token_id=self._pad,
            use_cache=True,
            return_dict_in_generate=True,
            output_logits=self._wants_scores and params.num_beams == 1,
            output_scores=self._wants_scores and params.num_beams > 1,
        )

    def _processors(self, rows: list[tuple[int, ...]], params: Params, start: int) -> LogitsProcessorList:
        processors = LogitsProcessorList()
        if params.repetition_penalty != 1:
            processors.append(OutputOnly(RepetitionPenaltyLogitsProcessor(params.repetition_penalty), start))
        if params.no_repeat_ngram_size:
            processors.append(OutputOnly(NoRepeatNGramLogitsProcessor(params.no_repeat_ngram_size), start))
        if params.temperature <= 0:
            return processors
        processors.append(TemperatureLogitsWarper(params.temperature))
        if params.top_k:
            processors.append(TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            processors.append(TopPLogitsWarper(params.top_p))
        processors.append(SeededSampler(rows, params.seed))
        return processors

    def _criteria(self, cancel: "Cancel", params: Params, start: int) -> StoppingCriteriaList:
        criteria: list[StoppingCriteria] = [cancel]
        if params.stop and params.num_beams == 1:
            criteria.append(StopStrings(params.stop, self._tokens, start))
        return StoppingCriteriaList(criteria)

    def _scores(self, made: Any, params: Params, skipped: int, forced: int) -> list[float | None]:
        if not self._wants_scores:
            return [None] * len(made.sequences)
        new = made.sequences[:, skipped:]
        lengths = [self._length(row, count_end=True) for row in new.tolist()]
        if params.num_beams > 1:
            # Ranked by the sum over length^penalty, where transformers counts the forced tokens too.
            sums = [
                float(s) * (n + forced) ** params.length_penalty
                for s, n in zip(made.sequences_scores, lengths, strict=True)
            ]
            return [total / n if n else None for total, n in zip(sums, lengths, strict=True)]
        steps = torch.stack(made.logits[forced:], dim=1).float().log_softmax(-1)
        chosen = steps.gather(-1, new.unsqueeze(-1)).squeeze(-1).tolist()
        return [sum(row[:n]) / n if n else None for row, n in zip(chosen, lengths, strict=True)]

    def _length(self, row: Sequence[int], count_end: bool) -> int:
        end = next((at for at, token in enumerate(row) if token in self._ends), None)
        return len(row) if end is None else end + count_end

    def _generation(self, index: int, output: "Output", params: Params) -> Generation:
        length = self._length(output.tokens, count_end=False)
        kept, is_stopped = cut_tokens(output.tokens[:length], params.stop, lambda some: self._tokens.decode([some])[0])
        is_complete = is_stopped or length < len(output.tokens) or length < self._max_new(params)
        return Generation(index, kept, "stop" if is_complete else "length", output.score)

    def _forced(self, params: Params) -> tuple[int, ...]:
        return () if self._is_causal else self._tokens.forced(params)

    def _max_new(self, params: Params) -> int:
        return min(params.max_new_tokens, self._limits.max_output)

    @contextlib.contextmanager
    def _faults(self, rows: list[tuple[int, ...]]) -> Iterator[None]:
        """Translate what torch raises. Any CUDA error but a full memory spoils the process for good."""
        try:
            yield
        except (MemoryError, RuntimeError) as exc:
            fault = _fault(exc)
            if isinstance(fault, OutOfMemory):
                self._budget.note_failure(len(rows), len(rows) * max(map(len, rows)))
                if self._model.device.type == "cuda":
                    torch.cuda.empty_cache()
            if fault is None:
                raise
            raise fault from exc


@dataclass(frozen=True, slots=True)
class Output:
    tokens: tuple[int, ...]
    score: float | None


class Cancel(StoppingCriteria):
    """Ends every row as soon as the caller wants to stop, which it asks about at most ten times a second."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop
        self._next = 0.0
        self._is_wanted = False

    def is_wanted(self) -> bool:
        self._is_wanted = self._is_wanted or self._should_stop()
        return self._is_wanted

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + POLL_SECONDS
            self.is_wanted()
        return torch.full((input_ids.shape[0],), self._is_wanted, dtype=torch.bool, device=input_ids.device)


class StopStrings(StoppingCriteria):
    """Ends a row whose output has a stop string, looking only at the tokens that could have completed it."""

    def __init__(self, stops: tuple[str, ...], tokens: AutoTokens, start: int) -> None:
        self._stops, self._tokens, self._start = stops, tokens, start
        self._tail = tail_length(stops)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        recent = input_ids[:, max(self._start, input_ids.shape[1] - self._tail) :].tolist()
        ended = [has_stop(text, self._stops) for text in self._tokens.decode(recent)]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


class OutputOnly(LogitsProcessor):
    """Lets a penalty see the new tokens alone.

    transformers would count the prompt too, and with it the padding before it: an item's output would depend on how
    much longer its neighbours are. CTranslate2 counts the output only, so that both engines mean the same.
    """

    def __init__(self, penalty: LogitsProcessor, start: int) -> None:
        self._penalty, self._start = penalty, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] <= self._start:
            return scores
        changed: torch.Tensor = self._penalty(input_ids[:, self._start :], scores)
        return changed


class SeededSampler(LogitsProcessor):
    """Samples by adding Gumbel noise, after which the best token is a fair draw from the distribution.

    Each row's noise depends on the seed and its own prompt alone, so that a sample can be repeated whatever else
    is in the batch - which torch's own sampling, with one generator for all rows, cannot offer.
    """

    def __init__(self, rows: list[tuple[int, ...]], seed: int | None) -> None:
        self._generators = [torch.Generator().manual_seed(_row_seed(row, seed)) for row in rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=each) for each in self._generators])
        # Away from 0 and 1, where the logarithms are infinite.
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return scores + noise.to(scores.device, scores.dtype)


def _row_seed(row: tuple[int, ...], seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(56)
    return int.from_bytes(hashlib.sha256(repr((seed, row)).encode()).digest()[:7], "big")


def open_transformers(spec: ModelSpec, files: ModelFiles, device: str | None) -> TransformersEngine:
    """Load the model and its tokenizer from local files."""
    where = _device(device)
    kind = spec.quantization if spec.quantization != "default" else DEFAULT_TYPES[where.type]
    model_class = AutoModelForSeq2SeqLM if files.is_encoder_decoder else AutoModelForCausalLM
    tokens = AutoTokens(spec, files)
    try:
        with quietly():
            model = load_weights(model_class, files.folder, dtype=TYPES[kind], trust_remote_code=False)
        model = model.eval().to(where)
    # Files that do not fit together show as anything; safetensors' own error is a bare Exception.
    except Exception as exc:
        raise ModelUnavailable(f"model {spec.name} cannot be loaded by transformers: {exc}") from exc
    recipe = Recipe(
        model=spec.name,
        revision=files.revision,
        weights_hash=files.weights_hash,
        quantization=spec.quantization,
        tokenizer_hash=files.tokenizer_hash,
        engine="transformers",
        engine_version=transformers.__version__,
        device=str(where),
        details={"dtype": kind, "torch": str(torch.__version__), "prefix": spec.prefix},
    )
    return TransformersEngine(spec, files, tokens, model, recipe)


def _device(device: str | None) -> torch.device:
    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as exc:
        raise ModelUnavailable(f"device {device!r} is unknown to torch; it must be cpu, cuda or cuda:N") from exc
    if where.type not in DEFAULT_TYPES:
        raise ModelUnavailable(f"device {device!r} is not supported; it must be cpu, cuda or cuda:N")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailable(f"device {device!r} is not there: torch sees {torch.cuda.device_count()} of them")
    return where


def _some_params(spec: ModelSpec) -> Params:
    """Parameters with languages, for what depends on there being one but not on which."""
    return Params(
        source_lang=next(iter(spec.source_languages), None), target_lang=next(iter(spec.target_languages), None)
    )


def _ids(tokens: Encoded | Generation) -> tuple[int, ...]:
    return tuple(int(token) for token in tokens.tokens)


def _fault(exc: Exception) -> OutOfMemory | EngineBroken | None:
    text = str(exc).lower()
    if (
        isinstance(exc, (MemoryError, torch.OutOfMemoryError))
        or "can't allocate memory" in text
        or "out of memory" in text
    ):
        return OutOfMemory(str(exc) or "out of memory")
    if isinstance(exc, torch.AcceleratorError) or "cuda" in text or "cublas" in text or "cudnn" in text:
        return EngineBroken(str(exc))
    return None
