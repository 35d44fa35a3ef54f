"""`bushel demo`: a stack of its own, three files in three formats translated at once, and what came out."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli import show, wire
from cli.client import Client
from cli.errors import CLIError
from cli.exits import Exit
from cli.formats import Format, guess, opened
from cli.local import read_access
from cli.results import save

MODEL = "translation-balanced"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FILES = ("sentences.txt", "sentences.csv", "sentences.jsonl")
_SHOWN = 12
_START_SECONDS = 180.0
# Three jobs at once, whose bars also have to move; the demo is alone on its server.
_POLL_SECONDS = 0.3


class DemoFailed(CLIError):
    """Something the demo shows did not work."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one of the jobs went."""

    name: str
    job: wire.Job
    saved: Path


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="BUSHEL_DATA",
    default=Path(".bushel"),
    show_default=True,
    help="Data folder. A stack that already runs on it is used, and left running.",
)
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Default: a free one.")
@click.option("--model", default=MODEL, show_default=True, help="The model that translates.")
@click.option(
    "--examples",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=EXAMPLES,
    show_default=True,
    help="Folder of the example files.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-results"),
    show_default=True,
    help="Folder for the results.",
)
def demo(data: Path, port: int, model: str, examples: Path, output: Path) -> None:
    """Start a stack, translate the example files from English to German, show and keep the results, stop.

    Exit code 1, with the reason, if anything did not work.
    """
    console = show.stdout()
    data = data.expanduser().absolute()
    output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with stack(data, port, model, console) as client:
        console.print(f"ready after {time.monotonic() - started:.1f} s at {client.url}")
        ended, seconds = translate(client, [examples / name for name in FILES], model, output, console)
        for one in ended:
            check(client, one)
        show_translations(client, ended[0].job, console)
        show_speeds(ended, seconds, console)
    console.print("everything is stopped" if not client.is_ready() else "the stack that was running goes on")


@contextmanager
def stack(data: Path, port: int, model: str, console: Console) -> Iterator[Client]:
    """A client of the stack on `data`, which is started, and in the end stopped, unless it already runs."""
    if (running := _client(data)) is not None and running.is_ready():
        console.print(f"using the stack that already runs at {running.url}")
        yield running
        return
    if sys.platform == "win32":
        raise DemoFailed("the one-machine stack needs Linux or macOS")
    from cli.stack.process import die_with_parent

    console.print("starting PostgreSQL, Valkey, the API and the workers …")
    command = [sys.executable, "-m", "cli.main", "up", "--data", str(data), "--port", str(port), "--model", model]
    root = Path(__file__).resolve().parents[1]
    supervisor = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        # Carries the API key, so it is read and not shown.
        stdout=subprocess.PIPE,
        cwd=root,
        # Ctrl-C is for us; we then stop it in order.
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGTERM),
    )
    try:
        yield _wait_until_up(data, supervisor)
    finally:
        _stop(supervisor, console)
        assert supervisor.stdout is not None
        supervisor.stdout.close()


def _client(data: Path) -> Client | None:
    try:
        access = read_access(data)
    except ValueError as exc:
        raise DemoFailed(str(exc)) from exc
    return Client(access.url, access.api_key) if access else None


