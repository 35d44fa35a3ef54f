"""Jobs in words, tables and bars. Pure, except that it draws."""

import datetime
import json

import click
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli import wire
from cli.inert import InertConsole
from cli.options import as_options

STATUS_STYLES = {"completed": "green", "failed": "red", "expired": "red", "cancelled": "yellow", "cancelling": "yellow"}
COUNTED = ("queued", "running", "succeeded", "failed", "cancelled", "expired")


# Nobody serves the model: what would be waited for never comes by itself.
STALLED = frozenset({"no_worker", "model_unavailable"})
# With fewer scored lines, resampling them says little of how far another set of lines would be.
FEW_SCORED = 30

# Where no window sets a width, lines are as long as they are: an id cut short is of no use to a script.
_UNBOUNDED = 4000


def stderr() -> Console:
    """Where progress goes: never among the data."""
    return _console(to_stderr=True)


def stdout() -> Console:
    return _console(to_stderr=False)


def plain() -> Console:
    """Standard output without colours, also on a terminal: as wide as that is, else without bounds."""
    width = stdout().width
    return InertConsole(highlight=False, color_system=None, force_terminal=False, width=width)


def _console(to_stderr: bool) -> Console:
    console = InertConsole(stderr=to_stderr, highlight=False)
    return console if console.is_terminal else InertConsole(stderr=to_stderr, highlight=False, width=_UNBOUNDED)


