"""`bushel up` says where its metrics are, tells Prometheus so too, and keeps what it said in a log of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cli.stack.process import die_with_parent
from tests.conftest import REGISTRY
from tests.waiting import eventually

pytestmark = pytest.mark.slow


def test_each_worker_has_metrics_of_its_own_and_up_says_where(tmp_path: Path) -> None:
    registry, data, said = tmp_path / "registry.toml", tmp_path / "data", tmp_path / "said"
    registry.write_text(REGISTRY)
    # One port for all, as a process of theirs would take it from the environment, is none.
    more = {"BUSHEL_REGISTRY": str(registry), "BUSHEL_LOG_FORMAT": "json", "BUSHEL_METRICS_PORT": "1"}
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up", "--data", str(data), "--port", "0", "--workers", "2"],
            stdout=out,
            stderr=out,
            env={**os.environ, **more, "PYTHONUNBUFFERED": "1"},
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
    try:
        eventually(lambda: process.poll() is not None or "metrics of the api" in said.read_text(), 180, every=0.2)
        output = said.read_text()
        shown = dict(re.findall(r"^metrics of ([\w-]+): http://(\S+)/metrics$", output, re.MULTILINE))
        names = {"worker-io", "worker-1", "worker-2"}
        assert shown.keys() == names and len(set(shown.values())) == 3, output
        for name, address in shown.items():
            found = httpx.get(f"http://{address}/metrics").text
            assert "bushel_worker_info" in found
            assert ("bushel_device_seconds_total" in found) is (name != "worker-io")
        targets = json.loads((data / "run" / "metrics.json").read_text())
        assert {each["labels"]["part"]: each["targets"] for each in targets} == {
            name: [address] for name, address in shown.items()
        }
    finally:
        process.terminate()
        process.wait(120)

    lines = [json.loads(line) for line in (data / "logs" / "bushel.log").read_text().splitlines()]
    ready = {line["part"] for line in lines if "ready (" in line["message"]}
    assert ready >= names | {"api"}
    assert lines[-1]["logger"] == "cli.stack.supervisor" and process.returncode == 0
    assert "bsh_" not in (data / "logs" / "bushel.log").read_text()
