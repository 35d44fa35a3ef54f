"""`bushel models train` and the other tools of `training/`: their options are the tools' own."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click

from cli.access import Target
from cli.errors import WrongUsage
from cli.exits import Exit
from models.errors import RegistryError
from training.errors import Done, TrainingError
from training.settings import called

SECTION = "Making and judging models"
# What the extra `training` brings, and the bare install lacks.
EXTRA = "pip install 'bushel[training]'"
# Looked for before anything else, as the words are read before torch is imported.
NEEDED = ("torch", "transformers", "ctranslate2")


@dataclass(frozen=True, slots=True)
class Tool:
    """A module of `training`, its line in the help, and how it is told what stands before the command's name."""

    module: str
    line: str
    told: Callable[[Target], Sequence[str]]
    # In training.making.options: what reads its words without torch. The others' modules need none for that.
    options: str | None = None


def _home(target: Target) -> Sequence[str]:
    # Only what was said: the words override a config file. The tools themselves know BUSHEL_DATA and `.bushel`.
    return ("--home", str(target.data)) if target.is_data_said else ()


def _server(target: Target) -> Sequence[str]:
    return (*_home(target), *(("--url", target.url) if target.url else ()))


def _registry(target: Target) -> Sequence[str]:
    return ("--registry", str(target.data / "models.toml"), "--cache", str(target.data / "models"))


TOOLS: Mapping[str, Tool] = {
    "train": Tool("learning.train", "Train a model from a recipe, or go on with a training.", _home),
    "distil": Tool("learning.distil", "Train a small model on what a large one answers.", _server),
    "student": Tool(
        "making.students", "Make a smaller model to be distilled into, of a large one's layers.", _home, "student"
    ),
    "quantize": Tool("making.quantize", "Make a model's weights smaller: int8, bfloat16, int4.", _home, "quantizing"),
    "prune": Tool(
        "making.prune", "Leave out parts of a model: trim (tokens), layers, structured (neurons, heads).", _home
    ),
    "shortlist": Tool(
        "making.shortlist", "Give a model lists of likely words, which make it faster.", _home, "shortlisting"
    ),
    "evaluate": Tool("evaluation.evaluate", "Measure models on a reference file: quality, speed, size.", _registry),
    "explain": Tool("explaining.explain", "Show how sure a model is of each word, and where it looked.", _registry),
}


# Who says one of these to the tool itself means it.
_TOLD = {"--home", "--url", "--registry", "--cache"}


class Tools(click.Group):
    """A group with a section of its own for the tools, which are imported only when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *TOOLS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or (_command(cmd_name) if cmd_name in TOOLS else None)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [(name, command.get_short_help_str(limit=100)) for name, command in sorted(self.commands.items())]
        for section, rows in (("Commands", own), (SECTION, [(name, tool.line) for name, tool in TOOLS.items()])):
            with formatter.section(section):
                formatter.write_dl(rows)


def _command(name: str) -> click.Command:
    # The tool reads its own words, `--help` and `--data` among them: two lists of the same options would part ways.
    return click.Command(
        name,
        callback=partial(_run, name),
        params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        add_help_option=False,
        short_help=TOOLS[name].line,
    )


def _run(name: str, words: tuple[str, ...]) -> None:
    ctx = click.get_current_context()
    tool, target = TOOLS[name], ctx.find_object(Target) or Target(None, Path(".bushel"))
    if lacking := next((name for name in NEEDED if find_spec(name) is None), None):
        raise WrongUsage(f"this needs {lacking}, which is not installed: {EXTRA}")
    called.set(ctx.command_path)
    try:
        # Behind the others, as the first word may be one that the tool goes by.
        all_words = [*words, *(() if _TOLD & set(words) else tool.told(target))]
        if tool.options is not None:
            getattr(importlib.import_module("training.making.options"), tool.options)(all_words)
        code = importlib.import_module(f"training.{tool.module}").main(all_words)
    except Done as exc:
        click.echo(str(exc), err=True)
        return
    except (TrainingError, RegistryError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc
    except ModuleNotFoundError as exc:
        raise WrongUsage(f"this needs {exc.name}, which is not installed: {EXTRA}") from exc
    ctx.exit(code or Exit.OK)
