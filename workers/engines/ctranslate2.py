"""The CTranslate2 runtime: quantized models on the CPU, or on CUDA where its build has it."""

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ctranslate2
import msgspec

from models.spec import ModelSpec
from workers.engines.base import (
    Encoded,
    EngineBroken,
    FinishReason,
    Generation,
    Limits,
    ModelUnavailable,
    OutOfMemory,
    Params,
    Prompt,
    Recipe,
    Tally,
    ignore,
    ranked,
)
from workers.engines.batches import MAX_PROMPTS, Budget, token_batches
from workers.engines.calibration import (
    Calibration,
    Measurement,
    choose,
    cpu_count,
    recall,
    remember,
    thread_candidates,
)
from workers.engines.convert import converted, locked
from workers.engines.files import ModelFiles
from workers.engines.limits import find_limits
from workers.engines.shortlist import VMAP, find_shortlist
from workers.engines.stops import cut_text, cut_tokens, has_stop, tail_length
from workers.engines.tokens import AutoTokens, MarianTokens

COMPUTE_TYPES: Mapping[str, str] = {"default": "int8", "int8_bf16": "int8_bfloat16"}
BUDGETS: Mapping[str, tuple[int, ...]] = {"cpu": (256, 512, 1024, 2048, 4096), "cuda": (2048, 8192, 32768)}
SETTINGS = ("inter_threads", "intra_threads", "batch_tokens")
CALIBRATION_SECONDS = 6.0
PROBE_SECONDS = 0.6
PROBE_BATCHES = 24
PROBE_TOKENS = 24
# How often a waiting generate looks whether it should stop.
POLL_SECONDS = 0.2
# A call per token into Python costs 10 to 20 % on small models, so batches that are short anyway go without.
UNWATCHED_SECONDS = 5.0
# Prompts of a decoder-only model whose lengths differ by more are not batched: CTranslate2 reads what is
# longer than the shortest one token by token.
CAUSAL_SPREAD = 16
# What a decoder-only prompt costs on top of its length, since its output shares the cache.
CAUSAL_OUTPUT_COST = 32


@dataclass(frozen=True, slots=True)
class Device:
    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


class Output(msgspec.Struct, frozen=True, gc=False):
    tokens: tuple[str, ...]
    finish_reason: FinishReason
    score: float | None


