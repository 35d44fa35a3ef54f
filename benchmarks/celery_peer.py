"""A Celery worker with a task per text, and who sends it the tasks."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import celery_tasks
from benchmarks.decoding import Decoding
from cli.stack.logs import Log
from cli.stack.process import Child, Part
from cli.stack.valkey import Valkey

_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_SECONDS = 3_600.0


class TaskPerText:
    """Sends a task for every text as a group, and waits for all results."""

    def translate(self, lines: Sequence[str], decoding: Decoding) -> list[str]:
        """How outputs are searched for was said when the worker started."""
        from celery import group

        sent = group(celery_tasks.translate.s(line) for line in lines).apply_async()
        try:
            found: list[str] = sent.get(timeout=_TIMEOUT_SECONDS)
        finally:
            sent.forget()
        return found


@contextmanager
def task_per_text(folder: Path, about: dict[str, Any], cpus: int) -> Iterator[TaskPerText]:
    """A Valkey of its own as broker and result backend, and a prefork worker with as many processes as processors."""
    with Valkey(folder / "valkey") as valkey:
        url = valkey.operator_url.replace("unix://", "redis+socket://") + "?virtual_host=0"
        part = Part(
            name="celery",
            command=(
                *(sys.executable, "-m", "celery", "-A", "benchmarks.celery_tasks", "worker", "--pool", "prefork"),
                *("--concurrency", str(cpus), "--loglevel", "WARNING"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ),
            environment={
                "PEER_BROKER": url,
                "PEER_MODEL": about["model"],
                "PEER_SOURCE": about["source"],
                "PEER_COMPUTE_TYPE": about["compute_type"],
                "PEER_OPTIONS": json.dumps(about["options"]),
                "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            },
            folder=folder,
            start_seconds=120.0,
            stop=((signal.SIGTERM, 20.0),),
        )
        child = Child(part, Log(folder / "celery.log"))
        child.start()
        try:
            celery_tasks.app.conf.update(broker_url=url, result_backend=url)
            yield TaskPerText()
        finally:
            child.stop()
