"""The `bushel` command."""

import importlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from cli import exits
from cli.access import Target
from cli.errors import CLIError

# Command -> where it is, and its line in the help. Imported only when used: a bare install has none of the
# libraries that `up`, `keys` and `models` need, and everything else starts faster.
COMMANDS = {
    "up": ("cli.up:up", "Run the whole service on this machine until Ctrl-C."),
    "submit": ("cli.submit:submit", "Submit a file as a job."),
    "status": ("cli.status:status", "Show one job, or list the jobs."),
    "watch": ("cli.watch:watch", "Follow a job until it ends."),
    "top": ("cli.top:top", "Follow the whole service: workers, queues and jobs."),
    "results": ("cli.results:results", "Download the results of a job."),
    "compare": ("cli.compare:compare", "Compare the scores of two jobs."),
    "cancel": ("cli.cancel:cancel", "Cancel a job; finished results stay."),
    "pause": ("cli.pause:pause", "Let nothing more of a job start, for now."),
    "resume": ("cli.resume:resume", "Let a paused job go on."),
    "retry": ("cli.retry:retry", "Run what did not succeed again, as a new job."),
    "clone": ("cli.clone:clone", "Run the whole input of a job again, with other settings."),
    "delete": ("cli.delete:delete", "Delete jobs that have ended, with their results."),
    "audit": ("cli.audit:audit", "Check that nothing of a job was lost or done twice."),
    "files": ("cli.files:files", "List, upload, download and delete files."),
    "webhooks": ("cli.webhooks:webhooks", "Be told by HTTP when jobs end."),
    "models": ("cli.models:models", "Look after the models."),
    "keys": ("cli.keys:keys", "Create, list, rotate and revoke API keys."),
    "cache": ("cli.cache:cache", "Look at the cache of results, and empty it."),
    "usage": ("cli.usage:usage", "Show what was used, by day, model and task."),
    "quotas": ("cli.quotas:quotas", "Show and set how much a tenant may have."),
    "audit-log": ("cli.audit_log:audit_log", "Show who did what to keys, quotas, webhooks, jobs and files."),
    "translate": ("cli.filters:translate", "Translate standard input, line by line."),
    "summarize": ("cli.filters:summarize", "Summarize standard input, line by line."),
    "generate": ("cli.filters:generate", "Continue standard input, line by line."),
    "doctor": ("cli.doctor:doctor", "Check the installation, and say what to do about what is wrong."),
    "logs": ("cli.logs:logs", "Show and follow the logs of the `bushel up` here."),
    "completion": ("cli.completion:completion", "Let bash, zsh or fish complete commands, jobs and models."),
    "demo": ("cli.demo:demo", "Start a stack, translate the examples, show the results."),
}


class Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as exc:
            # The reader of our output, `head` say, has left. Python would complain once more when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(128 + signal.SIGPIPE) from exc

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        _take_data(command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        # Click would import every command for its line of help.
        named = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, epilog=exits.HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", help="The server. Default: BUSHEL_URL, else that of --data, else http://127.0.0.1:8765.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, readable=False, path_type=Path),
    envvar="BUSHEL_DATA",
    default=Path(".bushel"),
    show_default=True,
    help="Data folder of a `bushel up` on this machine, for its address and key. BUSHEL_API_KEY goes before it.",
)
@click.version_option(package_name="bushel")
@click.pass_context
def bushel(ctx: click.Context, /, **options: object) -> None:
    """Batches of text through language models: translate, summarize, generate by the file.

    Data goes to standard output, everything else to standard error.
    """
    ctx.obj = Target.of(ctx)


def _take_data(command: click.Command) -> None:
    """Let --data also stand behind the command's name, in it and in what it groups."""
    if all(parameter.name != "data" for parameter in command.params):
        text = "Data folder, as before the command's name."
        kind = click.Path(file_okay=False, readable=False, path_type=Path)
        option = click.Option(["--data"], type=kind, help=text, expose_value=False, callback=_retarget)
        command.params.append(option)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _take_data(inner)


def _retarget(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        # While a shell completes a command's words, `bushel` itself is not called.
        target = ctx.find_object(Target) or Target.of(ctx.find_root())
        ctx.obj = replace(target, data=value.expanduser(), is_data_said=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command; its exit code. Every failure a person can meet is one line on standard error."""
    try:
        code = bushel.main(arguments, prog_name="bushel", standalone_mode=False)
        return code if isinstance(code, int) else exits.Exit.OK
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except CLIError as exc:
        click.echo(f"Error: {exc}", err=True)
        return exc.exit_code
    except ModuleNotFoundError as exc:
        # The command line alone is installed, and this command does more than talk HTTP.
        click.echo(f"Error: this needs {exc.name}, which is not installed: pip install 'bushel[local]'", err=True)
        return exits.Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return exits.Exit.INTERRUPTED
    except OSError as exc:
        click.echo(f"Error: {exc}", err=True)
        return exits.Exit.USAGE


if __name__ == "__main__":
    main()
