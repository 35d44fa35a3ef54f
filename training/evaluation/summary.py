"""What an evaluation has found, as one short table for the terminal."""

import sys

from rich.console import Console
from rich.table import Table

from training.evaluation.report import NAMES, Report

# Where no window sets a width, a line is as long as it must be.
UNBOUNDED = 4000


def text(report: Report) -> str:
    """Models and floors: quality, speed, size."""
    console = Console(width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False)
    with console.capture() as captured:
        console.print(_table(report))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _table(report: Report) -> Table:
    shown = [name for name in report.shown if any(name in each.scores for each in report.findings)]
    has_perplexity = not shown and any(each.perplexity for each in report.findings)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold")
    heads = [*(NAMES[name] for name in shown), *(["perplexity"] if has_perplexity else []), "items/s", "MB", "memory"]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for each in report.findings:
        row = [f"{each.scores[name].score:.1f}" for name in shown]
        if has_perplexity:
            row.append(f"{each.perplexity.perplexity:,.2f}" if each.perplexity else "")
        sizes = [f"{each.engine_bytes / 1e6:,.1f}", f"{each.peak_bytes / 1e6:,.1f}"]
        table.add_row(each.name, *row, f"{each.speed.items_per_second:,.1f}", *sizes)
    for floor in report.floors:
        table.add_row(floor.name, *(f"{floor.scores[name].score:.1f}" for name in shown))
    return table
