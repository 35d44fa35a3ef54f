"""Options that several commands share, and how their values are read."""

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """`k=v` words as a dictionary.

    >>> pairs(["a=1", "b=x=y"], "--metadata")
    {'a': '1', 'b': 'x=y'}
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{word!r} is not of the form name=value", param_hint=option)
        found[key] = value
    return found


def parameters(words: Iterable[str]) -> dict[str, object]:
    """Decoding parameters: a value that is JSON is taken as such, anything else as text.

    >>> parameters(["num_beams=4", "stop=[\\"END\\"]", "target_lang=de"])
    {'num_beams': 4, 'stop': ['END'], 'target_lang': 'de'}
    """
    return {key: _value(text) for key, text in pairs(words, "--params").items()}


def _value(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value


def model_options(command: Command) -> Command:
    """--model --from --to --params --priority, for every command that makes jobs."""
    for option in (
        click.option("--priority", type=click.IntRange(-100, 100), help="Higher goes first."),
        click.option("--params", "params", multiple=True, metavar="K=V", help="Decoding parameter. May be repeated."),
        click.option("--to", "target_lang", metavar="LANG", help="Target language, in the model's own codes."),
        click.option("--from", "source", metavar="LANG", help="Source language."),
        click.option("--model", help="Default: the server's for the task."),
    ):
        command = option(command)
    return command


def decoding(params: Iterable[str], source: str | None, target: str | None) -> dict[str, object]:
    """What goes into a job's `params`; --from and --to win over --params."""
    found = parameters(params)
    if source:
        found["source_lang"] = source
    if target:
        found["target_lang"] = target
    return found


def window(text: str | None) -> str | None:
    """A completion window as the API takes it; `never` is null."""
    return None if text in (None, "never") else text
