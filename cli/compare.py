"""`bushel compare`: by how much one job scores above another, and where they differ most."""

import click
from rich.console import Console
from rich.text import Text

from cli import show, wire
from cli.access import Target
from cli.options import as_job, offer_jobs


@click.command()
@click.argument("a", type=as_job, shell_complete=offer_jobs, metavar="A")
@click.argument("b", type=as_job, shell_complete=offer_jobs, metavar="B")
@click.option(
    "--lines", default=3, show_default=True, type=click.IntRange(0, 100), help="How many lines to show each way."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def compare(target: Target, a: str, b: str, lines: int, as_json: bool) -> None:
    """Compare the scores of the jobs A and B, whose inputs came with the same references.

    Both over the lines that both have scored; lines belong together by their custom id.
    """
    with target.client() as client:
        found = client.compare(a, b, lines)
        if as_json:
            show.print_json(found.raw)
            return
        jobs = {"A": client.job(a), "B": client.job(b)}
    console = show.stdout()
    for name, job in jobs.items():
        console.print(Text(f"{name}  {job.id}  {show.origin(job)}"))
    show.put(console, show.difference_table(found))
    console.print(Text(_shared(found), style="dim"))
    _print_lines(console, "A is better", found.a_better)
    _print_lines(console, "B is better", found.b_better)


def _shared(found: wire.Comparison) -> str:
    alone = [f"{count:,} only in {name}" for name, count in (("A", found.only_a), ("B", found.only_b)) if count]
    return "; ".join([f"over {found.common:,} {show.plural('line', found.common)} that both have scored", *alone])


def _print_lines(console: Console, title: str, lines: tuple[wire.DifferingLine, ...]) -> None:
    for line in lines:
        console.print(Text(f"\n{title} by {abs(line.difference):.1f} chrF: {line.custom_id}", style="bold"))
        console.print(Text(f"source     {line.source}"))
        for reference in line.references:
            console.print(Text(f"reference  {reference}"))
        console.print(Text(f"A {line.a_score:>5.1f}    {line.a}"))
        console.print(Text(f"B {line.b_score:>5.1f}    {line.b}"))
