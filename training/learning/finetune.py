"""A model that is there already, and the pairs it goes on learning from: after pruning, or from a teacher."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from training.errors import BadRecipe
from training.folders import open_model, open_tokenizer, write_model
from training.learning import marian
from training.learning.batching import batches
from training.learning.loop import device, judging
from training.learning.similarity import similarity
from training.learning.teacher import divergence, open_teacher, weights_of
from training.pairs import Pair, Part
from training.recipe import FinetuneRecipe
from training.spread import spread

VALIDATED = 250
_NOTHING = -100
# What a recommended search must not change about the greedy outputs that checkpoints are compared by.
_KEPT_IN_GENERATION = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A pair as ids. A causal model's source is its prompt; `language` is a token its output has to begin with."""

    source: list[int]
    target: list[int]
    text: str
    language: int | None = None


class Rows:
    """Pairs through a folder's own tokenizer."""

    def __init__(self, tokenizer: Any, recipe: FinetuneRecipe, is_causal: bool) -> None:
        self._tokenizer, self._recipe, self._is_causal = tokenizer, recipe, is_causal
        self.left_out, self.cut = 0, 0

    def read(self, parts: Sequence[Part], folder: Path) -> list[Row]:
        found = (self._row(pair) for part in parts for pair in part.read(folder))
        return [row for row in found if row is not None]

    def _row(self, pair: Pair) -> Row | None:
        text = f"{pair.tag} {pair.source}" if pair.tag else pair.source
        language = self._speak(pair)
        if self._is_causal:
            source = self._ids(text + self._recipe.join)
            target = [*self._ids(pair.target, add_special_tokens=False), self._tokenizer.eos_token_id]
        else:
            source = self._ids(text)
            target = list(self._tokenizer(text_target=pair.target, verbose=False)["input_ids"])
        limit = self._recipe.source_tokens
        if limit is not None and len(source) > limit:
            # An encoder's input ends with a token that says so; it stays.
            source = source[:limit] if self._is_causal else [*source[: limit - 1], source[-1]]
            self.cut += 1
        sides = [len(target)] if limit is not None else [len(source), len(target)]
        if max(sides) > self._recipe.max_tokens:
            self.left_out += 1
            return None
        return Row(source, target, pair.target, language)

    def _ids(self, text: str, **options: Any) -> list[int]:
        return list(self._tokenizer(text, verbose=False, **options)["input_ids"])

    def _speak(self, pair: Pair) -> int | None:
        """Tell a multilingual tokenizer the pair's languages; the token of the target's."""
        if pair.source_lang is not None:
            self._tokenizer.src_lang = pair.source_lang
        if pair.target_lang is None:
            return None
        self._tokenizer.tgt_lang = pair.target_lang
        if hasattr(self._tokenizer, "get_lang_id"):
            return int(self._tokenizer.get_lang_id(pair.target_lang))
        return int(self._tokenizer.convert_tokens_to_ids(pair.target_lang))


