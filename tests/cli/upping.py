"""A real `bushel up` as a process of its own, with models that echo."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.stack.process import die_with_parent
from tests.conftest import REGISTRY
from tests.waiting import eventually


@contextmanager
def up(data: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """It is up inside of the block, and has stopped in order behind it."""
    registry, said = data.with_name("registry.toml"), data.with_name("said")
    registry.write_text(REGISTRY)
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up", "--data", str(data), "--port", "0"],
            stdout=out,
            stderr=out,
            env={**os.environ, "BUSHEL_REGISTRY": str(registry), "PYTHONUNBUFFERED": "1", **environment},
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
    try:
        eventually(lambda: process.poll() is not None or "metrics of the api" in said.read_text(), 180, every=0.2)
        assert process.poll() is None, said.read_text()
        yield process
    finally:
        process.terminate()
        process.wait(120)
