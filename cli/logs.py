"""`bushel logs`: what the parts of a `bushel up` have logged, in one stream."""

import json
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from cli import show
from cli.access import Target
from cli.errors import WrongUsage
from cli.exits import Exit
from cli.inert import inert
from cli.logbook import volume
from cli.logbook.book import SUPERVISOR, Book, Wanted
from cli.logbook.entry import LEVELS, Entry
from cli.options import as_job

_USUAL = 100
# How often sizes of files are looked at. Nothing is read, and nothing else is done, while they stay. Python has no way
# to be told by the system when a file grows.
_POLL_SECONDS = 0.25
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_STYLES: dict[str, dict[str, object]] = {
    "debug": {"dim": True},
    "info": {"fg": None},
    "warning": {"fg": "yellow"},
    "error": {"fg": "red"},
    "critical": {"fg": "red", "bold": True},
}


def _since(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    return None if value is None else moment(value, time.time())


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on, until Ctrl-C.")
@click.option(
    "--part", "parts", multiple=True, metavar="NAME", help="Only this part: api, worker-1, … May be repeated."
)
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), default="debug", help="This and graver ones.")
@click.option("--since", callback=_since, metavar="WHEN", help="30s, 10m, 2h, 3d ago; or a time, in UTC.")
@click.option(
    "--tail",
    metavar="N",
    help=f"The last N lines, or `all`. Default: {_USUAL}; with --since, all of them.",
)
@click.option("--grep", metavar="TEXT", help="Only what has this in it, in capitals or not.")
@click.option("--job", "job_id", metavar="JOB", help="Only what was done for this job.")
@click.option("--json", "as_json", is_flag=True, help="An object a line, whatever the log's own format.")
@click.pass_obj
def logs(
    target: Target,
    follow: bool,
    parts: tuple[str, ...],
    level: str,
    since: float | None,
    tail: str | None,
    grep: str | None,
    job_id: str | None,
    as_json: bool,
) -> None:
    """Show the logs of the `bushel up` of this data folder, whether it runs or not.

    All parts together in the order of time, which is told in UTC; older generations of the files are read, too. A
    traceback belongs to the line that it stands behind, also for --level, --grep and --job. What the supervisor said of
    a part is among that part's lines.
    """
    folder = target.data.absolute() / "logs"
    wanted = Wanted(_known(folder, parts), level.lower(), since, grep, as_job(job_id) if job_id else None)
    most = _most(tail, since)
    put = _json_writer() if as_json else _text_writer(_width(folder, wanted))
    with Book(folder, wanted) as book:
        book.open_at(most)
        try:
            _copy(book, put, is_last=not follow)
            while follow:
                time.sleep(_POLL_SECONDS)
                _copy(book, put, is_last=False)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(Exit.INTERRUPTED) from None


def moment(text: str, now: float) -> float:
    """Unix seconds of `10m` (ago), or of a time; one without an offset is in UTC, as the logs are.

    >>> moment("10m", 1000.0), moment("1970-01-01T01:00", 0.0), moment("1970-01-01 01:00+01:00", 0.0)
    (400.0, 3600.0, 0.0)
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return now - float(match[1]) * _UNITS[match[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither like 10m or 2h nor a time like 2026-11-24T05:00") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _most(tail: str | None, since: float | None) -> int | None:
    """How many lines; None: all."""
    if tail is None:
        return _USUAL if since is None else None
    if tail != "all" and not tail.isdecimal():
        raise click.BadParameter(f"{tail!r} is neither a number nor `all`", param_hint="--tail")
    return None if tail == "all" else int(tail)


def _known(folder: Path, parts: tuple[str, ...]) -> frozenset[str] | None:
    """The parts that are wanted; WrongUsage if there are no logs, or none of one of them."""
    there = volume.names(folder) if folder.is_dir() else []
    if not there:
        raise WrongUsage(f"{folder} has no logs: no `bushel up` has run on that data folder; name another by --data")
    for part in parts:
        if part not in there:
            raise WrongUsage(f"there is no part {part}; there are: {', '.join(there)}")
    return frozenset(parts) or None


def _width(folder: Path, wanted: Wanted) -> int:
    return max(map(len, wanted.parts | {SUPERVISOR} if wanted.parts else volume.names(folder)))


def _copy(book: Book, put: Callable[[str, Entry], None], is_last: bool) -> None:
    for part, entry in book.entries(is_last):
        put(part, entry)
    sys.stdout.flush()


def _json_writer() -> Callable[[str, Entry], None]:
    out = sys.stdout

    def put(part: str, entry: Entry) -> None:
        out.write(f"{json.dumps(as_object(part, entry))}\n")

    return put


def as_object(part: str, entry: Entry) -> dict[str, object]:
    """The keys of JSON logs, and the part; which one the supervisor speaks of is `about`."""
    fields = dict(entry.fields)
    about = {"about": fields.pop("part")} if part == SUPERVISOR and "part" in fields else {}
    own = {
        "timestamp": _stamp(entry, "T", "+00:00"),
        "level": entry.level,
        "part": part,
        "logger": entry.logger,
        "message": entry.message,
        **about,
    }
    more = {"exception": "\n".join(entry.more)} if entry.more else {}
    return own | {name: value for name, value in fields.items() if name not in own} | more


def _text_writer(width: int) -> Callable[[str, Entry], None]:
    console = show.stdout()
    out = sys.stdout
    is_coloured = console.is_terminal and console.color_system is not None

    def put(part: str, entry: Entry) -> None:
        style = _STYLES[entry.level] if is_coloured else {}
        head = f"{_stamp(entry, ' ', 'Z')} {part:<{width}} {entry.level.upper():<8}"
        told = {name: value for name, value in entry.fields.items() if name not in ("part", "pid")}
        fields = " ".join(f"{name}={_shown(value)}" for name, value in told.items())
        lines = [_inert(entry.message), *(f"    {_inert(line)}" for line in entry.more)]
        if fields:
            lines[0] += click.style(f"  [{_inert(fields)}]", dim=True) if is_coloured else f"  [{_inert(fields)}]"
        if style:
            head = click.style(head, **style)  # type: ignore[arg-type]
        out.write(f"{head} " + "\n".join(lines) + "\n")

    return put


def _stamp(entry: Entry, between: str, zone: str) -> str:
    at = datetime.fromtimestamp(entry.at or 0.0, UTC)
    return f"{at:%Y-%m-%d}{between}{at:%H:%M:%S}.{at.microsecond // 1000:03}{zone}"


def _shown(value: object) -> str:
    return value if isinstance(value, str) and value.isascii() and " " not in value else json.dumps(value)


def _inert(text: str) -> str:
    """Harmless for whoever looks at it; tabs, with which PostgreSQL and tables indent, stay what they look like."""
    return text if text.isascii() and text.isprintable() else inert(text.expandtabs(4))
