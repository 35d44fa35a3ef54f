"""Embeddings by transformers' encoders: one vector for each text, the mean of its tokens' (Reimers & Gurevych 2019)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import transformers
from transformers import AutoModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from models.spec import ModelSpec
from workers.engines.base import Encoded, Generation, Limits, ModelUnavailable, Params, Prompt, Recipe, Tally, ignore
from workers.engines.batches import Budget, token_batches
from workers.engines.endings import Cancel
from workers.engines.files import ModelFiles, load_weights
from workers.engines.limits import find_limits
from workers.engines.pooling import Pooling, find_pooling
from workers.engines.quiet import quietly
from workers.engines.tokens import AutoTokens
from workers.engines.torch_device import BATCH_TOKENS, TYPES, find_device, release, translated_faults

# On CUDA too: vectors of one text from two batches must agree, and half precision tells batches apart.
DEFAULT_TYPE = "float32"


class Stopped(Exception):
    """The caller has no use for the batch any more."""


class EncoderEngine:
    """An encoder behind the engine protocol: its generations have no tokens, but a vector."""

    def __init__(
        self, spec: ModelSpec, files: ModelFiles, tokens: AutoTokens, pooling: Pooling, model: Any, recipe: Recipe
    ) -> None:
        self._tokens, self._pooling, self._model, self._recipe = tokens, pooling, model, recipe
        limits = [limit for limit in (tokens.limit, pooling.max_tokens) if limit is not None]
        self._limits = find_limits(spec, files, min(limits, default=None))
        self._pad = next(iter(files.token_ids("pad_token_id")), 0)
        self._is_normalized = bool(spec.options.get("normalize", True))
        self._budget = Budget(int(spec.options.get("batch_tokens", BATCH_TOKENS[model.device.type])))
        self._tally = Tally()
        self._cancel: Cancel | None = None
        for layer in _layers(model):
            layer.register_forward_pre_hook(self._look_up)

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
        if self._pooling.lowers_case:
            prompts = [Prompt(prompt.text.lower(), prompt.messages) for prompt in prompts]
        return self._tokens.encode(prompts, params, self._limits.max_input)

    def generate(
        self,
        prompts: Sequence[Encoded],
        params: Params,
        should_stop: Callable[[], bool],
        on_drained: Callable[[], None] = ignore,
    ) -> Iterator[Generation]:
        cancel = self._cancel = Cancel(should_stop)
        for batch in token_batches([len(prompt) for prompt in prompts], self._budget.tokens):
            if cancel.is_wanted():
                return
            chosen = [prompts[index] for index in batch]
            try:
                with translated_faults(self._budget, self._model.device, chosen):
                    vectors = self._run(chosen)
            except Stopped:
                return
            self._tally.add(list(map(len, chosen)), self._budget.tokens)
            for index, vector in zip(batch, vectors, strict=True):
                yield Generation(index, (), "stop", vector=vector)

    def shrink(self) -> bool:
        return self._budget.shrink()

    def decode(self, generations: Sequence[Generation], params: Params) -> list[str]:
        return [""] * len(generations)

    def close(self) -> None:
        device = self._model.device
        del self._model
        release(device)

    @torch.inference_mode()
    def _run(self, prompts: Sequence[Encoded]) -> list[bytes]:
        rows = [[int(token) for token in prompt.tokens] for prompt in prompts]
        longest = max(map(len, rows))
        device = self._model.device
        inputs = torch.tensor([[*row, *[self._pad] * (longest - len(row))] for row in rows], device=device)
        mask = torch.tensor([[*[1] * len(row), *[0] * (longest - len(row))] for row in rows], device=device)
        hidden = self._model(input_ids=inputs, attention_mask=mask).last_hidden_state.float()
        vectors = hidden[:, 0] if self._pooling.mode == "cls" else _mean(hidden, mask)
        if self._is_normalized:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        if not torch.isfinite(vectors).all():
            raise ValueError("a vector is not finite; the model's numbers are too small a type for it")
        return [row.tobytes() for row in vectors.cpu().numpy().astype("<f4")]

    def _look_up(self, *_: Any) -> None:
        """Between any two layers, since a batch of a large model takes seconds on a CPU."""
        if self._cancel is not None and self._cancel.is_wanted_lately():
            raise Stopped


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers that run one after another."""
    return [layer for stack in model.modules() if isinstance(stack, torch.nn.ModuleList) for layer in stack]


def open_encoder(spec: ModelSpec, files: ModelFiles, device: str | None) -> EncoderEngine:
    """Load the model and its tokenizer from local files."""
    where = find_device(device)
    kind = spec.quantization if spec.quantization != "default" else DEFAULT_TYPE
    _must_encode(spec, files)
    pooling = find_pooling(spec, files.folder)
    tokens = AutoTokens(spec, files)
    try:
        with quietly():
            # BERT's pooler, which many checkpoints lack, is no part of this.
            model = load_weights(AutoModel, files.folder, unused="pooler.", dtype=TYPES[kind], trust_remote_code=False)
        model = model.eval().to(where)
    # Files that do not fit together show as anything; safetensors' own error is a bare Exception.
    except Exception as exc:
        raise ModelUnavailable(f"model {spec.name} cannot be loaded by transformers: {exc}") from exc
    is_normalized = bool(spec.options.get("normalize", True))
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
            "pooling": pooling.mode,
            "normalize": is_normalized,
        },
    )
    return EncoderEngine(spec, files, tokens, pooling, model, recipe)


def _must_encode(spec: ModelSpec, files: ModelFiles) -> None:
    """A decoder would run, too, but the mean of its states is not what it was made for."""
    name = files.model_type
    if files.is_encoder_decoder or (
        name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and name not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    ):
        raise ModelUnavailable(
            f"model {spec.name} is a {name}, which is no encoder; embeddings need one such as BERT, MPNet or XLM-R"
        )
