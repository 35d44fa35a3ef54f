"""Train a model from a recipe; it can be stopped and taken up again at any time.

    bushel models train RECIPE.toml --data FOLDER --out FOLDER [--minutes N] [--finish]

Killed or stopped, the same command goes on from the last checkpoint. `--finish` begins the decay of the learning rate
at once (a file `finish` in the out folder does the same to a running training); after it, the average of the last
checkpoints, or the last one if that is better on the validation files, is written to OUT/model.

The recipe's `kind` is marian (from text pairs; the usual one), causal (from texts; with --model, a folder that such a
training has made goes on learning, as a smaller student of --teacher for instance) or finetune (an existing folder,
named by --model, goes on learning from pairs).
"""

import argparse
import dataclasses
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import AlreadyTrained, BadSettings, TrainingError
from training.progress import Lines
from training.recipe import AnyRecipe, CausalRecipe, FinetuneRecipe, Recipe, check_files, load
from training.settings import add_home, parse, run

# What takes torch is imported where it is used: its seconds are not for a help text, nor for a mistake in the words.
if TYPE_CHECKING:
    from training.learning.loop import Run, Task


def check_folders(recipe: AnyRecipe, model: Path | None, teacher: Path | None, option: str = "--model") -> None:
    """BadSettings for a folder that is missing, or that has no use; `option` is what the model's is given by."""
    if isinstance(recipe, Recipe):
        if model is not None or teacher is not None:
            raise BadSettings(
                f"recipe {recipe.name} begins from nothing: {option} and --teacher are for finetune and causal"
            )
        return
    if model is None and (isinstance(recipe, FinetuneRecipe) or teacher is not None):
        raise BadSettings(f"recipe {recipe.name} goes on from a model's folder; name it with {option}")
    if teacher is not None and not recipe.kl:
        raise BadSettings(f"recipe {recipe.name} has no kl, so that --teacher would have no part in the loss")
    if teacher is None and recipe.kl:
        raise BadSettings(f"recipe {recipe.name} has kl = {recipe.kl}: name the teacher's folder with --teacher")


def task_of(recipe: AnyRecipe, data: Path, out: Path, model: Path | None = None, teacher: Path | None = None) -> "Task":
    """What the recipe trains. BadSettings as `check_folders` has it."""
    from training.learning.causal import CausalTask
    from training.learning.finetune import FinetuneTask
    from training.learning.marian_task import MarianTask

    check_folders(recipe, model, teacher)
    if isinstance(recipe, FinetuneRecipe):
        assert model is not None
        return FinetuneTask(recipe, model, data, teacher)
    if isinstance(recipe, CausalRecipe):
        return CausalTask(recipe, data, out, model, teacher)
    return MarianTask(recipe, data, out)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="training.learning.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="a TOML file; docs/training.md lists what it may hold")
    parser.add_argument("--data", type=Path, required=True, help="folder the recipe's files are in")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training; the model is in OUT/model")
    parser.add_argument("--model", help="the folder, or the registered model, to go on from (default: none)")
    parser.add_argument("--teacher", help="a folder or a registered model to learn word by word from (default: none)")
    add_running(parser)
    asked = parse(parser, argv)
    recipe = seeded(load(asked.recipe), asked.seed)
    check_files(recipe, asked.data)
    from training.folders import model_folder
    from training.learning.loop import Run

    begin(asked.threads)
    model, teacher = (model_folder(said, asked.home) if said else None for said in (asked.model, asked.teacher))
    check_folders(recipe, model, teacher)
    with without_denormals():
        with nothing_left(asked.out):
            made = Run(recipe, task_of(recipe, asked.data, asked.out, model, teacher), asked.out)
        go(made, asked)


@contextmanager
def nothing_left(out: Path) -> Iterator[None]:
    """An out folder that was not there is not there after an error either."""
    was_there = out.exists()
    try:
        yield
    except TrainingError:
        if not was_there:
            shutil.rmtree(out, ignore_errors=True)
        raise


def go(running: "Run", asked: argparse.Namespace) -> None:
    """Train to the end, or for as long as there is; a training that has ended stays as it is."""
    if running.is_finished:
        raise AlreadyTrained(running.out / "model")
    if running.train(asked.minutes, asked.finish):
        running.finish()


def seeded(recipe: AnyRecipe, seed: int | None) -> AnyRecipe:
    return recipe if seed is None else dataclasses.replace(recipe, seed=seed)


def add_running(parser: argparse.ArgumentParser) -> None:
    """The options of every command that trains."""
    parser.add_argument("--seed", type=int, help="of all that is random (default: the recipe's)")
    add_home(parser)
    parser.add_argument(
        "--minutes", type=float, help="stop after so long; the same command goes on later (default: never)"
    )
    parser.add_argument("--finish", action="store_true", help="begin the decay of the learning rate now")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")


def begin(threads: int | None) -> None:
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[Lines()])
    # A line for each request, several a second.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if threads:
        torch.set_num_threads(threads)


@contextmanager
def without_denormals() -> Iterator[None]:
    """Numbers next to nothing are nothing: they are of no use here, and a hundred times slower than others.

    To be entered before the first parallel work of torch, whose threads keep what they are started with.
    """
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


if __name__ == "__main__":
    run(main)
