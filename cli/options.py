"""Options that several commands share, how their values are read, and what the server calls them."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.errors import Refused

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# What the server calls a thing, and the option that says it here; in this order.
_OPTIONS = (
    (r"`?\bformat\.text_column\b`?", "--text-column"),
    (r"`?\bformat\.id_column\b`?", "--id-column"),
    (r"`?\bformat\.reference_column\b`?", "--reference-column"),
    (r"`?\bformat\.delimiter\b`?", "--delimiter"),
    (r"`?\bformat\.has_header\b`?", "--no-header"),
    (r"`format`|\bformat\.type\b", "--format"),
    (r"`?\blong_input\b:?`?", "--long-input"),
    (r"`?\bon_error\b:?`?", "--on-error"),
    (r"`tier`|\Atier\Z", "--tier"),
    (r"`?\b(?:params\.)?target_lang\b`?", "--to"),
    (r"`?\b(?:params\.)?source_lang\b`?", "--from"),
)

TASKS = ("translation", "summarization", "generation")
TIERS = ("best", "balanced", "fast")

Command = TypeVar("Command", bound=Callable[..., Any])


def as_options(text: str) -> str:
    """A sentence of the server about its fields, as one about our options.

    >>> as_options("name it with format.text_column, or set on_error: skip")
    'name it with --text-column, or set --on-error skip'
    >>> as_options("model m needs target_lang")
    'model m needs --to'
    """
    for field, option in _OPTIONS:
        text = re.sub(field, option, text)
    return text


@contextmanager
def said_in_options() -> Iterator[None]:
    """What the server refuses in here is told in terms of the options."""
    try:
        yield
    except Refused as exc:
        param = as_options(exc.param) if exc.param else None
        raise Refused(exc.status, as_options(exc.message), exc.code, param, exc.request_id) from exc


def offer_jobs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """For `shell_complete`: imported only when a shell asks, as it talks HTTP."""
    from cli.suggestions import jobs

    return jobs(ctx, incomplete)


def offer_models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """The same for the models that the server has."""
    from cli.suggestions import models

    return models(ctx, incomplete)


def as_job(id: str) -> str:
    """A job's id, also where that of an OpenAI batch or an Anthropic message batch is given: only the prefix differs.

    >>> as_job("batch_1"), as_job("msgbatch_1"), as_job("job_1")
    ('job_1', 'job_1', 'job_1')
    """
    return re.sub(r"^(?:msg)?batch_", "job_", id)


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
    """--model --tier --from --to --params --priority --long-input, for every command that makes jobs."""
    for option in (
        click.option("--long-input", type=click.Choice(["error", "truncate"]), help="What happens to a text too long."),
        click.option("--priority", type=click.IntRange(-100, 100), help="Higher goes first."),
        click.option("--params", "params", multiple=True, metavar="K=V", help="Decoding parameter. May be repeated."),
        click.option("--to", "target_lang", metavar="LANG", help="Target language, in the model's own codes."),
        click.option("--from", "source", metavar="LANG", help="Source language."),
        click.option("--tier", type=click.Choice(TIERS), help="Which of the model's family: how good, at what cost."),
        click.option(
            "--model",
            shell_complete=offer_models,
            help="Default: the server's for the task. With --tier also a family.",
        ),
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
