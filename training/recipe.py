"""What a training run is made of, as its TOML file says: data, vocabulary, shape, pace."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from training.errors import BadData, BadRecipe
from training.pairs import Part
from training.texts import Source


@dataclass(frozen=True, slots=True)
class Shape:
    """A Marian encoder-decoder with tied embeddings."""

    d_model: int = 256
    encoder_layers: int = 4
    decoder_layers: int = 2
    ffn: int = 1024
    heads: int = 4
    positions: int = 256
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """Linear warm-up, a constant rate for as long as it takes, and a decay to nothing at the end.

    So a run can be ended whenever there is no more time for it: Hägele et al. 2024 (arXiv 2405.18392) find the
    result as good as a cosine made for that length. `batch_tokens` bounds a batch with its padding, on the longer side.
    The decay begins when the mean validation score was not better for `patience` validations (0: never for that).
    """

    rate: float = 1e-3
    warm_up: int = 500
    decay: int = 1500
    max_steps: int = 1_000_000
    batch_tokens: int = 5000
    label_smoothing: float = 0.1
    clip: float = 1.0
    checkpoint_every: int = 500
    validate_every: int = 1000
    patience: int = 10
    weight_decay: float = 0.0
    optimizer: str = "adamw"


@dataclass(frozen=True, slots=True)
class Recipe:
    """`metric`, which tells the better weights, is chrf, rouge or loss.

    Pairs with more than `max_tokens` on a side are left out. With `source_tokens`, a longer source is cut instead, as
    it will be when the model is used, and `max_tokens` is for the targets alone. The vocabulary is learned from
    `vocabulary_pairs`, spread over all of them: from more long texts than that it is learned for hours, and no better.
    """

    name: str
    train: tuple[Part, ...]
    valid: tuple[Part, ...]
    pieces: int = 8000
    max_tokens: int = 128
    source_tokens: int | None = None
    vocabulary_pairs: int | None = None
    seed: int = 1
    metric: str = "chrf"
    shape: Shape = field(default_factory=Shape)
    pace: Pace = field(default_factory=Pace)

    @property
    def tags(self) -> list[str]:
        return sorted({part.tag for part in (*self.train, *self.valid) if part.tag})


@dataclass(frozen=True, slots=True)
class CausalShape:
    """A Llama with tied embeddings. `context` bounds prompt and continuation together."""

    d_model: int = 256
    layers: int = 5
    ffn: int = 704
    heads: int = 4
    key_value_heads: int = 4
    context: int = 512


@dataclass(frozen=True, slots=True)
class CausalRecipe:
    """Texts for a model that continues them; the score is the perplexity, with a minus, as higher is better.

    There is no label smoothing: what is measured is the probability of the text itself. With a teacher, `kl` of the
    loss is the distance to its distribution over each word. A model that goes on from a folder has the folder's shape
    and vocabulary, but for the `context` it is trained on.
    """

    name: str
    train: tuple[Source, ...]
    valid: tuple[Source, ...]
    pieces: int = 8000
    seed: int = 1
    metric: str = "perplexity"
    kl: float = 0.0
    shape: CausalShape = field(default_factory=CausalShape)
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True)
class FinetuneRecipe:
    """Pairs for a model that is there already; see `Recipe` for what bounds them.

    With a teacher, the loss is `(1 - kl)` of the cross-entropy and `kl` of the teacher's distribution over each word,
    at `temperature`. A causal model gets `join` between source and target.
    """

    name: str
    train: tuple[Part, ...]
    valid: tuple[Part, ...]
    max_tokens: int = 128
    source_tokens: int | None = None
    seed: int = 1
    metric: str = "chrf"
    kl: float = 0.0
    temperature: float = 1.0
    join: str = ""
    pace: Pace = field(default_factory=Pace)


OPTIMIZERS = ("adamw", "muon")
# What checkpoints can be compared by.
METRICS: Mapping[type[Any], tuple[str, ...]] = {
    Recipe: ("chrf", "rouge", "loss"),
    CausalRecipe: ("perplexity",),
    FinetuneRecipe: ("chrf", "rouge", "loss"),
}
# Of the pace: what is divided by, or counted with.
ABOVE_NOTHING = ("warm_up", "decay", "max_steps", "batch_tokens", "clip", "checkpoint_every", "validate_every")
AnyRecipe = Recipe | CausalRecipe | FinetuneRecipe

_KINDS: dict[str, tuple[type[Any], type[Any], type[Any] | None]] = {
    "marian": (Recipe, Part, Shape),
    "causal": (CausalRecipe, Source, CausalShape),
    "finetune": (FinetuneRecipe, Part, None),
}


def load(path: Path) -> AnyRecipe:
    """The recipe of a file; BadRecipe for what it must not hold."""
    try:
        said = tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise BadRecipe(f"the recipe {path} cannot be read: {exc.strerror}") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise BadRecipe(f"{path} is no TOML: {exc}") from exc
    name = said.pop("kind", "marian")
    if name not in _KINDS:
        raise BadRecipe(f"{path}: no kind is called {name!r}; there are {', '.join(_KINDS)}")
    kind, part, shape = _KINDS[name]
    try:
        made: dict[str, Any] = {
            side: tuple(_made(part, each) for each in _tables(side, said.pop(side, []))) for side in ("train", "valid")
        }
        if shape is not None:
            made["shape"] = _made(shape, said.pop("shape", {}))
        made["pace"] = _made(Pace, said.pop("pace", {}))
        recipe: AnyRecipe = _made(kind, {"name": path.stem, **said}, made)
        _check(recipe)
    except BadRecipe as exc:
        raise BadRecipe(f"{path}: {exc}") from exc
    return recipe


def check_files(recipe: AnyRecipe, data: Path) -> None:
    """BadData for a file that is not there, or whose first row is not as the recipe says, before any work is done."""
    for side in ("train", "valid"):
        for number, part in enumerate(getattr(recipe, side), start=1):
            if not (data / part.file).is_file():
                where = f"[[{side}]]" if len(getattr(recipe, side)) == 1 else f"[[{side}]] number {number}"
                raise BadData(f"recipe {recipe.name}: the file of its {where}, {part.file}, is not in --data {data}")
            next(part.read(data), None)


def _tables(side: str, said: Any) -> list[Any]:
    if not isinstance(said, list):
        raise BadRecipe(f"{side} must be tables: [[{side}]]")
    return said


def _made(kind: type[Any], said: Any, made: Mapping[str, Any] | None = None) -> Any:
    """Of what the file says, and of parts that are made already."""
    name = kind.__name__.lower()
    if not isinstance(said, dict):
        raise BadRecipe(f"{name} must be a table")
    fields, types = dataclasses.fields(kind), get_type_hints(kind)
    if unknown := said.keys() - types.keys():
        raise BadRecipe(f"unknown in {name}: {', '.join(sorted(unknown))}; known: {', '.join(sorted(types))}")
    for key, value in said.items():
        wanted = types[key] | int if types[key] is float else types[key]
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise BadRecipe(f"{key} is {value!r}; it must be {getattr(types[key], '__name__', types[key])}")
    needed = {each.name for each in fields if each.default is each.default_factory is dataclasses.MISSING}
    if missing := needed - said.keys() - (made or {}).keys():
        raise BadRecipe(f"{name} has no {', '.join(sorted(missing))}")
    return kind(**said, **(made or {}))


def _check(recipe: AnyRecipe) -> None:
    """What would otherwise be found out hours later, at the first validation."""
    if recipe.metric not in (known := METRICS[type(recipe)]):
        raise BadRecipe(f"no metric is called {recipe.metric!r}; there are {', '.join(known)}")
    pace = recipe.pace
    if pace.optimizer not in OPTIMIZERS:
        raise BadRecipe(f"no optimizer is called {pace.optimizer!r}; there are {', '.join(OPTIMIZERS)}")
    if low := [key for key in ABOVE_NOTHING if getattr(pace, key) <= 0]:
        raise BadRecipe(f"{', '.join(low)} must be above 0")
    if not isinstance(recipe, Recipe) and not 0 <= recipe.kl <= 1:
        raise BadRecipe("kl must be from 0 to 1")
    if isinstance(recipe, FinetuneRecipe) and recipe.temperature <= 0:
        raise BadRecipe("temperature must be above 0")
    for side in ("train", "valid"):
        if not getattr(recipe, side):
            raise BadRecipe(
                f"has no [[{side}]]: it names no files to {'learn from' if side == 'train' else 'judge by'}"
            )
