"""Points at which a test makes a process hurt itself: what is ordered happens once, and nothing happens unordered."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_REACH = "from db import faults\nfor _ in range(3):\n    faults.reached('after run')\nprint(faults.is_fenced())"


def run(faults: str | None) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "BUSHEL_FAULTS"}
    environment = kept if faults is None else kept | {"BUSHEL_FAULTS": faults}
    return subprocess.run([sys.executable, "-c", _REACH], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_without_orders_nothing_happens_and_the_fence_is_up() -> None:
    done = run(None)

    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize(("nth", "code"), [(3, -signal.SIGKILL), (4, 0)])
def test_a_process_dies_when_the_point_is_reached_that_often(nth: int, code: int) -> None:
    assert run(f"kill:after run:{nth}").returncode == code


def test_an_order_with_a_mark_is_carried_out_by_one_process_only(tmp_path: Path) -> None:
    order = f"kill:after run:1@{tmp_path / 'done'}"

    assert [run(order).returncode, run(order).returncode] == [-signal.SIGKILL, 0]


def test_the_fence_is_down_only_when_that_is_said() -> None:
    assert run("no-fence").stdout == "False\n"
    assert run("stop:in finalize:1").stdout == "True\n"


@pytest.mark.parametrize("order", ["kill:nowhere:1", "burn:after run:1", "kill:after run", "kill:after run:x"])
def test_an_order_that_cannot_be_understood_is_named(order: str) -> None:
    done = run(order)

    assert done.returncode != 0
    assert "BUSHEL_FAULTS" in done.stderr and order in done.stderr


def test_every_point_is_somewhere_in_the_code_once() -> None:
    from db.faults import POINTS

    code = [path.read_text() for folder in ("api", "db", "workers") for path in (ROOT / folder).rglob("*.py")]
    for point in POINTS:
        assert sum(text.count(f'faults.reached("{point}")') for text in code) == 1, point
