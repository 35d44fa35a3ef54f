"""The first items of a job that failed, and why."""

import itertools
import json
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from cli import wire
from cli.client import Client
from cli.errors import Refused

SHOWN = 3
# How far into the results we look where no file has the failures alone.
_LINES_READ = 2000


def show_failures(console: Console, client: Client, job: wire.Job) -> None:
    """The first few items that failed; nothing for a job that still runs, or without failures."""
    if not job.is_final or not job.counts.failed:
        return
    found = first_failures(client, job)
    for one in found:
        reason = f"{one.error_code or one.status}: {one.error_message or 'no reason given'}"
        console.print(Text(f"{one.custom_id or f'item {one.index}'}: {reason}", style="red"), soft_wrap=True)
    hidden = job.counts.failed - len(found)
    more = f"{hidden:,} {'more ' if found else ''}failed; " if hidden > 0 else ""
    console.print(f"{more}see all: bushel results {job.id}", markup=False, soft_wrap=True)


def first_failures(client: Client, job: wire.Job) -> list[wire.Result]:
    """From the job's error file, which holds nothing else, or else from the beginning of its results."""
    file_id = job.raw.get("error_file_id")
    if isinstance(file_id, str) and _has_results(job):
        try:
            lines = client.first_lines(file_id, min(_LINES_READ, SHOWN + job.counts.cancelled + job.counts.expired))
            return _failed(wire.result(json.loads(line)) for line in lines)
        except Refused as exc:
            # Deleted meanwhile; the results are still there.
            if exc.status != 404:
                raise
    return _failed(result for result, _ in itertools.islice(client.result_lines(job.id), _LINES_READ))


def _failed(results: Iterable[wire.Result]) -> list[wire.Result]:
    return list(itertools.islice((one for one in results if one.status == "failed"), SHOWN))


def _has_results(job: wire.Job) -> bool:
    """Whether the lines of its files are those of its results, and not a table's, or another API's."""
    form = job.raw.get("format")
    is_table = (form.get("type") if isinstance(form, dict) else form) == "csv"
    return not is_table and job.raw.get("dialect", "bushel") == "bushel"
