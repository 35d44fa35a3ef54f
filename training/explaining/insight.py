"""What a model held for likely at each token of one output, and where its attention lay meanwhile.

Everything is taken from one forced pass over the output in single precision, with attention computed as it is defined,
so that its weights can be read. Attention is averaged over the heads of a layer. For causal models there is also the
rollout of Abnar and Zuidema (2020, arXiv 2005.00928), which follows it through all layers, half of each being the
residual connection.

    TrainingError
    └── CannotExplain   there is nothing to look at, or too much
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.params import check
from models.spec import EngineKind, ModelSpec
from training.errors import TrainingError
from training.evaluation.perplexity import Text, tokenized
from training.evaluation.references import Item
from workers.engines.base import Params, Prompt
from workers.engines.files import ModelFiles, find_files
from workers.engines.load import decoding_params, open_engine
from workers.engines.tokens import AutoTokens

ALTERNATIVES = 5
# What a browser still shows at once without effort; a weight is a cell of a table.
MOST_CELLS = 40_000
ROLLOUT = "rollout"
# How many layers there are, by what families of models call it; the first that is there counts.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
DECODER_LAYERS = ("decoder_layers", "num_decoder_layers", "num_layers")


class CannotExplain(TrainingError):
    """The item cannot be shown; the message says why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could have stood here, with its natural log-probability."""

    text: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class Token:
    """One token, as it reads: its log-probability after those before it, its rank (1: the likeliest), its rivals."""

    text: str
    log_probability: float
    rank: int
    top: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class View:
    """Attention weights under a name: a row for each output token, a column for each token it can look at; sums 1."""

    name: str
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Insight:
    """One item. `seen` are the tokens attention goes to: the input; of a causal model, the output so far as well.

    `prompt` are a causal model's scores of its own input, without the first token. `chosen` names the view to begin
    with; `views` are all, or only that one where all would be too much, and `left_out` counts the others.
    """

    model: str
    is_causal: bool
    is_given: bool
    num_beams: int
    text: str
    output: str
    seen: tuple[str, ...]
    prompt: tuple[Token, ...]
    tokens: tuple[Token, ...]
    views: tuple[View, ...]
    chosen: str
    left_out: int

    @property
    def view(self) -> View:
        return next(view for view in self.views if view.name == self.chosen)

    @property
    def log_probability(self) -> float:
        """Of the whole output."""
        return sum(token.log_probability for token in self.tokens)


def insight(
    spec: ModelSpec,
    text: str,
    cache: Path,
    params: Mapping[str, object],
    target: str | None = None,
    layer: str | None = None,
    device: str | None = None,
) -> Insight:
    """Look at what the model writes for `text`, or at how it judges `target`.

    `layer` counts from 1, or is `rollout` for a causal model; None is the last one. EngineError if the model cannot be
    loaded.
    """
    clean, problems = check({"temperature": 0, **params}, spec)
    if problems:
        raise CannotExplain("\n".join(f"model {spec.name}: {problem}" for problem in problems))
    exact = replace(spec, engine=EngineKind.TRANSFORMERS, quantization="float32", options={})
    decoding = decoding_params(clean)
    files = find_files(exact, cache)
    if (names := _names(files)) is not None:
        # Told now, and not when the model has been loaded and has worked.
        _chosen(layer, names)
    tokens = AutoTokens(exact, files)
    asked, is_ended = _asked(exact, files, tokens, cache, decoding, text, target, device)
    if not asked.target and not is_ended:
        raise CannotExplain(f"model {spec.name}: the output has no tokens")
    looked = _Look(files, tokens, asked, is_ended, device)
    views = looked.views()
    chosen = _chosen(layer, [view.name for view in views])
    cells = len(looked.tokens) * len(looked.seen)
    if cells > MOST_CELLS:
        raise CannotExplain(
            f"{len(looked.tokens)} output tokens by {len(looked.seen)} that they look at are more than the "
            f"{MOST_CELLS:,} weights that a page can show; take a shorter text"
        )
    shown = views if cells * len(views) <= MOST_CELLS else [view for view in views if view.name == chosen]
    return Insight(
        model=spec.name,
        is_causal=not files.is_encoder_decoder,
        is_given=target is not None,
        num_beams=decoding.num_beams,
        text=text,
        output=tokens.decode([asked.target])[0],
        seen=looked.seen,
        prompt=looked.prompt,
        tokens=looked.tokens,
        views=tuple(shown),
        chosen=chosen,
        left_out=len(views) - len(shown),
    )


def _asked(
    spec: ModelSpec,
    files: ModelFiles,
    tokens: AutoTokens,
    cache: Path,
    params: Params,
    text: str,
    target: str | None,
    device: str | None,
) -> tuple[Text, bool]:
    """Input and output in tokens, and whether an end that is not among them is to follow."""
    engine = open_engine(spec, cache, device)
    try:
        if target is not None:
            [asked] = tokenized(spec, files, tokens, engine.limits, params, [Item(text, (target,))])
            ends = files.token_ids("eos_token_id")
            is_ended = bool(asked.target) and asked.target[-1] in ends
            return (replace(asked, target=asked.target[:-1]) if is_ended else asked), is_ended
        prompts = engine.encode([Prompt(text)], params)
        [made] = engine.generate(prompts, params, lambda: False)
        forced = tokens.forced(params) if files.is_encoder_decoder else ()
        context = tuple(int(token) for token in prompts[0].tokens)
        written = tuple(int(token) for token in made.tokens)
        return Text(context, forced, written, None), made.finish_reason == "stop" and not params.stop
    finally:
        engine.close()


class _Look:
    """The forced pass, and what can be read from it."""

    def __init__(self, files: ModelFiles, tokens: AutoTokens, asked: Text, is_ended: bool, device: str | None) -> None:
        import torch

        self._tokens, self._is_causal = tokens, not files.is_encoder_decoder
        start = files.token_ids("decoder_start_token_id")[:1]
        before = asked.context if self._is_causal else (*start, *asked.forced)
        given = (*before, *asked.target)
        banned = files.generation.get("bad_words_ids") or files.config.get("bad_words_ids") or []
        with torch.inference_mode():
            model = _opened(files, device)
            ids = torch.tensor([given], device=model.device)
            if self._is_causal:
                made = model(input_ids=ids, use_cache=False, output_attentions=True)
            else:
                source = torch.tensor([asked.context], device=model.device)
                made = model(input_ids=source, decoder_input_ids=ids, use_cache=False, output_attentions=True)
            logits = made.logits[0].float()
            logits[:, [each[0] for each in banned if len(each) == 1]] = -torch.inf
            self._odds = logits.log_softmax(-1).cpu()
            attentions = made.attentions if self._is_causal else made.cross_attentions
            self._layers = [layer[0].double().mean(0).cpu() for layer in attentions]
        ends = files.token_ids("eos_token_id")
        end = [max(ends, key=lambda each: float(self._odds[-1, each]))] if is_ended and ends else []
        whole = [*given, *end]
        # What stands at a place is foretold one place before.
        self._places = range(len(before) - 1, len(whole) - 1)
        self.tokens = tuple(self._token(place, whole[place + 1]) for place in self._places)
        first = range(len(before) - 1) if self._is_causal else ()
        self.prompt = tuple(self._token(place, whole[place + 1]) for place in first)
        self.seen = self._texts(given[: len(whole) - 1] if self._is_causal else asked.context)

    def views(self) -> list[View]:
        views = [self._view(f"{number}", layer) for number, layer in enumerate(self._layers, start=1)]
        return [self._view(ROLLOUT, self._rolled_out()), *views] if self._is_causal else views

    def _view(self, name: str, weights: Any) -> View:
        rows = weights[list(self._places), : len(self.seen)].tolist()
        return View(name, tuple(tuple(row) for row in rows))

    def _rolled_out(self) -> Any:
        import torch

        same = torch.eye(len(self._layers[0]), dtype=torch.float64)
        total = same
        for layer in self._layers:
            total = (layer + same) / 2 @ total
        return total

    def _token(self, place: int, token: int) -> Token:
        odds = self._odds[place]
        best = odds.topk(min(ALTERNATIVES, len(odds)))
        texts = self._texts(best.indices.tolist())
        candidates = tuple(map(Candidate, texts, best.values.tolist()))
        rank = 1 + int((odds > odds[token]).sum())
        return Token(self._texts([token])[0], float(odds[token]), rank, candidates)

    def _texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """As they read, with `▁` for a space; a token of byte-level BPE may be less than a character."""
        with self._tokens.borrowed() as tokenizer:
            pieces = tokenizer.convert_ids_to_tokens(list(ids))
            decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
            is_bytes = "ByteLevel" in str(decoder)
            special = set(tokenizer.all_special_tokens)
            texts = [
                f"[{token}]" if piece is None
                else tokenizer.convert_tokens_to_string([piece]).replace(" ", "▁") if is_bytes and piece not in special
                else str(piece)
                for token, piece in zip(ids, pieces, strict=True)
            ]  # fmt: skip
            return tuple(map(visible, texts))


def visible(text: str) -> str:
    """With a name for what is not seen, or would turn the page around.

    >>> visible("a\\n\\u202eb")
    'a\\\\x0a\\\\u202eb'
    """
    return "".join(
        each if each.isprintable() else f"\\x{ord(each):02x}" if ord(each) < 256 else f"\\u{ord(each):04x}"
        for each in text
    )


def _opened(files: ModelFiles, device: str | None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from workers.engines.files import load_weights
    from workers.engines.quiet import quietly
    from workers.engines.torch_device import find_device

    maker = AutoModelForSeq2SeqLM if files.is_encoder_decoder else AutoModelForCausalLM
    with quietly():
        # The faster ways to compute attention never have its weights as such.
        model = load_weights(maker, files.folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().to(find_device(device))


def _names(files: ModelFiles) -> list[str] | None:
    """The views that there will be, as the model's settings tell; None if they do not."""
    keys = DECODER_LAYERS if files.is_encoder_decoder else LAYERS
    count = next((files.config[key] for key in keys if isinstance(files.config.get(key), int)), None)
    if count is None:
        return None
    numbers = [f"{number}" for number in range(1, count + 1)]
    return numbers if files.is_encoder_decoder else [ROLLOUT, *numbers]


def _chosen(layer: str | None, names: Sequence[str]) -> str:
    if layer is None:
        return names[-1]
    if layer not in names:
        raise CannotExplain(f"there is no layer {layer!r}; there are {', '.join(names)}")
    return layer
