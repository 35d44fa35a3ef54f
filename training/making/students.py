"""Smaller models to be taught: some of a teacher's layers, or its shape made anew with other sizes.

    bushel models student TEACHER OUT --encoder-layers 6 --decoder-layers 2
    bushel models student TEACHER OUT --layers 4
    bushel models student TEACHER OUT --anew d_model=256 --anew encoder_layers=3

The student has its teacher's tokenizer, and the layers that are kept are spaced as widely as they can be, the first and
the last among them, as DistilBART's are (Shleifer and Rush 2020, arXiv 2010.13002).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from training.errors import CannotMake
from training.folders import model_folder, open_model, write_model
from training.making.artifact import Making, making, parameters
from training.making.drop_layers import spaced
from training.making.options import student as told
from training.making.outcome import outcome
from training.settings import run

_LAYER = re.compile(r"(?P<before>(?:^|\.)(?:(?P<side>encoder|decoder)\.)?(?:layers|block|h)\.)(?P<number>\d+)(?=\.)")
# What architectures call the number of layers; the first that the config has is meant.
_SIDES = {
    "encoder": ("encoder_layers", "num_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
    "": ("num_hidden_layers", "n_layer"),
}


def layers_of(config: Any) -> dict[str, int]:
    """How many layers each side has; a causal model has one side, which has no name."""
    sides = ("encoder", "decoder") if config.is_encoder_decoder else ("",)
    said = config.to_dict()
    return {side: next(said[key] for key in _SIDES[side] if said.get(key) is not None) for side in sides}


def select_layers(teacher: Any, kept: Mapping[str, Sequence[int]]) -> Any:
    """A new model with those layers of the teacher on each side, in their order, and all else that it has."""
    config = type(teacher.config).from_dict(teacher.config.to_dict())
    for side, places in kept.items():
        key = next(key for key in _SIDES[side] if getattr(config, key, None) is not None)
        setattr(config, key, len(places))
        if not side and getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[place] for place in places]
    if config.is_encoder_decoder and "encoder" in kept and hasattr(config, "encoder_layers"):
        config.num_hidden_layers = len(kept["encoder"])
    student = type(teacher)(config)
    wanted = {side: {old: new for new, old in enumerate(places)} for side, places in kept.items()}
    renamed = {}
    for name, value in teacher.state_dict().items():
        if (new := _renamed(name, wanted)) is not None:
            renamed[new] = value
    missing, unexpected = student.load_state_dict(renamed, strict=False)
    if missing or unexpected:
        raise CannotMake(f"the layers of {config.model_type} are not where they are looked for: {missing}{unexpected}")
    student.generation_config = teacher.generation_config
    return student.eval()


def anew(teacher: Any, sizes: Mapping[str, Any], seed: int = 1) -> Any:
    """The teacher's architecture with other sizes and random weights."""
    said = teacher.config.to_dict()
    if unknown := sizes.keys() - said.keys():
        raise CannotMake(f"unknown to {teacher.config.model_type}: {', '.join(sorted(unknown))}")
    torch.manual_seed(seed)
    # What follows from the number of layers is to be worked out again.
    config = type(teacher.config).from_dict({key: said[key] for key in said if key != "layer_types"} | dict(sizes))
    student = type(teacher)(config)
    if config.model_type == "marian":
        student.get_input_embeddings().weight.data[config.pad_token_id] = 0
    student.generation_config = teacher.generation_config
    return student.eval()


def make_student(
    folder: Path,
    out: Path,
    counts: Mapping[str, int] | None = None,
    sizes: Mapping[str, Any] | None = None,
    seed: int = 1,
    is_again: bool = False,
) -> Path:
    """Write a student of the folder's model: `counts` layers on each side, or anew with other `sizes`.

    `seed` is for the weights that are made anew.
    """
    settings = {"counts": counts, "sizes": sizes, "seed": seed} if sizes else {"counts": counts}
    with making(folder, out, "student", settings, is_again) as made:
        _make(made, counts, sizes, seed)
    return out


def _make(made: Making, counts: Mapping[str, int] | None, sizes: Mapping[str, Any] | None, seed: int) -> None:
    teacher = open_model(made.source)
    there = layers_of(teacher.config)
    if bool(counts) == bool(sizes):
        raise CannotMake("say either how many layers to keep, or which sizes to make anew")
    if unknown := (counts or {}).keys() - there.keys():
        raise CannotMake(f"{teacher.config.model_type} has no {' and no '.join(map(repr, sorted(unknown)))} side")
    kept = {side: spaced(count, (counts or {}).get(side, count)) for side, count in there.items()}
    student = anew(teacher, sizes, seed) if sizes else select_layers(teacher, kept)
    write_model(student, made.source, made.folder)
    made.record |= {
        "made": "anew" if sizes else "by layer selection",
        **({"sizes": dict(sizes)} if sizes else {"layers": kept}),
        "parameters_before": parameters(teacher),
        "parameters": parameters(student),
    }


def _renamed(name: str, wanted: Mapping[str, Mapping[int, int]]) -> str | None:
    """The name of a tensor in the student; None for one of a layer that is left out."""
    found = _LAYER.search(name)
    if found is None:
        return name
    new = wanted[found["side"] or ""].get(int(found["number"]))
    return None if new is None else f"{name[: found.end('before')]}{new}{name[found.end() :]}"


def main(argv: Sequence[str] | None = None) -> None:
    asked = told(argv)
    said = {"encoder": asked.encoder_layers, "decoder": asked.decoder_layers, "": asked.layers}
    counts = {side: count for side, count in said.items() if count is not None}
    folder = model_folder(asked.teacher, asked.home)
    make_student(folder, asked.out, counts, dict(asked.anew or ()), asked.seed, asked.again)
    print(outcome(asked.out))


if __name__ == "__main__":
    run(main)