class FinetuneTask:
    """From a folder and pairs to a folder of the same kind; with a teacher, from its distributions as well."""

    def __init__(self, recipe: FinetuneRecipe, folder: Path, data: Path, teacher: Path | None = None) -> None:
        self.recipe, self._folder = recipe, folder
        torch.manual_seed(recipe.seed)
        self.tokenizer = open_tokenizer(folder)
        self.model = open_model(folder).train().to(device())
        self.is_causal = not self.model.config.is_encoder_decoder
        self.files: Mapping[str, Path] = {part.file: data / part.file for part in (*recipe.train, *recipe.valid)}
        self._rows = Rows(self.tokenizer, recipe, self.is_causal)
        self.rows = self._rows.read(recipe.train, data)
        self._counted = {"pairs": len(self.rows), "left_out": self._rows.left_out, "cut": self._rows.cut}
        found = [spread(self._rows.read([part], data), VALIDATED) for part in recipe.valid]
        self.valid = judging(recipe, found)
        self._teacher_folder = teacher
        self.teacher = open_teacher(teacher, self.tokenizer.get_vocab(), self.model) if teacher is not None else None
        if recipe.kl and self.teacher is None:
            raise BadRecipe(f"recipe {recipe.name} has kl = {recipe.kl}: name the teacher's folder")
        self._pad = next(
            each for each in (self.model.config.pad_token_id, self.tokenizer.pad_token_id, 0) if each is not None
        )
        usual = (self.model.config, self.model.generation_config)
        starts = [getattr(each, "decoder_start_token_id", None) for each in usual]
        self._start = next((each for each in starts if each is not None), self._pad)
        self._is_lean = _is_plain_marian(self.model) and self.teacher is None
        if self._is_lean and self.model.device.type == "cpu":
            marian.lighten(self.model)

    def batches(self, epoch: int) -> list[list[int]]:
        # A causal model reads source and target as one row.
        lengths = [
            (len(row.source) + len(row.target), 0) if self.is_causal else (len(row.source), len(row.target))
            for row in self.rows
        ]
        return batches(lengths, self.recipe.pace.batch_tokens, random.Random(self.recipe.seed * 10_000 + epoch))

    def loss(self, batch: Sequence[int]) -> tuple[torch.Tensor, int]:
        rows = [self.rows[place] for place in batch]
        count = sum(len(row.target) for row in rows)
        if self._is_lean:
            sources, targets = [row.source for row in rows], [row.target for row in rows]
            return marian.loss_of(self.model, sources, targets, self.recipe.pace.label_smoothing), count
        inputs, labels = self._tensors(rows)
        logits = self._logits(self.model, inputs)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            ignore_index=_NOTHING,
            label_smoothing=self.recipe.pace.label_smoothing,
        )
        if self.teacher is not None and self.recipe.kl:
            with torch.no_grad():
                taught = self._logits(self.teacher, inputs)
            said = labels != _NOTHING
            distance = divergence(logits[said], taught[said], self.recipe.temperature)
            loss = (1 - self.recipe.kl) * loss + self.recipe.kl * distance
        return loss, count

    def hold(self) -> None:
        """The pad row of a Marian model is zero, for the reason that `marian.hold_pad_at_zero` gives."""
        if self.model.config.model_type != "marian":
            return
        shared, pad = self.model.get_input_embeddings().weight, self.model.config.pad_token_id
        shared.data[pad] = 0
        if shared.grad is not None:
            shared.grad[pad] = 0

    def scores(self) -> list[float]:
        return [self._score(rows) for rows in self.valid]

    def save(self, folder: Path) -> None:
        write_model(self.model, self._folder, folder)

    def facts(self) -> dict[str, object]:
        return {**self._counted, **weights_of(self._folder, self._teacher_folder)}

    def _tensors(self, rows: Sequence[Row]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """What the model is given, and what it is to say at every place."""
        here = self.model.device
        if self.is_causal:
            whole = [[*row.source, *row.target] for row in rows]
            said = [[*[_NOTHING] * len(row.source), *row.target] for row in rows]
            # Padded behind, where attention to the past alone never looks; so no mask is needed.
            inputs = _padded([row[:-1] for row in whole], self._pad).to(here)
            return {"input_ids": inputs}, _padded([row[1:] for row in said], _NOTHING).to(here)
        labels = _padded([row.target for row in rows], _NOTHING).to(here)
        source = _padded([row.source for row in rows], self._pad).to(here)
        mask = _padded([[1] * len(row.source) for row in rows], 0).to(here)
        start = torch.full((len(rows), 1), self._start, device=here)
        shifted = torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == _NOTHING, self._pad)], 1)
        return {"input_ids": source, "attention_mask": mask, "decoder_input_ids": shifted}, labels

    def _logits(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            logits: torch.Tensor = model(**inputs, use_cache=False).logits
        return logits.float()

    @torch.inference_mode()
    def _score(self, rows: Sequence[Row]) -> float:
        if self.recipe.metric == "loss":
            inputs, labels = self._tensors(rows)
            logits = self._logits(self.model, inputs)
            return -float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))
        made = self._greedy(rows)
        return similarity(self.recipe.metric, made, [row.text for row in rows])

    def _greedy(self, rows: Sequence[Row], batch: int = 32) -> list[str]:
        """Greedy outputs in the order of `rows`."""
        order = sorted(range(len(rows)), key=lambda place: (rows[place].language or 0, len(rows[place].source)))
        found: dict[int, str] = {}
        for _, group in itertools.groupby(order, key=lambda place: rows[place].language):
            places = list(group)
            for start in range(0, len(places), batch):
                some = places[start : start + batch]
                found |= dict(zip(some, self._made([rows[place] for place in some]), strict=True))
        return [found[place] for place in range(len(rows))]

    def _made(self, rows: Sequence[Row]) -> list[str]:
        """Outputs for rows of one language."""
        usual = self.model.generation_config
        kept = {key: value for key in _KEPT_IN_GENERATION if (value := getattr(usual, key, None)) is not None}
        if rows[0].language is not None:
            kept["forced_bos_token_id"] = rows[0].language
        kept["pad_token_id"] = self._pad
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self.recipe.max_tokens, num_beams=1, do_sample=False, **kept
        )
        longest = max(len(row.source) for row in rows)
        # What is continued is padded in front.
        fill, whole = (_in_front, longest) if self.is_causal else (_behind, 0)
        source = torch.tensor([fill(row.source, self._pad, longest) for row in rows], device=self.model.device)
        mask = torch.tensor([fill([1] * len(row.source), 0, longest) for row in rows], device=self.model.device)
        made = self.model.generate(source, attention_mask=mask, generation_config=settings)
        texts = self.tokenizer.batch_decode(made[:, whole:], skip_special_tokens=True)
        return [text.strip() for text in texts]


def _is_plain_marian(model: Any) -> bool:
    """Whether its loss can be had as a new Marian's is, in less time: its logits are states times embeddings."""
    if model.config.model_type != "marian":
        return False
    head, bias = model.get_output_embeddings(), model.final_logits_bias
    return head.weight is model.get_input_embeddings().weight and not bool(bias.any())


def _padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([_behind(row, filler, longest) for row in rows])


def _behind(row: Sequence[int], filler: int, length: int) -> list[int]:
    return [*row, *[filler] * (length - len(row))]


def _in_front(row: Sequence[int], filler: int, length: int) -> list[int]:
    return [*[filler] * (length - len(row)), *row]
