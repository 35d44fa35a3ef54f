"""`bushel completion`: what a shell has to know to complete our words."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
# What click looks for in the environment, for a command named `bushel`.
_VARIABLE = "_BUSHEL_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what lets SHELL complete commands, options, jobs and models.

    \b
    bash 4.4 or later, in ~/.bashrc:
      eval "$(bushel completion bash)"
    zsh, in ~/.zshrc, behind compinit:
      eval "$(bushel completion zsh)"
    fish, once:
      bushel completion fish > ~/.config/fish/completions/bushel.fish

    Jobs are the newest 50 of the server that the words before name, or else the environment. A server that does
    not answer within a second is passed over in silence.
    """
    known = get_completion_class(shell)
    assert known is not None
    click.echo(known(ctx.find_root().command, {}, "bushel", _VARIABLE).source())
