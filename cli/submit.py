"""`bushel submit`: a file becomes a job."""

from pathlib import Path

import click

from cli import show, wire
from cli.access import Target
from cli.client import Client
from cli.exits import Exit
from cli.files import ByteBar
from cli.formats import KINDS, Format, guess, opened
from cli.options import decoding, model_options, pairs, window
from cli.results import format_of, save
from cli.watch import exit_code, follow, wait

TASKS = ("translation", "summarization", "generation")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--task", type=click.Choice(TASKS), default="translation", show_default=True)
@model_options
@click.option("--format", "kind", type=click.Choice(KINDS), help="Default: by the name of FILE, .gz or not.")
@click.option("--text-column", help="Column of a csv or tsv that holds the text. Default: text.")
@click.option("--id-column", help="Column that holds the custom id.")
@click.option("--window", "completion_window", metavar="TIME", help="Give up after 90m, 24h, 3d, or never.")
@click.option("--on-error", type=click.Choice(["fail", "skip"]), help="What a line that is not valid does to the job.")
@click.option("--long-input", type=click.Choice(["error", "truncate"]), help="What happens to a text too long.")
@click.option("--metadata", multiple=True, metavar="K=V", help="Kept with the job. May be repeated.")
@click.option("--dry-run", is_flag=True, help="Check every line and estimate the time; run nothing.")
@click.option("--watch", "watched", is_flag=True, help="Show progress until the job ends.")
@click.option("--wait", "waited", is_flag=True, help="Wait quietly until the job ends.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT", help="Wait, then write results here.")
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON.")
@click.pass_obj
def submit(
    target: Target,
    file: Path,
    task: str,
    model: str | None,
    source: str | None,
    target_lang: str | None,
    params: tuple[str, ...],
    priority: int | None,
    kind: str | None,
    text_column: str | None,
    id_column: str | None,
    completion_window: str | None,
    on_error: str | None,
    long_input: str | None,
    metadata: tuple[str, ...],
    dry_run: bool,
    watched: bool,
    waited: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Submit FILE (- is standard input) as a job and print the job's id.

    A format is guessed from the name: .txt (one text a line), .csv, .tsv, .jsonl, each also as .gz.
    With -o, the results are written in the input's format, or in that of OUT's name.
    """
    form = Format(guess(file.name, kind), text_column, id_column)
    body: dict[str, object] = {
        "task": task,
        "model": model,
        "format": form.as_json(),
        "params": decoding(params, source, target_lang),
        "metadata": pairs(metadata, "--metadata"),
        "dry_run": dry_run,
    }
    said = {"priority": priority, "on_error": on_error, "long_input": long_input}
    body |= {name: value for name, value in said.items() if value is not None}
    if completion_window is not None:
        body["completion_window"] = window(completion_window)
    with target.client() as client:
        job = client.create_job(body | {"input_file_id": send(client, file)})
        to_stdout = output is not None and str(output) == "-"
        if not as_json:
            click.echo(job.id, err=to_stdout)
        if dry_run or watched or waited or output is not None:
            job = await_end(client, job, watched)
        if output is not None and job.is_final and not dry_run:
            save(client, job.id, output, result_format(output, form))
    if as_json:
        show.print_json(job.raw)
    raise click.exceptions.Exit(exit_code(job))


def send(client: Client, path: Path) -> str:
    """Upload a file; its id."""
    try:
        with opened(path) as (content, name), ByteBar(f"uploading {name}") as bar:
            return client.upload(content, name, progress=bar.seen).id
    except FileNotFoundError as exc:
        raise click.BadParameter(f"there is no file {path}", param_hint="FILE") from exc


def await_end(client: Client, job: wire.Job, watched: bool) -> wire.Job:
    console = show.stderr()
    if watched:
        job = follow(client, job, console)
    else:
        try:
            job = wait(client, job, lambda now: None)
        except KeyboardInterrupt:
            console.print(f"{job.id} goes on; see it: bushel watch {job.id}; end it: bushel cancel {job.id}")
            raise click.exceptions.Exit(Exit.INTERRUPTED) from None
    show.summary(console, job)
    return job


def result_format(output: Path, form: Format) -> str:
    return format_of(output) if output.suffix.lower() in (".jsonl", ".csv", ".tsv", ".txt") else form.result_format