def put(console: Console, drawn: RenderableType) -> None:
    """Print it; without the spaces that fill a table's last column, where no window could hide them."""
    if console.is_terminal:
        console.print(drawn)
        return
    with console.capture() as captured:
        console.print(drawn)
    for text in captured.get().splitlines():
        click.echo(text.rstrip(), err=console.stderr)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def duration(seconds: float | None) -> str:
    """
    >>> [duration(s) for s in (None, 0.4, 59, 61, 7300, 90000)]
    ['?', '1s', '59s', '1m 01s', '2h 01m', '1d 1h']
    """
    if seconds is None:
        return "?"
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def size(count: int) -> str:
    """
    >>> size(999), size(1500), size(2_500_000)
    ('999 B', '1.5 kB', '2.5 MB')
    """
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def moment(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def state(job: wire.Job) -> str:
    return f"{job.status} (paused)" if job.paused else job.status


def counts(job: wire.Job) -> str:
    """All six counts, always in the same order."""
    return "  ".join(f"{name} {getattr(job.counts, name):,}" for name in COUNTED)


def speed(job: wire.Job) -> str:
    """Rates and time left, as far as the server knows them."""
    said = []
    if job.items_per_second is not None:
        said.append(f"{job.items_per_second:,.1f} items/s")
    if job.tokens_per_second is not None:
        said.append(tokens_per_second(job))
    if job.eta_seconds is not None and not job.is_final:
        said.append(f"done in {duration(job.eta_seconds)}{band(job)}")
    return "  ".join(said)


def band(job: wire.Job) -> str:
    """Between which times it ends, four times out of five, if they differ in what is shown."""
    if job.eta_low_seconds is None or job.eta_high_seconds is None:
        return ""
    low, high = duration(job.eta_low_seconds), duration(job.eta_high_seconds)
    return "" if low == high else f" ({low} to {high})"


def track_record(record: wire.Record) -> str:
    """
    >>> track_record(wire.Record(412, 0.8155, 0.094))
    'of 412 such estimates in 30 days 82% held, and half of them were less than 9% off'
    """
    few = "1 such estimate" if record.estimates == 1 else f"{record.estimates:,} such estimates"
    return (
        f"of {few} in 30 days {record.inside:.0%} held, and half of them were less than {record.median_error:.0%} off"
    )


def tokens_per_second(job: wire.Job) -> str:
    return "" if job.tokens_per_second is None else f"{job.tokens_per_second:,.0f} tokens/s"


def line(job: wire.Job) -> str:
    """A job in one plain line, for logs and pipes."""
    parts = [f"{job.id} {state(job)} {job.counts.finished:,}/{job.counts.total:,}", counts(job), speed(job)]
    if job.waiting_for and not job.is_final:
        parts.append(f"waiting: {job.waiting_for}")
    return "  ".join(filter(None, parts))


def said(job: wire.Job, as_json: bool) -> None:
    """A job on standard output, as an object or as a line."""
    if as_json:
        print_json(job.raw)
    else:
        click.echo(line(job))


def panel(job: wire.Job) -> RenderableType:
    """A job as a few lines with a bar, to be redrawn in place."""
    head = Text.assemble(
        (job.id, "bold"), "  ", f"{job.task}  {job.model or ''}  ", (state(job), STATUS_STYLES.get(job.status, "cyan"))
    )
    bar = Table.grid(padding=(0, 1))
    total = job.counts.total
    bar.add_row(
        ProgressBar(total=max(1, total), completed=job.counts.finished, width=40),
        f"{job.counts.finished:,}/{total:,}",
        speed(job),
    )
    lines: list[RenderableType] = [head, bar, Text(counts(job), style="dim")]
    if job.waiting_for and not job.is_final:
        lines.append(Text(f"waiting: {job.waiting_for}", style="yellow"))
    return Group(*lines)


def problems(console: Console, job: wire.Job) -> None:
    """What was wrong with the input, line by line."""
    for problem in job.problems:
        console.print(Text(as_options(str(problem)), style="red"))
    hidden = job.problems_total - len(job.problems)
    if hidden > 0:
        console.print(Text(f"… and {hidden:,} more", style="red"))


def summary(console: Console, job: wire.Job) -> None:
    """How a job ended, or how it would go, after a dry run."""
    problems(console, job)
    if job.estimate is not None:
        known = job.estimate.items
        items = "unknown number of items" if known is None else f"{known:,} {plural('item', known)}"
        if job.estimate.invalid_items:
            items += f" and {job.estimate.invalid_items:,} invalid"
        tokens = f"about {job.estimate.input_tokens:,} input tokens" if job.estimate.input_tokens is not None else ""
        console.print("  ".join(filter(None, (items, tokens, f"about {duration(job.estimate.seconds)}"))))
    style = STATUS_STYLES.get(job.status, "cyan")
    console.print(Text.assemble((job.id, "bold"), "  ", (state(job), style), "  ", counts(job)))
    if job.input_tokens or job.output_tokens:
        console.print(Text(f"{job.input_tokens:,} tokens in, {job.output_tokens:,} out{took(job)}", style="dim"))
    if job.same_items or job.cached_items:
        console.print(Text(saved(job), style="dim"))
    for sentence in notices(job.truncated_inputs, job.cut_outputs):
        console.print(Text(sentence, style="yellow"))
    scores(console, job)


def took(job: wire.Job) -> str:
    """The time of devices that it used, if the server measures that."""
    return f", {job.device_seconds:,.1f} s on a device" if job.device_seconds else ""


def saved(job: wire.Job) -> str:
    """What did not have to be computed."""
    found = ((job.same_items, "equal to others of the job"), (job.cached_items, "from the cache"))
    shares = " and ".join(f"{count:,} {where}" for count, where in found if count)
    return f"{shares}: {job.saved_tokens:,} tokens not computed"


def scores(console: Console, job: wire.Job) -> None:
    """What the outputs scored against their references, if the job has ended and had some."""
    if job.scores is None:
        return
    put(console, score_table(job.scores))
    for each in job.scores.metrics:
        console.print(Text(f"{each.metric}  {each.signature}", style="dim"))
    said = f"of {job.scores.scored:,} {plural('output', job.scores.scored)}"
    if job.scores.unscored:
        said += f"; {job.scores.unscored:,} with a reference have no output and are in no score"
    if job.scores.scored_in_part:
        said += f"; of {job.scores.scored_in_part:,} only the first 100,000 characters were scored"
    if job.scores.length_ratio is not None:
        said += f"; {job.scores.length_ratio:.2f} times as long as the references"
    if job.scores.copied_whole is not None:
        said += f"; {job.scores.copied_whole:.1%} copy their input whole"
    if job.scores.copied_words is not None:
        said += f"; {job.scores.copied_words:.1%} of their words are the input's"
    console.print(Text(said, style="dim"))
    if 0 < job.scores.scored < FEW_SCORED:
        console.print(Text(f"fewer than {FEW_SCORED} scored lines: the intervals mean little", style="yellow"))


def score_table(found: wire.Scores) -> Table:
    table = _score_table("score", "95 % interval")
    for each in found.metrics:
        table.add_row(each.metric, f"{each.score:.1f}", f"{each.low:.1f} to {each.high:.1f}")
    return table


def difference_table(found: wire.Comparison) -> Table:
    table = _score_table("A", "B", "A - B", "95 % interval", "p", "clear")
    for each in found.metrics:
        table.add_row(
            each.metric,
            f"{each.a:.1f}",
            f"{each.b:.1f}",
            f"{each.difference:+.2f}",
            f"{each.low:+.2f} to {each.high:+.2f}",
            f"{each.p_value:.3f}",
            Text("yes", style="green") if each.is_clear else "no",
        )
    return table


def _score_table(*numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def notices(truncated_inputs: int, cut_outputs: int) -> list[str]:
    """What was cut, which no status tells.

    >>> notices(0, 2)
    ['2 outputs reached the token limit and may be cut off']
    """
    said = []
    if truncated_inputs:
        inputs = f"{truncated_inputs:,} {plural('input', truncated_inputs)}"
        said.append(f"{inputs} longer than the model takes: the rest was left out")
    if cut_outputs:
        said.append(f"{cut_outputs:,} {plural('output', cut_outputs)} reached the token limit and may be cut off")
    return said


def plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def job_table(jobs: list[wire.Job]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    # Ids are to be copied: in a narrow window the other columns give way.
    table.add_column("job", no_wrap=True, min_width=max((len(job.id) for job in jobs), default=0))
    for column in ("task", "model", "status", "done", "failed", "created"):
        table.add_column(column, no_wrap=True)
    for job in jobs:
        table.add_row(
            job.id,
            job.task,
            job.model or "",
            _listed_state(job),
            f"{job.counts.finished:,}/{job.counts.total:,}",
            f"{job.counts.failed:,}",
            moment(job.created_at),
        )
    return table


def _listed_state(job: wire.Job) -> Text:
    if job.waits:
        return Text(f"{state(job)} (waiting)", style="yellow")
    return Text(state(job), style=STATUS_STYLES.get(job.status, "cyan"))


def stalled(jobs: list[wire.Job]) -> list[str]:
    """Why jobs wait that no free worker would take either; each reason once."""
    return list(dict.fromkeys(job.waiting_for or "" for job in jobs if job.waits and job.waiting_code in STALLED))


def origin(job: wire.Job) -> str:
    """Which model made a job's outputs, and how."""
    tier, params = job.raw.get("tier"), job.raw.get("params")
    said = [job.model or "several models", f"tier {tier}" if tier else ""]
    said += [f"{name}={value}" for name, value in params.items()] if isinstance(params, dict) else []
    return "  ".join(filter(None, said))
