"""A glance at the service, drawn for a screen of any size, or whole where there is none."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from cli import show, wire
from cli.glance import Glance
from cli.inert import inert

# From here on a job is one line; below it is two, so that its id stays whole.
_WIDE = 132
# From here on workers and queues have all their columns.
_ROOMY = 90
_BAR, _SHORT_BAR = 16, 10
_LONGEST_NAME = 200
# Beyond it, figures are said to be old.
_OLD_SECONDS = 5.0
# Three titles and the heads of two tables.
_FIXED = 5
_TALL = 20

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Size:
    """Of a screen, in characters. Without a height, everything is shown."""

    width: int
    height: int | None = None


def board(glance: Glance, size: Size, now: float, passed_over: int = 0, hint: str = "") -> Group:
    """Everything in as many lines as there are, from the job behind those that are passed over; the hint comes last."""
    room = rooms(glance, size, now, hint)
    busy = _busy_queues(glance)
    jobs = [*glance.open_jobs, *glance.ended_jobs][passed_over:]
    blank = _blank(size)
    lines: list[RenderableType] = [
        *_head(glance, size, now),
        *blank,
        _title("WORKERS", _workers_told(glance.workers)),
        *_cut(room.workers, glance.workers, lambda shown: _workers(shown, size.width, now)),
        *blank,
        _title("QUEUES", _queues_told(busy, glance.queues)),
        *_cut(room.queues, busy, lambda shown: _queues(shown, size.width, now)),
        *blank,
        _title("JOBS", _jobs_told(glance)),
        *_cut(room.jobs, jobs, lambda shown: _jobs(shown, size.width, now)),
    ]
    return Group(*lines, *([_line(hint, "dim")] if hint else []))


@dataclass(frozen=True, slots=True)
class Rooms:
    """How many of each are shown."""

    workers: int
    queues: int
    jobs: int


def rooms(glance: Glance, size: Size, now: float, hint: str = "") -> Rooms:
    queues = len(_busy_queues(glance))
    if size.height is None:
        return Rooms(len(glance.workers), queues, len(glance.jobs))
    lines_of_job = 1 if size.width >= _WIDE else 2
    fixed = len(_head(glance, size, now)) + _FIXED + 3 * len(_blank(size)) + bool(hint)
    workers, queues, lines = share(size.height - fixed, (len(glance.workers), queues, lines_of_job * len(glance.jobs)))
    return Rooms(workers, queues, lines // lines_of_job)


def _busy_queues(glance: Glance) -> list[wire.Queue]:
    return [queue for queue in glance.queues if not queue.is_idle]


def _blank(size: Size) -> list[Text]:
    """What stands between the parts: nothing, where every line is needed."""
    return [] if size.height is not None and size.height < _TALL else [Text()]


def share(free: int, wanted: tuple[int, int, int]) -> tuple[int, int, int]:
    """Of the free lines each of three parts gets what it wants, the first two at most a third if that is too much.

    >>> share(100, (2, 3, 10)), share(12, (8, 2, 40)), share(12, (8, 2, 1)), share(2, (5, 5, 5))
    ((2, 3, 95), (4, 2, 6), (8, 2, 2), (1, 1, 1))
    """
    first = min(wanted[0], max(1, free // 3, free - wanted[1] - wanted[2]))
    second = min(wanted[1], max(1, (free - first) // 3, free - first - wanted[2]))
    return first, second, max(1, free - first - second)


def _cut(room: int, rows: Sequence[Row], draw: Callable[[Sequence[Row]], RenderableType]) -> list[RenderableType]:
    """As many rows as there is room for, and how many more there are."""
    if len(rows) <= room:
        return [draw(rows)] if rows else []
    shown = rows[: max(0, room - 1)]
    more = _line(f"… and {len(rows) - len(shown):,} more", "dim")
    return [draw(shown), more] if shown else [more]


# The service


def _head(glance: Glance, size: Size, now: float) -> list[RenderableType]:
    first = Table.grid(padding=(0, 2), expand=size.height is not None)
    first.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    first.add_column(no_wrap=True, justify="right")
    name = Text.assemble(
        (f"bushel {inert(glance.version or '?')}", "bold"), "  ", inert(glance.url), "  ", _health(glance)
    )
    first.add_row(name, time.strftime("%H:%M:%S", time.localtime(now)))
    lines: list[RenderableType] = [first]
    age = now - glance.seen_at
    if glance.trouble is not None:
        lines.append(_line(f"figures of {show.duration(age)} ago, trying again: {glance.trouble}", "red"))
    elif age > _OLD_SECONDS:
        lines.append(_line(f"figures of {show.duration(age)} ago, no answer yet", "yellow"))
    else:
        lines += [_line(said, "red") for said in glance.readiness.missing]
        lines += [_line(said, "yellow") for said in glance.readiness.unwell]
    return lines


def _health(glance: Glance) -> Text:
    if glance.trouble is not None:
        return Text("no answer", style="bold red")
    if not glance.readiness.is_ready:
        return Text("not ready", style="bold red")
    return Text("ready, but", style="yellow") if glance.readiness.unwell else Text("ready", style="green")


# Workers


def _workers_told(workers: Sequence[wire.Worker]) -> str:
    alive = sum(worker.is_alive for worker in workers)
    lost = f", {len(workers) - alive} lost" if alive < len(workers) else ""
    return f"{alive} alive{lost}" if workers else "none; jobs wait until one is started"


def _workers(workers: Sequence[wire.Worker], width: int, now: float) -> Table:
    columns = ["worker", "device", "busy", "memory", "runs now"] if width >= _ROOMY else ["worker", "busy", "runs now"]
    table = _table(*columns, flexible={"worker", "runs now"})
    for worker in workers:
        said = {
            # The id's last part only makes it unlike that of the process before.
            "worker": _cell(worker.id if width >= _ROOMY else worker.id.rpartition(":")[0] or worker.id),
            "device": _cell(worker.device if worker.models else "io"),
            "busy": _busy(worker, 8 if width >= _ROOMY else 0),
            "memory": _cell(_memory(worker)),
            "runs now": _runs(worker, now),
        }
        table.add_row(*(said[column] for column in columns), style=None if worker.is_alive else "dim")
    return table


def _busy(worker: wire.Worker, cells: int) -> Text:
    if worker.busy is None:
        return Text("-", style="dim")
    share = min(1.0, max(0.0, worker.busy))
    filled = round(cells * share)
    return Text.assemble(("━" * filled, "green"), ("·" * (cells - filled), "dim"), f"{share:5.0%}")


def _memory(worker: wire.Worker) -> str:
    said = [show.size(worker.memory_bytes)] if worker.memory_bytes is not None else []
    if worker.device_memory_bytes is not None:
        said.append(f"{show.size(worker.device_memory_bytes)} of the device")
    return " + ".join(said) or "-"


def _runs(worker: wire.Worker, now: float) -> Text:
    if not worker.is_alive:
        return _cell("lost: what it held is taken back", "red")
    if not worker.models:
        return _cell("reads inputs, writes results", "dim")
    if worker.running is not None:
        since = f", {show.duration(max(0.0, now - worker.running.since))}" if worker.running.since else ""
        items = f"{worker.running.items:,} {show.plural('item', worker.running.items)}"
        return _cell(f"{items} of {worker.running.model}{since}")
    if worker.leased_items:
        return _cell(f"about to run {worker.leased_items:,} {show.plural('item', worker.leased_items)}")
    return _cell("idle", "dim")


# Queues


def _queues_told(busy: Sequence[wire.Queue], queues: Sequence[wire.Queue]) -> str:
    waiting, running, paused = (
        sum(getattr(queue, name) for queue in busy) for name in ("items", "running_items", "paused_items")
    )
    idle = len(queues) - len(busy)
    others = f"; {idle} {show.plural('model', idle)} idle" if idle else ""
    return f"items: {waiting:,} wait, {running:,} run, {paused:,} paused{others}"


def _queues(queues: Sequence[wire.Queue], width: int, now: float) -> Table:
    columns = ["waiting", "paused", "oldest", "running", "leased", "workers", "tokens/s of one", "empty in"]
    if width < _ROOMY:
        columns = ["waiting", "oldest", "leased", "tokens/s"]
    table = _table("model", *columns, flexible={"model"}, numbers=set(columns))
    for queue in queues:
        speed = f"{queue.tokens_per_second:,.0f}" if queue.tokens_per_second else "-"
        said = {
            "waiting": f"{queue.items:,}",
            "paused": f"{queue.paused_items:,}",
            "oldest": show.duration(max(0.0, now - queue.oldest_at)) if queue.oldest_at else "-",
            "running": f"{queue.running_items:,}",
            "leased": f"{queue.leased_chunks:,}",
            "workers": f"{queue.workers:,}" if queue.workers else Text("none", style="red"),
            "tokens/s of one": speed,
            "tokens/s": speed,
            "empty in": show.duration(queue.clear_seconds) if queue.clear_seconds else "-",
        }
        table.add_row(_cell(queue.model), *(said[column] for column in columns))
    return table


# Jobs


def _jobs_told(glance: Glance) -> str:
    running = sum(job.counts.running > 0 for job in glance.open_jobs)
    told = f"{len(glance.open_jobs):,} open, {running:,} of them running"
    if glance.has_more:
        # How many run cannot be said: the oldest are not here, and go first.
        told = f"more than {len(glance.open_jobs):,} open, of which the newest are here"
    return f"{told}; {len(glance.ended_jobs):,} ended lately"


def _jobs(jobs: Sequence[wire.Job], width: int, now: float) -> RenderableType:
    if width < _WIDE:
        return Group(*(line for job in jobs for line in _two_lines(job, now)))
    table = _table("job", "name", "status", "bar", "done", "failed", "speed", "end", flexible={"name", "end"})
    table.show_header = False
    for job in jobs:
        figures = (_done(job), _failed(job), _speed(job), _outlook(job, now))
        table.add_row(Text(inert(job.id), style="bold"), _name(job), _status(job), _bar(job, _BAR), *figures)
    return table


def _two_lines(job: wire.Job, now: float) -> tuple[Text, Text]:
    # What may be long comes last, where it is cut: an id that is cut is of no use.
    first = Text("  ").join([Text(inert(job.id), style="bold"), _status(job), _name(job)])
    figures = (_bar(job, _SHORT_BAR), _done(job), _failed(job), _speed(job), _outlook(job, now))
    second = Text("  ") + Text("  ").join(figure for figure in figures if figure)
    for line in (first, second):
        line.no_wrap, line.overflow = True, "ellipsis"
    return first, second


def _name(job: wire.Job) -> Text:
    """Its own, or what it does; its owner may have written anything there."""
    if job.name:
        return _cell(job.name[:_LONGEST_NAME])
    return _cell(f"{job.task}, {job.model or 'several models'}", "dim")


def _status(job: wire.Job) -> Text:
    if job.is_final or job.status == "cancelling":
        return Text(job.status, style=show.STATUS_STYLES.get(job.status, ""))
    if job.paused:
        return Text("paused", style="yellow")
    if job.waits:
        return Text("waiting", style="yellow")
    return Text("running" if job.status == "in_progress" else inert(job.status), style="cyan")


def _bar(job: wire.Job, width: int) -> Text:
    """Finished, failed and to come; a single failed item shows."""
    done, failed = bar_cells(job.counts, width)
    return Text.assemble(("━" * done, "green"), ("x" * failed, "red"), ("·" * (width - done - failed), "dim"))


def bar_cells(counts: wire.Counts, width: int) -> tuple[int, int]:
    """How many cells of a bar are done well and otherwise. It is full only when everything is done.

    >>> bar_cells(wire.Counts(total=1000, succeeded=999), 10), bar_cells(wire.Counts(total=1000, failed=1), 10)
    ((9, 0), (0, 1))
    >>> bar_cells(wire.Counts(total=3, succeeded=2, failed=1), 10), bar_cells(wire.Counts(), 10)
    ((7, 3), (0, 0))
    """
    if not counts.total:
        return 0, 0
    ended_badly = counts.finished - counts.succeeded
    filled = width * counts.finished // counts.total
    badly = max(min(1, ended_badly), round(width * ended_badly / counts.total))
    return max(0, filled - badly), badly


def _done(job: wire.Job) -> Text:
    return (
        Text(f"{job.counts.finished:,}/{job.counts.total:,}") if job.counts.total else Text("no items yet", style="dim")
    )


def _failed(job: wire.Job) -> Text:
    return Text(f"{job.counts.failed:,} failed", style="red") if job.counts.failed else Text()


def _speed(job: wire.Job) -> Text:
    return Text("" if job.items_per_second is None else f"{job.items_per_second:,.1f}/s")


def _outlook(job: wire.Job, now: float) -> Text:
    """When it ends, and in between which times; why it does not go on; or when it ended."""
    if job.is_final:
        took = f"took {show.duration(job.ended_at - job.began_at)}, " if job.ended_at and job.began_at else ""
        ago = f"{show.duration(max(0.0, now - job.ended_at))} ago" if job.ended_at else ""
        return _cell(took + ago, "dim")
    ends = "" if job.eta_seconds is None else f"{show.duration(job.eta_seconds)}{show.band(job)}"
    if job.waiting_for:
        return _cell("; ".join(filter(None, (job.waiting_for, ends))), "yellow")
    return _cell(ends)


# Lines and tables


def _title(name: str, told: str) -> Text:
    return Text.assemble((name, "bold cyan"), "  ", (told, "dim"), no_wrap=True, overflow="ellipsis")


def _line(said: str, style: str = "") -> Text:
    return Text(inert(said), style=style, no_wrap=True, overflow="ellipsis")


# In a column that gives way rich would break the text into lines, unless the text itself forbids it.
_cell = _line


def _table(*columns: str, flexible: set[str], numbers: Iterable[str] = ()) -> Table:
    """The flexible columns give way where it gets narrow, the others only after them."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        justify: JustifyMethod = "right" if name in numbers else "left"
        table.add_column(name, no_wrap=name not in flexible, overflow="ellipsis", justify=justify)
    return table
