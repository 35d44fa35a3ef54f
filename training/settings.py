"""A tool's options: from the command line, and before that from a TOML file named by --config."""

import argparse
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from training.errors import BadSettings, Done, TrainingError

# What the help calls the command; argparse's own idea where nobody says.
called: ContextVar[str | None] = ContextVar("called", default=None)
_OURS = ("help", "config")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with `--config FILE.toml` added: its keys are the tool's options (`max-pairs` or `max_pairs`) and
    arguments. The command line overrides them; options that may be repeated are added to. BadSettings for what the
    tool does not know. Paths are taken from the working folder, as on the command line.
    """
    parser.prog = called.get() or parser.prog
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="options from a file; those given here win (default: none)"
    )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    words = list(sys.argv[1:] if argv is None else argv)
    found, _ = first.parse_known_args(words)
    if found.config is not None and not {"-h", "--help"} & set(words):
        _take(parser, found.config)
    return parser.parse_args(words)


def add_home(parser: argparse.ArgumentParser) -> None:
    """Where the user's own registry is."""
    usual = Path(os.environ.get("BUSHEL_DATA") or ".bushel")
    parser.add_argument(
        "--home",
        type=Path,
        default=usual,
        help="Bushel's data folder, for names of your models.toml (default: BUSHEL_DATA, or .bushel)",
    )


def add_again(parser: argparse.ArgumentParser) -> None:
    """For a tool whose result is a folder."""
    parser.add_argument("--again", action="store_true", help="make it anew, even if the same is there already")


def run(tool: Callable[[], int | None]) -> None:
    """Run a tool as a program: expected errors are a line on standard error and exit code 1.

    Nothing left to do is no error.
    """
    try:
        code = tool()
    except Done as exc:
        print(exc, file=sys.stderr)
        code = 0
    except (TrainingError, OSError) as exc:
        print(f"Error: {exc}", file=sys.stderr)
        code = 1
    sys.exit(code or 0)


def _take(parser: argparse.ArgumentParser, path: Path) -> None:
    """Make what the file says the defaults."""
    try:
        said = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise BadSettings(f"{path} cannot be read: {exc}") from exc
    known = {_key(action): action for action in parser._actions if action.dest not in _OURS}
    given = {key.replace("-", "_"): value for key, value in said.items()}
    if unknown := given.keys() - known.keys():
        raise BadSettings(f"{path}: unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    for key, value in given.items():
        action = known[key]
        action.default = _value(action, value, f"{path}: {key}")
        action.required = False
        if not action.option_strings and action.nargs is None:
            # Else it would have to be on the command line as well.
            action.nargs = "?"


def _key(action: argparse.Action) -> str:
    """An option's own name, which may be another than that of its attribute."""
    longest = max(action.option_strings, key=len, default=action.dest)
    return longest.lstrip("-").replace("-", "_")


def _value(action: argparse.Action, said: Any, where: str) -> Any:
    if action.nargs == 0:
        if not isinstance(said, bool):
            raise BadSettings(f"{where} must be true or false")
        return said
    is_many = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    if is_many:
        return [_one(action, each, where) for each in (said if isinstance(said, list) else [said])]
    if isinstance(said, list):
        raise BadSettings(f"{where} must be one value, not a list")
    return _one(action, said, where)


def _one(action: argparse.Action, said: Any, where: str) -> Any:
    """The value as the command line would have it."""
    if isinstance(said, (bool, dict, list)):
        raise BadSettings(f"{where} must be a text or a number")
    kind = action.type if callable(action.type) else str
    try:
        value = kind(str(said))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as exc:
        raise BadSettings(f"{where}: {said!r} will not do: {exc}") from exc
    if action.choices is not None and value not in action.choices:
        raise BadSettings(f"{where}: {said!r} is none of {', '.join(map(str, action.choices))}")
    return value
