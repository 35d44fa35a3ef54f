"""`bushel translate`, `summarize` and `generate`: a line in, a line out, in order, while input still comes."""

import contextlib
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import click

from cli import show, wire
from cli.access import Target
from cli.client import Client
from cli.errors import CLIError
from cli.exits import Exit
from cli.lines import Block, LineBlocks, NotText
from cli.options import as_options, decoding, model_options, said_in_options

# Enough jobs under way that the workers always have the next one, few enough that Ctrl-C wastes little.
_UNDER_WAY = 4
# How often jobs are asked for while standard input is waited for as well: an event stream can be had for one job, or be
# waited on alone. Blocks take a second and more, so the asking costs next to nothing.
_POLL_SECONDS = 0.2
# A job that takes longer than this is worth a word about what it waits for.
_SILENT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Pending:
    """A block and its job; a block of empty lines needs none."""

    block: Block
    job_id: str | None
    since: float = field(default_factory=time.monotonic)


@click.command()
@model_options
@click.pass_obj
def translate(target: Target, /, **settings: object) -> None:
    """Translate standard input to standard output, line by line.

    As many lines come out as go in, in the same order; an empty line stays empty. A line that cannot be
    translated becomes an empty line, standard error says why, and the exit code is 1.
    """
    _filter(target, "translation", settings)


@click.command()
@model_options
@click.pass_obj
def summarize(target: Target, /, **settings: object) -> None:
    """Summarize standard input, one text a line, to standard output. See `translate` for what is promised."""
    _filter(target, "summarization", settings)


@click.command()
@model_options
@click.pass_obj
def generate(target: Target, /, **settings: object) -> None:
    """Continue standard input, one prompt a line, to standard output. See `translate` for what is promised."""
    _filter(target, "generation", settings)


def _filter(target: Target, task: str, settings: Mapping[str, object]) -> None:
    params, source, to = settings["params"], settings["source"], settings["target_lang"]
    assert isinstance(params, tuple)
    body: dict[str, object] = {
        "task": task,
        "model": settings["model"],
        "params": decoding(params, _text(source), _text(to)),
        # One bad line must not end the job of its neighbours.
        "on_error": "skip",
        "metadata": {"from": f"bushel {task}"},
    }
    body |= {name: settings[name] for name in ("tier", "priority", "long_input") if settings[name] is not None}
    with target.client() as client:
        failed = LineFilter(client, body).run(LineBlocks(sys.stdin.buffer))
    raise click.exceptions.Exit(Exit.FAILED if failed else Exit.OK)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


class LineFilter:
    """Sends blocks as jobs, a few at a time, and writes their outputs in the order of the input."""

    def __init__(self, client: Client, body: wire.JSON) -> None:
        self._client, self._body = client, body
        self._under_way: deque[Pending] = deque()
        # Body and Idempotency-Key of a job that may or may not have reached the server yet.
        self._on_its_way: tuple[wire.JSON, str] | None = None
        self._failed = self._truncated = self._cut = 0
        self._said: str | None = None

    def run(self, blocks: LineBlocks) -> int:
        """How many lines failed. NotText, after all lines before it were written, when a line is not UTF-8."""
        broken: NotText | None = None
        try:
            while not blocks.is_over and broken is None:
                self._write_finished()
                if len(self._under_way) >= _UNDER_WAY:
                    time.sleep(_POLL_SECONDS)
                    continue
                try:
                    block = blocks.next(_POLL_SECONDS if self._under_way else None)
                except NotText as exc:
                    broken = exc
                else:
                    if block is not None:
                        self._under_way.append(self._submit(block))
                        self._on_its_way = None
            while self._under_way:
                if not self._write_finished():
                    time.sleep(_POLL_SECONDS)
        except BaseException:
            self._cancel()
            raise
        for sentence in show.notices(self._truncated, self._cut):
            click.echo(sentence, err=True)
        if broken is not None:
            raise broken
        return self._failed

    def _submit(self, block: Block) -> Pending:
        inputs = [
            {"custom_id": str(block.first + offset), "text": line}
            for offset, line in enumerate(block.lines)
            if line.strip()
        ]
        if not inputs:
            return Pending(block, None)
        self._on_its_way = body, key = {**self._body, "inputs": inputs}, str(uuid.uuid4())
        with said_in_options():
            return Pending(block, self._client.create_job(body, key).id)

    def _write_finished(self) -> bool:
        """Write the outputs of the first blocks as far as they are done; whether any were."""
        wrote = False
        while self._under_way:
            first = self._under_way[0]
            if first.job_id is not None and not (job := self._client.job(first.job_id)).is_final:
                self._say_what_it_waits_for(first, job)
                break
            self._write(first.block, self._outputs(job, first.block) if first.job_id is not None else {})
            self._under_way.popleft()
            if first.job_id is not None:
                self._tidy(job)
            wrote = True
        return wrote

    def _tidy(self, job: wire.Job) -> None:
        """Remove a job that went well: its outputs are written, and the user's list is for the user's jobs."""
        self._truncated += job.truncated_inputs
        self._cut += job.cut_outputs
        if job.status == "completed" and not job.counts.failed:
            with contextlib.suppress(CLIError):
                self._client.delete_job(job.id)

    def _say_what_it_waits_for(self, pending: Pending, job: wire.Job) -> None:
        """Once for every change, so that a model that cannot be loaded does not look like a slow one."""
        if job.waiting_for in (None, self._said) or time.monotonic() - pending.since < _SILENT_SECONDS:
            return
        self._said = job.waiting_for
        click.echo(f"waiting: {job.waiting_for} ({job.id})", err=True)

    def _outputs(self, job: wire.Job, block: Block) -> dict[int, str]:
        """Texts by line number. Lines without one are told on standard error."""
        outputs: dict[int, str] = {}
        reasons: dict[int, str] = {}
        numbers = [block.first + offset for offset, line in enumerate(block.lines) if line.strip()]
        for result, _ in self._client.result_lines(job.id):
            number = numbers[result.index]
            if result.status == "succeeded" and result.text is not None:
                outputs[number] = result.text
            else:
                reasons[number] = f"{result.error_code or result.status}: {result.error_message or 'no output'}"
        fallback = as_options(str(job.problems[0])) if job.problems else f"its job is {job.status}"
        for number in numbers:
            if number not in outputs:
                self._failed += 1
                click.echo(f"line {number}: {reasons.get(number, fallback)}", err=True)
        return outputs

    def _write(self, block: Block, outputs: Mapping[int, str]) -> None:
        for offset in range(len(block.lines)):
            text = " ".join(outputs.get(block.first + offset, "").splitlines())
            sys.stdout.buffer.write(text.encode() + b"\n")
        sys.stdout.buffer.flush()

    def _cancel(self) -> None:
        """Nobody will read these results. Best effort: we are on our way out because of something else."""
        job_ids = [pending.job_id for pending in self._under_way if pending.job_id is not None]
        with contextlib.suppress(CLIError):
            if self._on_its_way is not None:
                # Asked again with the same key, the server names the job it has made, if it has.
                job_ids.append(self._client.create_job(*self._on_its_way).id)
        for job_id in job_ids:
            with contextlib.suppress(CLIError):
                self._client.cancel(job_id)