def _wait_until_up(data: Path, supervisor: "subprocess.Popen[bytes]") -> Client:
    """A client once `bushel up` says that everything is ready."""
    assert supervisor.stdout is not None
    deadline = time.monotonic() + _START_SECONDS
    said = b""
    while b"Bushel is up: " not in said:
        if not select.select([supervisor.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise DemoFailed(f"the stack was not ready after {_START_SECONDS:.0f} s; see {data / 'logs'}")
        chunk = os.read(supervisor.stdout.fileno(), 4096)
        if not chunk:
            raise DemoFailed(f"the stack did not start (exit code {supervisor.wait()}); its reasons are above")
        said += chunk
    client = _client(data)
    assert client is not None
    return client


def _stop(supervisor: "subprocess.Popen[bytes]", console: Console) -> None:
    if supervisor.poll() is None:
        console.print("stopping …")
        supervisor.send_signal(signal.SIGINT)
    try:
        code = supervisor.wait(90)
    except subprocess.TimeoutExpired as exc:
        supervisor.kill()
        raise DemoFailed("the stack did not stop within 90 s, and was killed") from exc
    if code != 0 and sys.exception() is None:
        raise DemoFailed(f"the stack ended with exit code {code}")


def translate(
    client: Client, paths: Sequence[Path], model: str, output: Path, console: Console
) -> tuple[list[Ended], float]:
    """Submit every file, watch all jobs at once, save results in their formats; how it went, in how many seconds."""
    started = time.monotonic()
    jobs = [submit(client, path, model) for path in paths]
    jobs = watch(client, [path.name for path in paths], jobs, console)
    seconds = time.monotonic() - started
    ended = []
    for path, job in zip(paths, jobs, strict=True):
        saved = output / f"{path.stem}.de{path.suffix}"
        save(client, job.id, saved, Format(guess(path.name)).result_format)
        ended.append(Ended(path.name, job, saved))
    return ended, seconds


def submit(client: Client, path: Path, model: str) -> wire.Job:
    with opened(path) as (content, name):
        file = client.upload(content, name)
    body: dict[str, object] = {
        "task": "translation",
        "model": model,
        "input_file_id": file.id,
        "format": Format(guess(path.name)).as_json(),
        "params": {"target_lang": "de"},
        "metadata": {"from": "bushel demo"},
    }
    return client.create_job(body)


def watch(client: Client, names: Sequence[str], jobs: list[wire.Job], console: Console) -> list[wire.Job]:
    """One bar a job, until all have ended."""

    def bars() -> Table:
        table = Table.grid(padding=(0, 2))
        for _ in range(5):
            table.add_column(no_wrap=True)
        for name, job in zip(names, jobs, strict=True):
            bar = ProgressBar(total=max(1, job.counts.total), completed=job.counts.finished, width=24)
            state = Text(show.state(job), style=show.STATUS_STYLES.get(job.status, "cyan"))
            done = f"{job.counts.finished:,}/{job.counts.total:,}"
            table.add_row(Text(name, style="bold"), bar, done, state, show.tokens_per_second(job))
        return table

    if not console.is_terminal:
        while not all(job.is_final for job in jobs):
            time.sleep(_POLL_SECONDS)
            jobs = [job if job.is_final else client.job(job.id) for job in jobs]
        for name, job in zip(names, jobs, strict=True):
            console.print(f"{name}: {show.line(job)}", markup=False, soft_wrap=True)
        return jobs
    with Live(bars(), console=console, refresh_per_second=8) as live:
        while not all(job.is_final for job in jobs):
            time.sleep(_POLL_SECONDS)
            jobs = [job if job.is_final else client.job(job.id) for job in jobs]
            live.update(bars())
    return jobs


def check(client: Client, ended: Ended) -> None:
    """Every item succeeded, and the ledger's own audit agrees."""
    job = ended.job
    if not job.went_well:
        reason = str(job.problems[0]) if job.problems else show.counts(job)
        raise DemoFailed(f"{ended.name}: {job.id} is {job.status}: {reason}")
    if not job.counts.total:
        raise DemoFailed(f"{ended.name}: {job.id} has no items")
    audit = client.audit(job.id)
    if not audit.get("ok"):
        raise DemoFailed(f"{ended.name}: the audit of {job.id} found: {audit.get('checks')}")


def show_translations(client: Client, job: wire.Job, console: Console) -> None:
    """Some lines of the first job, spread over it."""
    lines = client.result_lines(job.id, include_input=True)
    pairs = [(wire.input_text(line), result.text or "") for result, line in lines]
    console.print()
    for source, target in pairs[:: max(1, len(pairs) // _SHOWN)][:_SHOWN]:
        console.print(Text.assemble(source, (" → ", "dim"), (target, "green")), soft_wrap=True)
    console.print()


def show_speeds(ended: Sequence[Ended], seconds: float, console: Console) -> None:
    """By our own clock, from the first upload to the last job's end: the server's is too coarse for so short a run."""
    items = sum(one.job.counts.succeeded for one in ended)
    tokens = sum(one.job.input_tokens + one.job.output_tokens for one in ended)
    console.print(
        f"{items:,} texts, {tokens:,} tokens (in and out) in {seconds:.1f} s: "
        f"{items / seconds:,.0f} items/s, {tokens / seconds:,.0f} tokens/s, loading the model included",
        soft_wrap=True,
    )
    for one in ended:
        console.print(f"  {one.name} → {one.saved}", soft_wrap=True)


if __name__ == "__main__":
    from cli.main import run

    sys.exit(run(["demo", *sys.argv[1:]]) or Exit.OK)
