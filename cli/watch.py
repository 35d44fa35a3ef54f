"""`bushel watch`: a job's progress until it ends."""

import time
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.live import Live

from cli import show, wire
from cli.access import Target
from cli.client import Client
from cli.exits import Exit
from cli.failures import show_failures
from cli.options import as_job, offer_jobs

_FIRST_PAUSE, _LONGEST_PAUSE = 0.3, 2.0
_PLAIN_EVERY = 5.0


@click.command()
@click.argument("job_id", type=as_job, shell_complete=offer_jobs, metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON when it has ended.")
@click.pass_obj
def watch(target: Target, job_id: str, as_json: bool) -> None:
    """Show the progress of JOB until it ends.

    Ctrl-C stops watching, not the job. Exit code 0 if every item succeeded, 1 if not, 130 after Ctrl-C.
    """
    with target.client() as client:
        job = follow(client, client.job(job_id), show.stderr())
        show.summary(show.stderr(), job)
        show_failures(show.stderr(), client, job)
    if as_json:
        show.print_json(job.raw)
    raise click.exceptions.Exit(exit_code(job))


def follow(client: Client, job: wire.Job, console: Console, then: str = "") -> wire.Job:
    """Show progress until the job has ended; its last state. Ctrl-C exits, saying that the job goes on, and `then`."""
    try:
        if console.is_terminal:
            with Live(show.panel(job), console=console, refresh_per_second=8, transient=True) as live:
                return wait(client, job, lambda now: live.update(show.panel(now)))
        return wait(client, job, _Plain(console))
    except KeyboardInterrupt:
        goes_on = f"{job.id} goes on; see it again: bushel watch {job.id}; end it: bushel cancel {job.id}{then}"
        console.print(goes_on, markup=False, soft_wrap=True)
        raise click.exceptions.Exit(Exit.INTERRUPTED) from None


def wait(client: Client, job: wire.Job, seen: Callable[[wire.Job], None]) -> wire.Job:
    """Call `seen` with every state of the job until it has ended; the last one."""
    for now in states(client, job):
        seen(now)
        job = now
    return job


def states(client: Client, job: wire.Job) -> Iterator[wire.Job]:
    """This state of the job and all that come, the last one final: as the server tells them, or else by asking."""
    pause, is_told = _FIRST_PAUSE, True
    yield job
    while not job.is_final:
        if is_told:
            is_told = False
            for now in client.states(job.id):
                job, is_told = now, True
                yield job
        else:
            # Where there is no stream, nobody but the server knows when to ask, and it does not say.
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 1.3)
        if not job.is_final:
            # Also after a stream that broke off: the server may be gone, and asking says so.
            job = client.job(job.id)
            yield job


def exit_code(job: wire.Job) -> Exit:
    if not job.is_final or job.went_well:
        return Exit.OK
    # A dry run runs nothing, so its items have no outcome; its input is what was in question.
    if job.raw.get("dry_run") and job.status == "completed" and not job.problems:
        return Exit.OK
    return Exit.FAILED


class _Plain:
    """One line when the status changes, and now and then in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status, self._said, self._at = "", "", 0.0

    def __call__(self, job: wire.Job) -> None:
        text, now = show.line(job), time.monotonic()
        if job.status == self._status and (text == self._said or now - self._at < _PLAIN_EVERY):
            return
        self._console.print(text, markup=False, soft_wrap=True)
        self._status, self._said, self._at = job.status, text, now
