"""A new Llama-type model, or a student of one, and the texts it is trained on."""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from training.errors import CannotMake
from training.folders import open_model, write_model
from training.learning.bytepairs import BOUNDARY_ID, BytePairs
from training.learning.loop import device, judging
from training.learning.loss import Taught, linear_cross_entropy
from training.learning.teacher import open_teacher, weights_of
from training.recipe import CausalRecipe, CausalShape
from training.spread import spread
from training.texts import Source

VALIDATED = 250
_WINDOW = 10_000
_NOTHING = -100
Ids = NDArray[numpy.int32]


def new_model(shape: CausalShape, pieces: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=pieces,
            hidden_size=shape.d_model,
            intermediate_size=shape.ffn,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            bos_token_id=BOUNDARY_ID,
            eos_token_id=BOUNDARY_ID,
            pad_token_id=BOUNDARY_ID,
        )
    )


def pack(texts: Sequence[Ids], context: int, rng: random.Random) -> list[Ids]:
    """All texts in random order, one behind another, cut into blocks of `context` tokens and one more.

    The one more is the first of the next block: the last token of a block has something to predict, and nothing is
    predicted twice. What is left over at the end is dropped; it is something else in every epoch.

    >>> [block.tolist() for block in pack([numpy.array([0, 1, 2, 3, 4], numpy.int32)], 2, random.Random(1))]
    [[0, 1, 2], [2, 3, 4]]
    """
    order = list(range(len(texts)))
    rng.shuffle(order)
    # Every text begins with the boundary, so the last one alone lacks one behind it.
    stream = numpy.concatenate([*(texts[place] for place in order), numpy.array([BOUNDARY_ID], numpy.int32)])
    return [stream[start : start + context + 1] for start in range(0, len(stream) - context, context)]


def loss_of(
    model: LlamaForCausalLM,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    teacher: LlamaForCausalLM | None = None,
    kl: float = 0.0,
) -> torch.Tensor:
    """Mean cross-entropy in nats over the target tokens, `kl` of it that to a teacher; the products are in bfloat16."""
    taught = None
    if teacher is not None:
        with torch.no_grad():
            taught = Taught(_states(teacher, inputs), teacher.lm_head.weight, kl)
    flat = targets.to(model.device).flatten()
    return linear_cross_entropy(_states(model, inputs), model.lm_head.weight, flat, _NOTHING, taught=taught)


def _states(model: LlamaForCausalLM, inputs: torch.Tensor) -> torch.Tensor:
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        states: torch.Tensor = model.model(input_ids=inputs.to(model.device), use_cache=False).last_hidden_state
    return states.to(torch.bfloat16).flatten(0, 1)


class CausalTask:
    """From texts and a recipe to a Llama folder. The tokenizer is learned once, and kept in `out`.

    From a `folder` that was made so, another one: with its shape and its tokenizer, and the `teacher`'s distributions.
    """

    def __init__(
        self, recipe: CausalRecipe, data: Path, out: Path, folder: Path | None = None, teacher: Path | None = None
    ) -> None:
        self.recipe, self._folders = recipe, (folder, teacher)
        torch.manual_seed(recipe.seed)
        self.files: Mapping[str, Path] = {source.file: data / source.file for source in (*recipe.train, *recipe.valid)}
        self._tokenizer_folder = out / "vocabulary" if folder is None else folder
        self.vocabulary = _vocabulary(recipe, data, out / "vocabulary") if folder is None else BytePairs(folder)
        self.texts = list(self._encoded(recipe.train, data))
        found = [spread(list(self._encoded([source], data)), VALIDATED) for source in recipe.valid]
        self.valid = judging(recipe, found)
        model = new_model(recipe.shape, self.vocabulary.size) if folder is None else _made(folder)
        self.model = model.train().to(device())
        self._teacher = open_teacher(teacher, self.vocabulary.words, self.model) if teacher is not None else None

    def batches(self, epoch: int) -> list[list[Ids]]:
        context, pace = self.recipe.shape.context, self.recipe.pace
        blocks = pack(self.texts, context, random.Random(self.recipe.seed * 10_000 + epoch))
        size = max(1, pace.batch_tokens // context)
        return [blocks[start : start + size] for start in range(0, len(blocks), size)]

    def loss(self, batch: Sequence[Ids]) -> tuple[torch.Tensor, int]:
        rows = torch.from_numpy(numpy.stack(batch)).long()
        loss = loss_of(self.model, rows[:, :-1], rows[:, 1:], self._teacher, self.recipe.kl)
        return loss, rows[:, 1:].numel()

    def hold(self) -> None:
        """Everything is trained."""

    def scores(self) -> list[float]:
        return [-perplexity(self.model, texts, self.recipe.shape.context) for texts in self.valid]

    def save(self, folder: Path) -> None:
        write_model(self.model, self._tokenizer_folder, folder)

    def facts(self) -> dict[str, object]:
        return {"texts": len(self.texts), "tokens": sum(map(len, self.texts)), **weights_of(*self._folders)}

    def _encoded(self, sources: Sequence[Source], data: Path) -> Iterator[Ids]:
        texts = (text for source in sources for text in source.read(data))
        while window := list(islice(texts, _WINDOW)):
            yield from (numpy.array(ids, numpy.int32) for ids in self.vocabulary.encode(window))


@torch.inference_mode()
def perplexity(model: LlamaForCausalLM, texts: Iterable[Ids], context: int, batch: int = 8) -> float:
    """Per token, of each text from its beginning to its end, which is to be predicted as well.

    A text longer than the context is measured as far as that goes.
    """
    rows = sorted(([*ids.tolist(), BOUNDARY_ID][: context + 1] for ids in texts), key=len)
    nats, tokens = 0.0, 0
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        longest = max(map(len, some))
        inputs = torch.tensor([[*row[:-1], *[BOUNDARY_ID] * (longest - len(row))] for row in some])
        targets = torch.tensor([[*row[1:], *[_NOTHING] * (longest - len(row))] for row in some])
        number = sum(len(row) - 1 for row in some)
        nats += number * float(loss_of(model, inputs, targets))
        tokens += number
    return math.exp(nats / tokens)


def _made(folder: Path) -> LlamaForCausalLM:
    model = open_model(folder)
    if not isinstance(model, LlamaForCausalLM):
        raise CannotMake(
            f"{folder} is a {model.config.model_type}, and a recipe of kind causal goes on with a llama; "
            "one of kind finetune goes on with any, from pairs"
        )
    return model


def _vocabulary(recipe: CausalRecipe, data: Path, folder: Path) -> BytePairs:
    if all((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return BytePairs(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = (text for source in recipe.train for text in source.read(data))
    return BytePairs.train(texts, recipe.pieces, recipe.shape.context, folder)
