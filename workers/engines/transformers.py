"""The reference runtime: transformers' own model classes, on CUDA or the CPU, at full or half precision."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from models.spec import ModelSpec
from workers.engines.base import (
    Encoded,
    Generation,
    Limits,
    ModelUnavailable,
    Params,
    Prompt,
    Recipe,
    Tally,
    TokenLogprob,
    ignore,
    ranked,
)
from workers.engines.batches import Budget, token_batches
from workers.engines.endings import Cancel, StopStrings
from workers.engines.files import ModelFiles, load_weights
from workers.engines.grammars import Grammars
from workers.engines.limits import find_limits
from workers.engines.odds import Odds, RowOdds, told
from workers.engines.quiet import quietly
from workers.engines.sampling import OutputOnly, SeededSampler
from workers.engines.spelling import Spelling
from workers.engines.stops import cut_text, cut_tokens
from workers.engines.tokens import AutoTokens
from workers.engines.torch_device import BATCH_TOKENS, TYPES, find_device, release, translated_faults

DEFAULT_TYPES: Mapping[str, str] = {"cpu": "float32", "cuda": "bfloat16"}
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
        vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
        self._tally = Tally()
        self._grammars = Grammars(spec.name, tokens, vocabulary, self._ends, self._pad)
        # What the model's author recommends is for the registry's defaults; left here, it would fill every gap.
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def recipe(self) -> Recipe:
        return self._recipe

    @property
    def tally(self) -> Tally:
        return self._tally

    def encode(self, prompts: Sequence[Prompt], params: Params) -> list[Encoded]:
        if params.json_schema is not None:
            self._grammars.check(params.json_schema)
        limit = self._limits.max_input
        if self._is_causal:
            limit = max(1, limit - self._max_new(params))
        return self._tokens.encode(prompts, params, limit)

    def generate(
        self,
        prompts: Sequence[Encoded],
        params: Params,
        should_stop: Callable[[], bool],
        on_drained: Callable[[], None] = ignore,
    ) -> Iterator[Generation]:
        extra = CAUSAL_OUTPUT_COST if self._is_causal else 0
        budget = max(1, self._budget.tokens // params.num_beams)
        for batch in token_batches([len(prompt) + extra for prompt in prompts], budget):
            cancel = Cancel(should_stop)
            if cancel.is_wanted():
                return
            chosen = [prompts[index] for index in batch]
            with translated_faults(self._budget, self._model.device, chosen):
                outputs = self._run(chosen, params, cancel)
            # A batch that was stopped half-way is not a result.
            if cancel.is_wanted():
                return
            self._tally.add(list(map(len, chosen)), max(0, budget - extra * len(batch)))
            for number, index in enumerate(batch):
                best = outputs[number * params.n : (number + 1) * params.n]
                yield ranked([self._generation(index, output, params) for output in best])

    def shrink(self) -> bool:
        return self._budget.shrink()

    def decode(self, generations: Sequence[Generation], params: Params) -> list[str]:
        texts = self._tokens.decode([_ids(generation) for generation in generations])
        return [cut_text(text, params.stop) for text in texts]

    def close(self) -> None:
        device = self._model.device
        del self._model
        release(device)

    @cached_property
    def _spelling(self) -> Spelling:
        with self._tokens.borrowed() as tokenizer:
            return Spelling(tokenizer)

    @torch.inference_mode()
    def _run(self, prompts: list[Encoded], params: Params, cancel: Cancel) -> list["Output"]:
        """Prompt after prompt, the `n` best of each."""
        rows = [_ids(prompt) for prompt in prompts]
        longest = max(map(len, rows))
        device = self._model.device
        inputs = torch.tensor([self._padded(row, longest) for row in rows], device=device)
        mask = torch.tensor([self._padded((1,) * len(row), longest, 0) for row in rows], device=device)
        forced = self._forced(params)
        # Before the new tokens stand the prompt, or the decoder's start and what was forced.
        skipped = longest if self._is_causal else 1 + len(forced)
        odds = self._odds(params, skipped)
        made = self._model.generate(
            inputs,
            attention_mask=mask,
            generation_config=self._generation_config(params, forced),
            logits_processor=self._processors(prompts, params, skipped, odds),
            stopping_criteria=self._criteria(cancel, params, skipped),
        )
        new = made.sequences[:, skipped:].tolist()
        seen = odds.rows(made.sequences) if odds is not None else [None] * len(new)
        scores = self._beam_scores(made, new, params, len(forced)) if params.num_beams > 1 else self._scores(new, seen)
        outputs = zip(new, scores, seen, strict=True)
        return [Output(tuple(tokens), score, row_odds) for tokens, score, row_odds in outputs]

    def _padded(self, row: tuple[int, ...], length: int, pad: int | None = None) -> list[int]:
        padding = [self._pad if pad is None else pad] * (length - len(row))
        # A decoder-only model goes on from the last position, so that must hold the prompt's end.
        return [*padding, *row] if self._is_causal else [*row, *padding]

    def _generation_config(self, params: Params, forced: Sequence[int]) -> GenerationConfig:
        files = self._files
        start = files.token_ids("decoder_start_token_id")
        return GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            num_beams=params.num_beams,
            num_return_sequences=params.n,
            # Where tokens are forced, transformers counts them as new.
            max_new_tokens=self._max_new(params) + len(forced),
            length_penalty=params.length_penalty,
            early_stopping=False,
            decoder_start_token_id=start[0] if start and not self._is_causal else None,
            forced_bos_token_id=forced[0] if forced else None,
            eos_token_id=list(self._ends) or None,
            pad_token_id=self._pad,
            use_cache=True,
            return_dict_in_generate=True,
            output_scores=self._wants_scores and params.num_beams > 1,
        )

    def _odds(self, params: Params, start: int) -> Odds | None:
        if params.num_beams > 1 or (params.top_logprobs is None and not self._wants_scores):
            return None
        return Odds(start, params.top_logprobs or 0)

    def _processors(
        self, prompts: Sequence[Encoded], params: Params, start: int, odds: Odds | None
    ) -> LogitsProcessorList:
        """What the odds of the next token go through, in this order: seen, forbidden, weighed, sampled."""
        processors = LogitsProcessorList([odds] if odds is not None else [])
        processors += self._prohibitions(params, start)
        if params.repetition_penalty != 1:
            processors.append(OutputOnly(RepetitionPenaltyLogitsProcessor(params.repetition_penalty), start))
        if params.no_repeat_ngram_size:
            processors.append(OutputOnly(NoRepeatNGramLogitsProcessor(params.no_repeat_ngram_size), start))
        if params.json_schema is not None:
            processors.append(self._grammars.constraint(params.json_schema, len(prompts), start))
        if params.temperature > 0:
            processors.append(TemperatureLogitsWarper(params.temperature))
            if params.top_k:
                processors.append(TopKLogitsWarper(params.top_k))
            if params.top_p < 1:
                processors.append(TopPLogitsWarper(params.top_p))
            processors.append(SeededSampler(prompts, params.seed))
        return processors

    def _prohibitions(self, params: Params, start: int) -> list[LogitsProcessor]:
        """transformers would add these by itself, but before `Odds` could look."""
        found: list[LogitsProcessor] = []
        ends, device = list(self._ends), self._model.device
        suppressed = self._files.generation.get("bad_words_ids") or self._files.config.get("bad_words_ids")
        if suppressed:
            found.append(NoBadWordsLogitsProcessor(suppressed, ends))
        if params.min_new_tokens and ends:
            found.append(MinNewTokensLengthLogitsProcessor(start, params.min_new_tokens, ends, device=device))
        return found

    def _criteria(self, cancel: Cancel, params: Params, start: int) -> StoppingCriteriaList:
        criteria: list[StoppingCriteria] = [cancel]
        if params.stop and params.num_beams == 1:
            criteria.append(StopStrings(params.stop, self._tokens, start))
        return StoppingCriteriaList(criteria)

    def _scores(self, new: list[list[int]], seen: Sequence[RowOdds | None]) -> list[float | None]:
        if not self._wants_scores:
            return [None] * len(new)
        lengths = [self._length(tokens, count_end=True) for tokens in new]
        chosen = [row.chosen[:length] for row, length in zip(seen, lengths, strict=True) if row is not None]
        return [sum(row) / len(row) if row else None for row in chosen]

    def _beam_scores(self, made: Any, new: list[list[int]], params: Params, forced: int) -> list[float | None]:
        if not self._wants_scores:
            return [None] * len(new)
        lengths = [self._length(tokens, count_end=True) for tokens in new]
        # Ranked by the sum over length^penalty, where transformers counts the forced tokens too.
        sums = [
            float(score) * (length + forced) ** params.length_penalty
            for score, length in zip(made.sequences_scores, lengths, strict=True)
        ]
        return [total / length if length else None for total, length in zip(sums, lengths, strict=True)]

    def _length(self, row: Sequence[int], count_end: bool) -> int:
        end = next((at for at, token in enumerate(row) if token in self._ends), None)
        return len(row) if end is None else end + count_end

    def _generation(self, index: int, output: "Output", params: Params) -> Generation:
        length = self._length(output.tokens, count_end=False)
        kept, is_stopped = cut_tokens(output.tokens[:length], params.stop, lambda some: self._tokens.decode([some])[0])
        is_complete = is_stopped or length < len(output.tokens) or length < self._max_new(params)
        logprobs = self._logprobs(kept, output.odds, params)
        return Generation(index, kept, "stop" if is_complete else "length", output.score, logprobs)

    def _logprobs(
        self, tokens: tuple[int, ...], odds: RowOdds | None, params: Params
    ) -> tuple[TokenLogprob, ...] | None:
        if odds is None or params.top_logprobs is None:
            return None
        [text] = self._tokens.decode([tokens])
        return told(tokens, odds, self._spelling, text, cut_text(text, params.stop))

    def _forced(self, params: Params) -> tuple[int, ...]:
        return () if self._is_causal else self._tokens.forced(params)

    def _max_new(self, params: Params) -> int:
        return min(params.max_new_tokens, self._limits.max_output)


@dataclass(frozen=True, slots=True)
class Output:
    tokens: tuple[int, ...]
    score: float | None
    odds: RowOdds | None


def open_transformers(spec: ModelSpec, files: ModelFiles, device: str | None) -> TransformersEngine:
    """Load the model and its tokenizer from local files."""
    where = find_device(device)
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
        details={
            "dtype": kind,
            "torch": str(torch.__version__),
            "prefix": spec.prefix,
            "config_hash": files.config_hash,
            "scores": bool(spec.options.get("scores", False)),
        },
    )
    return TransformersEngine(spec, files, tokens, model, recipe)


def _some_params(spec: ModelSpec) -> Params:
    """Parameters with languages, for what depends on there being one but not on which."""
    return Params(
        source_lang=next(iter(spec.source_languages), None), target_lang=next(iter(spec.target_languages), None)
    )


def _ids(tokens: Encoded | Generation) -> tuple[int, ...]:
    return tuple(int(token) for token in tokens.tokens)