class CTranslate2Engine:
    """A converted model, with as many replicas as calibration found best."""

    def __init__(
        self,
        spec: ModelSpec,
        files: ModelFiles,
        tokens: MarianTokens | AutoTokens,
        model: Any,
        calibration: Calibration,
        recipe: Recipe,
    ) -> None:
        self._spec, self._files, self._tokens, self._model = spec, files, tokens, model
        self.calibration = calibration
        self._recipe = recipe
        self._is_causal = not files.is_encoder_decoder
        self._ends = _end_tokens(files, tokens)
        self._limits = find_limits(spec, files, tokens.limit, len(self._forced(_some_params(spec))))
        self._budget = Budget(calibration.batch_tokens)
        self._tally = Tally()
        self._lock = threading.Lock()
        self._calls = 0
        # With one replica, and on a GPU, nothing idles while the last batches of a call end.
        self._may_overlap = calibration.inter_threads > 1 and recipe.device == "cpu"
        self._wants_scores = bool(spec.options.get("scores", False))
        self._has_shortlist = bool(spec.options.get("shortlist", False))
        self._rate = calibration.tokens_per_second / calibration.inter_threads
        # Twice the replicas, so that each finds its next batch waiting when it ends one.
        self._slots = calibration.inter_threads * 2
        self._pool = ThreadPoolExecutor(self._slots, thread_name_prefix=f"ctranslate2-{spec.name}")

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
        limit = self._limits.max_input
        if self._is_causal:
            limit = max(1, limit - self._max_new(params))
        encoded = self._tokens.encode(prompts, params, limit)
        if isinstance(self._tokens, MarianTokens):
            return encoded
        pieces = self._tokens.pieces
        return [Encoded(pieces([int(token) for token in each.tokens]), each.dropped) for each in encoded]

    def generate(
        self,
        prompts: Sequence[Encoded],
        params: Params,
        should_stop: Callable[[], bool],
        on_drained: Callable[[], None] = ignore,
    ) -> Iterator[Generation]:
        waiting = deque(self._plan(prompts, params))
        running: dict[Future[list[list[Output]]], list[int]] = {}
        stopping = threading.Event()
        self._count_call(1)
        try:
            while waiting or running:
                while waiting and len(running) < self._slots:
                    batch = waiting.popleft()
                    sources = [_strings(prompts[index]) for index in batch]
                    running[self._pool.submit(self._run, sources, params, stopping)] = batch
                    if not waiting and self._may_overlap:
                        on_drained()
                done, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                if should_stop():
                    return
                for future in done:
                    batch = running.pop(future)
                    results = self._result(future, prompts, batch)
                    with self._lock:
                        self._tally.add([len(prompts[index]) for index in batch], self._room(len(batch), params))
                    for index, outputs in zip(batch, results, strict=True):
                        yield _generation(index, outputs)
        except OutOfMemory as exc:
            # The other batches hold memory that the next, smaller try will need; and so will those of no other chunk.
            exc.is_shared, self._may_overlap = self._calls > 1, False
            stopping.set()
            wait([future for future in running if not future.cancel()])
            raise
        finally:
            self._count_call(-1)
            # What is on the device ends by itself; nobody waits for it.
            stopping.set()
            for future in running:
                future.cancel()

    def shrink(self) -> bool:
        return self._budget.shrink()

    def decode(self, generations: Sequence[Generation], params: Params) -> list[str]:
        texts = self._texts([_strings(generation) for generation in generations])
        return [cut_text(text, params.stop) for text in texts]

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._model.unload_model()

    def _count_call(self, change: int) -> None:
        with self._lock:
            self._calls += change

    def _plan(self, prompts: Sequence[Encoded], params: Params) -> list[list[int]]:
        budget = self._padded_budget(params)
        lengths = [len(prompt) for prompt in prompts]
        most = self._most(params)
        if not self._is_causal:
            return token_batches(lengths, budget, most=most)
        costs = [length + CAUSAL_OUTPUT_COST for length in lengths]
        return token_batches(costs, budget, CAUSAL_SPREAD if self._may_mix(lengths, params) else 0, most)

    def _padded_budget(self, params: Params) -> int:
        return max(1, self._budget.tokens // params.num_beams)

    def _room(self, prompts: int, params: Params) -> int:
        """Tokens of prompts that a batch of so many could have had."""
        extra = CAUSAL_OUTPUT_COST if self._is_causal else 0
        return max(0, self._padded_budget(params) - extra * prompts)

    def _most(self, params: Params) -> int:
        """How many prompts may be in a batch: few enough for beam search, which cannot be broken off, to end soon."""
        if params.num_beams == 1 or self._rate <= 0:
            return MAX_PROMPTS
        longest = params.num_beams * self._max_new(params)
        return max(1, min(MAX_PROMPTS, int(self._rate * UNWATCHED_SECONDS / longest)))

    def _may_mix(self, lengths: Sequence[int], params: Params) -> bool:
        """Whether prompts of different lengths may share a batch without changing each other's output.

        The tokens by which a prompt is longer go through the decoding loop, where penalties and the least length
        count them as output. And a batch with a prompt of one token comes out wrong altogether (seen with 4.8.5).
        """
        is_plain = params.repetition_penalty == 1 and params.no_repeat_ngram_size == 0 and params.min_new_tokens == 0
        return is_plain and params.num_beams == 1 and not params.stop and min(lengths, default=2) >= 2

    def _result(
        self, future: Future[list[list[Output]]], prompts: Sequence[Encoded], batch: Sequence[int]
    ) -> list[list[Output]]:
        try:
            return future.result()
        except (MemoryError, RuntimeError) as exc:
            fault = _fault(exc)
            if isinstance(fault, OutOfMemory):
                self._budget.note_failure(len(batch), len(batch) * max(len(prompts[index]) for index in batch))
            if fault is None:
                raise
            raise fault from exc

    def _run(self, sources: list[list[str]], params: Params, stopping: threading.Event) -> list[list[Output]]:
        """The outputs for each source, the best first."""
        if stopping.is_set():
            return []
        callback = self._callback(len(sources), params, stopping)
        if self._is_causal:
            found = self._generated(sources, params, callback)
        else:
            found = self._translated(sources, params, callback)
        forced = len(self._forced(params))
        return [[self._output(*sequence, params, forced) for sequence in sequences] for sequences in found]

    def _translated(
        self, sources: list[list[str]], params: Params, callback: Callable[[Any], bool] | None
    ) -> list[list[tuple[list[str], float | None]]]:
        forced = self._forced(params)
        results = self._model.translate_batch(
            sources,
            target_prefix=[list(forced)] * len(sources) if forced else None,
            max_input_length=0,
            # Here the prefix counts as output.
            max_decoding_length=self._max_new(params) + len(forced),
            min_decoding_length=params.min_new_tokens + len(forced) if params.min_new_tokens else 0,
            callback=callback,
            # The candidates of a batch are put together, so that an output may depend on its batch-mates.
            use_vmap=self._has_shortlist,
            **self._options(params),
        )
        return [
            [(_without_prefix(tokens, forced), score) for tokens, score in _scored(result.hypotheses, result.scores)]
            for result in results
        ]

    def _generated(
        self, sources: list[list[str]], params: Params, callback: Callable[[Any], bool] | None
    ) -> list[list[tuple[list[str], float | None]]]:
        results = self._model.generate_batch(
            sources,
            include_prompt_in_result=False,
            max_length=self._max_new(params),
            min_length=params.min_new_tokens,
            callback=callback,
            **self._options(params),
        )
        return [_scored(result.sequences, result.scores) for result in results]

    def _options(self, params: Params) -> dict[str, Any]:
        options: dict[str, Any] = {
            "beam_size": params.num_beams,
            "num_hypotheses": params.n,
            "length_penalty": params.length_penalty if params.num_beams > 1 else 1,
            "repetition_penalty": params.repetition_penalty,
            "no_repeat_ngram_size": params.no_repeat_ngram_size,
            "return_scores": self._wants_scores,
            "end_token": list(self._ends),
            "return_end_token": True,
        }
        if params.temperature > 0:
            options |= {
                "sampling_temperature": params.temperature,
                "sampling_topk": params.top_k,
                "sampling_topp": params.top_p,
            }
        return options

    def _output(self, tokens: list[str], score: float | None, params: Params, forced: int) -> Output:
        if score is not None and tokens:
            # The sum over length^penalty, in which the forced tokens count as long; callers are promised the mean.
            penalty = params.length_penalty if params.num_beams > 1 else 1
            score *= (len(tokens) + forced) ** penalty / len(tokens)
        is_ended = bool(tokens) and tokens[-1] in self._ends
        kept = tuple(tokens[:-1] if is_ended else tokens)
        kept, is_stopped = cut_tokens(kept, params.stop, lambda some: self._texts([some])[0])
        is_complete = is_ended or is_stopped or len(kept) < self._max_new(params)
        return Output(kept, "stop" if is_complete else "length", score)

    def _callback(self, prompts: int, params: Params, stopping: threading.Event) -> Callable[[Any], bool] | None:
        """What CTranslate2 asks after every token whether to go on; it never asks during beam search."""
        if params.num_beams > 1:
            return None
        if params.stop:
            return self._stop_watch(params.stop, stopping)
        if self._rate > 0 and prompts * self._max_new(params) / self._rate < UNWATCHED_SECONDS:
            return None
        return lambda step: stopping.is_set()

    def _stop_watch(self, stops: tuple[str, ...], stopping: threading.Event) -> Callable[[Any], bool]:
        tail = tail_length(stops)
        recent: dict[int, deque[str]] = {}

        def watch(step: Any) -> bool:
            tokens = recent.setdefault(step.batch_id, deque(maxlen=tail))
            tokens.append(step.token)
            return stopping.is_set() or has_stop(self._texts([tuple(tokens)])[0], stops)

        return watch

    def _texts(self, outputs: Sequence[Sequence[str]]) -> list[str]:
        if isinstance(self._tokens, MarianTokens):
            return self._tokens.decode(outputs)
        return self._tokens.decode([self._tokens.ids(output) for output in outputs])

    def _forced(self, params: Params) -> tuple[str, ...]:
        if isinstance(self._tokens, MarianTokens) or self._is_causal:
            return ()
        return self._tokens.pieces(self._tokens.forced(params))

    def _max_new(self, params: Params) -> int:
        return min(params.max_new_tokens, self._limits.max_output)


def open_ctranslate2(
    spec: ModelSpec, files: ModelFiles, cache: Path, device: str | None, recalibrate: bool = False
) -> CTranslate2Engine:
    """Convert if need be, calibrate if need be, load."""
    where = _device(device)
    compute_type = COMPUTE_TYPES.get(spec.quantization, spec.quantization)
    supported = ctranslate2.get_supported_compute_types(where.kind, where.index)
    if compute_type not in supported:
        raise ModelUnavailable(
            f"model {spec.name}: quantization {spec.quantization} is not supported by this {where.kind}; "
            f"CTranslate2 offers {', '.join(sorted(supported))} here"
        )
    if files.model_type == "marian" and files.config.get("share_encoder_decoder_embeddings") is False:
        # The converter would give the output the input's vocabulary, and be wrong without a word.
        raise ModelUnavailable(
            f"model {spec.name} has two vocabularies, which CTranslate2's converter does not know of; "
            'set engine = "transformers" in its entry'
        )
    folder = converted(spec, files, compute_type, cache)
    tokens = MarianTokens(spec, files) if files.model_type == "marian" else AutoTokens(spec, files)
    with _loading(spec):
        calibration = _calibrated(spec, files, folder, tokens, where, compute_type, recalibrate)
        model = _load(files, folder, where, compute_type, calibration.inter_threads, calibration.intra_threads)
    details: dict[str, str | int | float | bool] = {
        "compute_type": model.compute_type,
        "prefix": spec.prefix,
        "config_hash": files.config_hash,
        "scores": bool(spec.options.get("scores", False)),
    }
    shortlist = find_shortlist(spec, files)
    if shortlist is not None:
        details["shortlist"] = shortlist.digest
    recipe = Recipe(
        model=spec.name,
        revision=files.revision,
        weights_hash=files.weights_hash,
        quantization=spec.quantization,
        tokenizer_hash=files.tokenizer_hash,
        engine="ctranslate2",
        engine_version=ctranslate2.__version__,
        device=str(where),
        details=details,
    )
    return CTranslate2Engine(spec, files, tokens, model, calibration, recipe)


@contextlib.contextmanager
def _loading(spec: ModelSpec) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as exc:
        raise ModelUnavailable(f"model {spec.name} cannot be loaded by CTranslate2: {exc}") from exc


def _device(device: str | None) -> Device:
    wanted = device or ("cuda" if ctranslate2.get_cuda_device_count() > 0 else "cpu")
    kind, _, index = wanted.partition(":")
    if kind not in BUDGETS or (index and not index.isdigit()):
        raise ModelUnavailable(f"device {wanted!r} is unknown to CTranslate2; it must be cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= ctranslate2.get_cuda_device_count():
        raise ModelUnavailable(
            f"device {wanted!r} is not there: CTranslate2 sees {ctranslate2.get_cuda_device_count()}"
        )
    return Device(kind, int(index or 0))


def _load(files: ModelFiles, folder: Path, device: Device, compute_type: str, inter: int, intra: int) -> Any:
    kind = ctranslate2.Translator if files.is_encoder_decoder else ctranslate2.Generator
    return kind(
        str(folder),
        device=device.kind,
        device_index=device.index,
        compute_type=compute_type,
        inter_threads=inter,
        intra_threads=intra,
        max_queued_batches=-1,
    )


def _calibrated(
    spec: ModelSpec,
    files: ModelFiles,
    folder: Path,
    tokens: MarianTokens | AutoTokens,
    device: Device,
    compute_type: str,
    recalibrate: bool,
) -> Calibration:
    """What the registry entry fixes, what was measured before on such a machine, or what is measured now."""
    fixed = {name: int(spec.options[name]) for name in SETTINGS if name in spec.options}
    if len(fixed) == len(SETTINGS):
        return Calibration(**fixed)
    path, key = folder / "calibration.json", f"{device.kind}:{cpu_count()}"
    # Locked, because two that measure at once would each find half a machine.
    with locked(folder.with_suffix(".calibration.lock")):
        known = None if recalibrate else recall(path, key)
        if known is None:
            known = _measured(files, folder, tokens, device, compute_type)
            remember(path, key, known)
    return replace(known, **fixed)


def _measured(
    files: ModelFiles, folder: Path, tokens: MarianTokens | AutoTokens, device: Device, compute_type: str
) -> Calibration:
    threads = thread_candidates(cpu_count()) if device.kind == "cpu" else [(1, 1)]
    chance = random.Random(0)
    plain = tokens.plain
    loaded: dict[tuple[int, int], Any] = {}

    def measure(pair: tuple[int, int], budget: int) -> Measurement:
        if pair not in loaded:
            loaded.clear()
            loaded[pair] = _load(files, folder, device, compute_type, *pair)
        extra = 0 if files.is_encoder_decoder else CAUSAL_OUTPUT_COST
        batch = [chance.choices(plain, k=PROBE_TOKENS) for _ in range(max(1, budget // (PROBE_TOKENS + extra)))]
        return _probe(loaded[pair], files.is_encoder_decoder, batch, pair[0], (folder / VMAP).is_file())

    return choose(threads, BUDGETS[device.kind], measure, CALIBRATION_SECONDS)


def _probe(
    model: Any, is_encoder_decoder: bool, batch: list[list[str]], replicas: int, has_shortlist: bool
) -> Measurement:
    """Keep every replica busy for a moment, each output being as long as its input."""
    length = {"beam_size": 1, "asynchronous": True}

    def submit() -> Any:
        if is_encoder_decoder:
            limits = {"max_decoding_length": PROBE_TOKENS, "min_decoding_length": PROBE_TOKENS}
            return model.translate_batch(batch, use_vmap=has_shortlist, **limits, **length)[-1]
        limits = {"max_length": PROBE_TOKENS, "min_length": PROBE_TOKENS}
        return model.generate_batch(batch, include_prompt_in_result=False, **limits, **length)[-1]

    submit().result()
    start = time.monotonic()
    running = deque(submit() for _ in range(replicas * 2))
    batches = 0
    while running:
        running.popleft().result()
        batches += 1
        if batches + len(running) < PROBE_BATCHES and time.monotonic() - start < PROBE_SECONDS:
            running.append(submit())
    elapsed = time.monotonic() - start
    return Measurement(batches * len(batch) * PROBE_TOKENS / elapsed, elapsed * replicas / batches)


def _end_tokens(files: ModelFiles, tokens: MarianTokens | AutoTokens) -> tuple[str, ...]:
    if isinstance(tokens, MarianTokens):
        return (tokens.eos,)
    return tokens.pieces(files.token_ids("eos_token_id"))


def _some_params(spec: ModelSpec) -> Params:
    """Parameters with languages, for what depends on there being one but not on which."""
    return Params(
        source_lang=next(iter(spec.source_languages), None), target_lang=next(iter(spec.target_languages), None)
    )


def _without_prefix(tokens: list[str], prefix: tuple[str, ...]) -> list[str]:
    return tokens[len(prefix) :] if tuple(tokens[: len(prefix)]) == prefix else tokens


def _scored(sequences: list[list[str]], scores: list[float]) -> list[tuple[list[str], float | None]]:
    """Each sequence with its score, where there are scores."""
    told: Sequence[float | None] = scores or [None] * len(sequences)
    return list(zip(sequences, told, strict=True))


def _generation(index: int, outputs: Sequence[Output]) -> Generation:
    return ranked([Generation(index, each.tokens, each.finish_reason, each.score) for each in outputs])


def _strings(tokens: Encoded | Generation) -> list[str]:
    return [str(token) for token in tokens.tokens]


def _fault(exc: Exception) -> OutOfMemory | EngineBroken | None:
    """CTranslate2 raises RuntimeError for everything; only the text tells a full device from a lost one."""
    text = str(exc).lower()
    if isinstance(exc, MemoryError) or "out of memory" in text or "failed to allocate" in text:
        return OutOfMemory(str(exc) or "out of memory")
    if any(word in text for word in ("cuda", "cublas", "cudnn")):
        return EngineBroken(str(exc))
    return None
