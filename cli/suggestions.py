"""What a shell may offer for words that only the server knows: quickly, or not at all, and never with an error."""

import re
import threading
from collections.abc import Callable, Sequence

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from cli import wire
from cli.access import Target
from cli.client import Client
from cli.errors import CLIError
from cli.inert import inert

_NEWEST = 50
_PATIENCE_SECONDS = 1.0
_LONGEST_HELP = 60
# Shells read more than a word into other characters.
_WORD = re.compile(r"[\w.@:/+-]+", re.ASCII)

_TASKS = {"translate": "translation", "summarize": "summarization", "generate": "generation"}

Found = Sequence[tuple[str, str]]
"""Words, and what is said about each."""


def jobs(ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
    """The newest, with what their owner calls them."""
    return _offered(ctx, incomplete, lambda client: [(job.id, _job(job)) for job in client.newest_jobs(_NEWEST)[0]])


def models(ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
    """Those of the task, where the command or what was typed names one."""
    task = _TASKS.get(ctx.info_name or "")
    # The task may still be to come: its default rules nothing out.
    if ctx.get_parameter_source("task") is ParameterSource.COMMANDLINE:
        task = ctx.params["task"]

    def found(client: Client) -> Found:
        known = [model for model in client.models() if task is None or model.get("task") == task]
        return [(str(model["id"]), _model(model)) for model in known]

    return _offered(ctx, incomplete, found)


def _job(job: wire.Job) -> str:
    # Without a comma: fish shows nothing behind the first.
    return f"{job.name or f'{job.task} with {job.model}'} ({job.status})"


def _model(model: wire.JSON) -> str:
    return f"{model.get('task')}. {model.get('description') or ''}"


def _offered(ctx: click.Context, incomplete: str, ask: Callable[[Client], Found]) -> "list[CompletionItem[str]]":
    target = ctx.find_object(Target) or Target.of(ctx.find_root())
    return [
        CompletionItem(word, help=inert(said[:_LONGEST_HELP]))
        for word, said in _in_time(lambda: _asked(target, ask))
        if word.startswith(incomplete) and _WORD.fullmatch(word)
    ]


def _asked(target: Target, ask: Callable[[Client], Found]) -> Found:
    try:
        with target.client(is_patient=False) as client:
            return ask(client)
    except CLIError:
        # Somebody is in the middle of a line; the command itself will say what is wrong.
        return ()


def _in_time(ask: Callable[[], Found]) -> Found:
    """What was found by the time that nobody likes to wait any longer, resolving a name and a slow answer included."""
    found: list[Found] = []
    thread = threading.Thread(target=lambda: found.append(ask()), daemon=True)
    thread.start()
    thread.join(_PATIENCE_SECONDS)
    return found[0] if found else ()
