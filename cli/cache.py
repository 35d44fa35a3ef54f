"""`bushel cache`: results of your jobs that later ones take instead of computing them again."""

import click

from cli import show
from cli.access import Target


@click.group()
def cache() -> None:
    """Look at your cache of results, and empty it.

    Jobs that were submitted with --cache fill it, and take from it what they need not compute.
    """


@cache.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def show_size(target: Target, as_json: bool) -> None:
    """Show how many results can be taken."""
    with target.client() as client:
        found = client.cache()
    if as_json:
        show.print_json(found)
    else:
        entries = int(str(found["entries"]))
        click.echo(f"{'more than ' if found['has_more'] else ''}{entries:,} {show.plural('result', entries)}")


@cache.command()
@click.pass_obj
def clear(target: Target) -> None:
    """Empty the cache. The jobs it came from keep their results."""
    with target.client() as client:
        cleared = client.clear_cache()
    click.echo(f"{cleared:,} {show.plural('result', cleared)} will not be taken any more", err=True)
