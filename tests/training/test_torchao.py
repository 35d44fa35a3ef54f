"""Runs torchao_checks.py with torchao, which lies beside the environment and not in it.

Where it can be imported, transformers does so at once: a second at every start, and warnings that no user asked for.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = "tests/training/torchao_checks.py"


@pytest.fixture(scope="module")
def torchao() -> Path:
    (version,) = re.findall(r"^torchao==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    folder = ROOT / ".venv-sdks" / f"torchao-{version}"
    if not (folder / ".ready").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--target", str(folder), f"torchao=={version}"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"torchao {version} could not be installed: {done.stderr.strip()[-500:]}")
        (folder / ".ready").touch()
    return folder


def test_torchao(torchao: Path) -> None:
    # Its own warnings, about what torch deprecates, are not ours to mend.
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", CHECKS]

    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(torchao)}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout[-5000:]
    assert " skipped" not in done.stdout
