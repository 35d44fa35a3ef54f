"""`bushel files`: uploaded inputs and produced outputs."""

import itertools
import sys
from pathlib import Path
from types import TracebackType

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from cli import show
from cli.access import Target
from cli.errors import WrongUsage
from cli.formats import opened
from cli.output import check_writable


@click.group()
def files() -> None:
    """List, upload, download and delete files."""


@files.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many files to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(target: Target, limit: int, as_json: bool) -> None:
    """List the latest files."""
    with target.client() as client:
        found = list(itertools.islice(client.files(), limit))
    if as_json:
        show.print_json([file.raw for file in found])
        return
    if not found:
        click.echo("no files", err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("file", no_wrap=True, min_width=max(len(file.id) for file in found))
    for column in ("name", "size", "purpose", "created"):
        table.add_column(column, no_wrap=True)
    for file in found:
        table.add_row(file.id, file.filename, show.size(file.bytes), file.purpose, show.moment(file.created_at))
    show.stdout().print(table)


@files.command()
@click.argument("path", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--purpose", default="batch", show_default=True, help="Kept with the file, for lists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def upload(target: Target, path: Path, purpose: str, as_json: bool) -> None:
    """Upload PATH (- is standard input) and print the file's id."""
    with target.client() as client, opened(path) as (file, name), ByteBar(name) as progress:
        stored = client.upload(file, name, purpose, progress.seen)
    if as_json:
        show.print_json(stored.raw)
    else:
        click.echo(stored.id)


@files.command()
@click.argument("file_id", metavar="FILE_ID")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: its own name. - is standard output.")
@click.option("--force", is_flag=True, help="Without -o: replace a file of that name.")
@click.pass_obj
def download(target: Target, file_id: str, output: Path | None, force: bool) -> None:
    """Download a file. An interrupted download is continued by the same command."""
    if output is not None and not output.is_dir():
        check_writable(output)
    with target.client() as client:
        if str(output) == "-":
            client.copy_file(file_id, sys.stdout.buffer)
            return
        # The name came from whoever uploaded it: only its last part may say where we write.
        place = output or Path(Path(client.file(file_id).filename.replace("\\", "/")).name or file_id)
        if place.is_dir():
            place = place / file_id
        if output is None and not force and place.exists():
            raise WrongUsage(f"{place} exists; use -o FILE or --force")
        with ByteBar(place.name) as progress:
            client.download(file_id, place, progress.seen)
    click.echo(str(place), err=True)


@files.command()
@click.argument("file_ids", metavar="FILE_ID…", nargs=-1, required=True)
@click.pass_obj
def delete(target: Target, file_ids: tuple[str, ...]) -> None:
    """Delete files."""
    with target.client() as client:
        for file_id in file_ids:
            client.delete_file(file_id)
            click.echo(f"{file_id} deleted", err=True)


class ByteBar:
    """A progress bar of bytes on standard error; nothing where that is no terminal."""

    def __init__(self, name: str) -> None:
        console = show.stderr()
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> "ByteBar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def seen(self, done: int, total: int | None) -> None:
        self._progress.update(self._task, completed=done, total=total)
