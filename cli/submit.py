"""`bushel submit`: a file becomes a job."""

from pathlib import Path

import click

from cli import show, wire
from cli.access import Target
from cli.client import Client
from cli.errors import CLIError, NotSaved
from cli.exits import Exit
from cli.failures import show_failures
from cli.files import ByteBar
from cli.formats import KINDS, Format, guess, opened, with_delimiter
from cli.options import TASKS, decoding, model_options, pairs, said_in_options, window
from cli.output import check_delimiter, check_writable, format_of
from cli.results import save, tell_left_out
from cli.watch import exit_code, follow, wait


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--task", type=click.Choice(TASKS), default="translation", show_default=True, help="What to do with every text."
)
@model_options
@click.option("--format", "kind", type=click.Choice(KINDS), help="Default: by the name of FILE, .gz or not.")
@click.option("--text-column", help="Column of a csv or tsv that holds the text. Default: text.")
@click.option("--id-column", help="Column that holds the custom id.")
@click.option("--reference-column", help="Column with what the output should be: the job is scored by it.")
@click.option(
    "--delimiter", metavar="CHAR", help="Between the cells of a csv. Default: a comma, or what its header has."
)
@click.option("--no-header", is_flag=True, help="The csv has no header; columns are named by number, from 1.")
@click.option("--window", "completion_window", metavar="TIME", help="Give up after 90m, 24h, 3d, or never.")
@click.option("--on-error", type=click.Choice(["fail", "skip"]), help="What a line that is not valid does to the job.")
@click.option("--metadata", multiple=True, metavar="K=V", help="Kept with the job. May be repeated.")
@click.option("--dry-run", is_flag=True, help="Check every line and estimate the time; run nothing.")
@click.option("--cache", is_flag=True, help="Take results of earlier such jobs for equal inputs, and keep these.")
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
    tier: str | None,
    source: str | None,
    target_lang: str | None,
    params: tuple[str, ...],
    priority: int | None,
    kind: str | None,
    text_column: str | None,
    id_column: str | None,
    reference_column: str | None,
    delimiter: str | None,
    no_header: bool,
    completion_window: str | None,
    on_error: str | None,
    long_input: str | None,
    metadata: tuple[str, ...],
    dry_run: bool,
    cache: bool,
    watched: bool,
    waited: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Submit FILE (- is standard input) as a job and print the job's id.

    A format is guessed from the name: .txt (one text a line), .csv, .tsv, .jsonl, each also as .gz.
    With -o, the results are written in the input's format, or in that of OUT's name; packed if it ends with .gz.
    """
    character = _character(delimiter)
    form = Format(guess(file.name, kind), text_column, id_column, character, not no_header, reference_column)
    if output is not None:
        check_writable(output)
    body: dict[str, object] = {
        "task": task,
        "model": model,
        "params": decoding(params, source, target_lang),
        "metadata": pairs(metadata, "--metadata"),
        "dry_run": dry_run,
    }
    said = {"tier": tier, "priority": priority, "on_error": on_error, "long_input": long_input, "cache": cache or None}
    body |= {name: value for name, value in said.items() if value is not None}
    if completion_window is not None:
        body["completion_window"] = window(completion_window)
    with target.client() as client:
        form, file_id = send(client, file, form, output)
        with said_in_options():
            job = client.create_job(body | {"format": form.as_json(), "input_file_id": file_id})
        to_stdout = output is not None and str(output) == "-"
        if not as_json:
            click.echo(job.id, err=to_stdout)
        if dry_run or watched or waited or output is not None:
            job = await_end(client, job, watched, output)
        if output is not None and job.is_final and not dry_run:
            deliver(client, job, output, result_format(output, form))
    if as_json:
        show.print_json(job.raw)
    raise click.exceptions.Exit(exit_code(job))


def send(client: Client, path: Path, form: Format, output: Path | None = None) -> tuple[Format, str]:
    """Upload a file; its format as its header shows it, and its id."""
    with opened(path) as (content, name):
        seen = with_delimiter(form, content)
        if seen != form:
            shown = "tab" if seen.delimiter == "\t" else seen.delimiter
            click.echo(f"{name}: the delimiter is taken to be {shown!r}; --delimiter sets another", err=True)
        if output is not None and result_format(output, seen) == "csv":
            check_delimiter(output, seen.result_delimiter)
        with ByteBar(f"uploading {name}") as bar:
            return seen, client.upload(content, name, progress=bar.seen).id


def deliver(client: Client, job: wire.Job, output: Path, form: str) -> None:
    """Write the results of a job that has ended; whatever prevents it, say how to get them."""
    if job.has_nothing:
        # What was wrong with the input has been said.
        click.echo(f"{job.id} failed before it had any item: nothing is written to {output}", err=True)
        return
    try:
        save(client, job.id, output, form)
        tell_left_out(job, form)
    except (CLIError, OSError) as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        raise NotSaved(job.id, str(output), exc) from exc
    except KeyboardInterrupt:
        click.echo(f"{output} is not written; get it again: bushel results {job.id} -o {output}", err=True)
        raise click.exceptions.Exit(Exit.INTERRUPTED) from None


def await_end(client: Client, job: wire.Job, watched: bool, output: Path | None = None) -> wire.Job:
    console = show.stderr()
    then = f"; when it has ended: bushel results {job.id} -o {output}" if output is not None else ""
    if watched:
        job = follow(client, job, console, then)
    else:
        try:
            job = wait(client, job, lambda now: None)
        except KeyboardInterrupt:
            goes_on = f"{job.id} goes on; see it: bushel watch {job.id}; end it: bushel cancel {job.id}{then}"
            console.print(goes_on, markup=False, soft_wrap=True)
            raise click.exceptions.Exit(Exit.INTERRUPTED) from None
    show.summary(console, job)
    show_failures(console, client, job)
    return job


def result_format(output: Path, form: Format) -> str:
    return format_of(output) or form.result_format


def _character(said: str | None) -> str | None:
    """A delimiter as one types it in a shell, where a tab is hard to type."""
    character = {"tab": "\t", "\\t": "\t"}.get(said, said) if said is not None else None
    if character is not None and len(character) != 1:
        raise click.BadParameter(f"{said!r} is not one character, nor 'tab'", param_hint="--delimiter")
    return character
