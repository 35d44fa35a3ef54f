"""Leave out whole layers of a model: smaller, faster, and in need of some training afterwards.

bushel models prune layers MODEL OUT [--encoder N | --encoder 0,5,11] [--decoder N | --decoder 0,5]

A number keeps so many layers, as far apart as can be and the first and last among them, as DistilBART does
(Shleifer and Rush 2020, arXiv 2010.13002); places separated by commas keep those. A decoder-only model has a decoder.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.errors import CannotMake
from training.folders import model_folder, open_model
from training.making.anatomy import Stack, anatomy
from training.making.artifact import making, parameters, rebuilt
from training.making.options import dropping
from training.making.outcome import outcome
from training.settings import run


def spaced(layers: int, kept: int) -> list[int]:
    """Places of `kept` of the layers, as far apart as can be.

    >>> spaced(12, 3), spaced(6, 3), spaced(6, 1)
    ([0, 6, 11], [0, 2, 5], [0])
    """
    if not 1 <= kept <= layers:
        raise CannotMake(f"{kept} layers cannot be kept of {layers}")
    if kept == 1:
        return [0]
    return [round(place * (layers - 1) / (kept - 1)) for place in range(kept)]


def choice(said: str, layers: int) -> list[int]:
    """The layers that the command line names: how many, or which."""
    try:
        numbers = [int(place) for place in said.split(",") if place.strip()]
    except ValueError as exc:
        raise CannotMake(f"{said!r} cannot be kept: say how many layers, or which, as 0,2,5") from exc
    if "," not in said and numbers:
        return spaced(layers, numbers[0])
    places = sorted(set(numbers))
    if not places or places[0] < 0 or places[-1] >= layers:
        raise CannotMake(f"of layers 0 to {layers - 1}, {said} cannot be kept")
    return places


def with_layers(model: Any, kept: Mapping[str, Sequence[int]]) -> Any:
    """A copy of the model with those layers of its stacks; stacks that are not named stay whole."""
    stacks = {stack.name: stack for stack in anatomy(model.config).stacks}
    config = copy.deepcopy(model.config)
    for name, places in kept.items():
        setattr(config, stacks[name].count, len(places))
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[place] for place in places]
        if hasattr(config, "max_window_layers"):
            config.max_window_layers = min(config.max_window_layers, len(places))
    old = model.state_dict()
    names = type(model)(config).state_dict().keys()
    origins = {name: _origin(name, stacks, kept) for name in names}
    # T5's position bias is in its first layer, whichever that is now, so it has no origin in the others.
    weights = {name: old[origin if origin in old else name] for name, origin in origins.items()}
    return rebuilt(model, config, weights)


def _origin(name: str, stacks: Mapping[str, Stack], kept: Mapping[str, Sequence[int]]) -> str:
    for side, places in kept.items():
        prefix = stacks[side].layers + "."
        if name.startswith(prefix):
            place, _, rest = name.removeprefix(prefix).partition(".")
            return f"{prefix}{places[int(place)]}.{rest}"
    return name


def drop_layers(source: Path, out: Path, encoder: str | None, decoder: str | None, is_again: bool = False) -> None:
    """Write the model with the chosen layers to `out`."""
    wanted = {name: said for name, said in (("encoder", encoder), ("decoder", decoder)) if said}
    with making(source, out, "drop_layers", wanted, is_again) as made:
        model = open_model(source)
        sizes = {stack.name: len(stack.of(model)) for stack in anatomy(model.config).stacks}
        if unknown := wanted.keys() - sizes.keys():
            raise CannotMake(f"the model has no {', '.join(sorted(unknown))}; it has {', '.join(sizes)}")
        kept = {name: choice(said, sizes[name]) for name, said in wanted.items()}
        made.record |= {"layers": sizes, "kept": kept, "parameters_before": parameters(model)}
        made.save(with_layers(model, kept))


def main(argv: Sequence[str] | None = None) -> None:
    asked = dropping(argv)
    drop_layers(model_folder(asked.model, asked.home), asked.out, asked.encoder, asked.decoder, asked.again)
    print(outcome(asked.out))


if __name__ == "__main__":
    run(main)
