"""A new Marian model and the pairs it is trained on."""

import copy
import math
import random
from array import array
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch

from training.learning import marian
from training.learning.batching import batches
from training.learning.loop import device, judging
from training.learning.similarity import similarity
from training.learning.vocabulary import EOS, Vocabulary
from training.pairs import Pair, Part
from training.recipe import Recipe
from training.spread import spread

VALIDATED = 250
_WINDOW = 10_000


class Data:
    """Pairs as ids. What is longer than the recipe allows is left out or cut, and counted in the record."""

    def __init__(
        self,
        parts: Sequence[Part],
        folder: Path,
        vocabulary: Vocabulary,
        max_tokens: int,
        source_tokens: int | None = None,
    ) -> None:
        self.pairs: list[tuple[Sequence[int], Sequence[int]]] = []
        self.texts: list[Pair] = []
        self.left_out, self.cut = 0, 0
        pairs = (pair for part in parts for pair in part.read(folder))
        # In windows, as lists of ids take many times the room of arrays.
        while window := list(islice(pairs, _WINDOW)):
            sources, targets = (
                vocabulary.encode([getattr(pair, side) for pair in window]) for side in ("source", "target")
            )
            for pair, source, target in zip(window, sources, targets, strict=True):
                whole = [vocabulary.tag(pair.tag), *source] if pair.tag else source
                if source_tokens is not None and len(whole) > source_tokens:
                    whole = [*whole[: source_tokens - 1], EOS]
                    self.cut += 1
                if len(target) > max_tokens or (source_tokens is None and len(whole) > max_tokens):
                    self.left_out += 1
                    continue
                self.pairs.append((array("i", whole), array("i", target)))
                self.texts.append(pair)

    def __len__(self) -> int:
        return len(self.pairs)

    def some(self, most: int) -> "Data":
        """At most so many of the pairs, from all over them."""
        places = spread(range(len(self.pairs)), most)
        made = copy.copy(self)
        made.pairs, made.texts = [self.pairs[place] for place in places], [self.texts[place] for place in places]
        return made

    def batches(self, epoch: int, recipe: Recipe) -> list[list[int]]:
        """The same for the same epoch, so that a run can go on in the middle of one."""
        lengths = [(len(source), len(target)) for source, target in self.pairs]
        return batches(lengths, recipe.pace.batch_tokens, random.Random(recipe.seed * 10_000 + epoch))


class MarianTask:
    """From pairs and a recipe to a Marian folder. The vocabulary is learned once, and kept in `out`."""

    def __init__(self, recipe: Recipe, data: Path, out: Path) -> None:
        self.recipe, self._out = recipe, out
        torch.manual_seed(recipe.seed)
        self.vocabulary = _vocabulary(recipe, data, out / "vocabulary")
        self.files: Mapping[str, Path] = {part.file: data / part.file for part in (*recipe.train, *recipe.valid)}
        self.data = self._data(recipe.train, data)
        self.valid = judging(recipe, [self._data([part], data).some(VALIDATED) for part in recipe.valid])
        self.model = marian.new_model(recipe.shape, self.vocabulary.pad).train().to(device())
        if self.model.device.type == "cpu":
            marian.lighten(self.model)

    def batches(self, epoch: int) -> list[list[int]]:
        return self.data.batches(epoch, self.recipe)

    def loss(self, batch: Sequence[int]) -> tuple[torch.Tensor, int]:
        pairs = [self.data.pairs[place] for place in batch]
        sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
        loss = marian.loss_of(self.model, sources, targets, self.recipe.pace.label_smoothing)
        return loss, sum(map(len, targets))

    def hold(self) -> None:
        marian.hold_pad_at_zero(self.model)

    def scores(self) -> list[float]:
        return [self._score(valid) for valid in self.valid]

    def save(self, folder: Path) -> None:
        marian.save(self.model, folder)
        for file in (self._out / "vocabulary").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    def facts(self) -> dict[str, object]:
        return {"pairs": len(self.data.pairs), "left_out": self.data.left_out, "cut": self.data.cut}

    def _data(self, parts: Sequence[Part], folder: Path) -> Data:
        return Data(parts, folder, self.vocabulary, self.recipe.max_tokens, self.recipe.source_tokens)

    def _score(self, valid: Data) -> float:
        sources = [source for source, _ in valid.pairs]
        if self.recipe.metric == "loss":
            with torch.inference_mode():
                return -float(marian.loss_of(self.model, sources, [target for _, target in valid.pairs]))
        made = self.vocabulary.decode(marian.greedy(self.model, sources, self.recipe.max_tokens))
        return similarity(self.recipe.metric, made, [pair.target for pair in valid.texts])


def _vocabulary(recipe: Recipe, data: Path, folder: Path) -> Vocabulary:
    if (folder / "vocab.json").exists():
        return Vocabulary(folder)
    folder.mkdir(parents=True, exist_ok=True)
    seen: dict[Pair, None] = {}
    for part in recipe.train:
        seen |= dict.fromkeys(Pair(*sorted((pair.source, pair.target))) for pair in part.read(data))
    step = 1 if recipe.vocabulary_pairs is None else math.ceil(len(seen) / recipe.vocabulary_pairs)
    return Vocabulary.train(islice(seen, 0, None, step), recipe.pieces, recipe.tags, folder)
