"""As whom PostgreSQL runs when we are root."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack.identity import server_identity

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="NOT CHECKED: only root becomes somebody else")

# PostgreSQL asks in this way whether its own programs may be run.
LOOK = "import os, sys; sys.exit(0 if os.getuid() and os.access(sys.argv[1], os.R_OK | os.X_OK) else 1)"


@pytest.fixture
def program() -> Iterator[Path]:
    """In a folder that only root may enter, as a clone in root's home is."""
    with tempfile.TemporaryDirectory() as closed:
        path = Path(closed) / "bin" / "program"
        path.parent.mkdir()
        path.touch(0o755)
        yield path


def test_programs_in_a_folder_of_roots_can_be_reached(program: Path, tmp_path: Path) -> None:
    identity = server_identity(tmp_path / "data", [program.parent])

    assert identity is not None
    assert identity.capability is not None
    done = subprocess.run(["/usr/bin/env", sys.executable, "-c", LOOK, program], preexec_fn=identity.become, cwd="/")
    assert done.returncode == 0


def test_where_everybody_may_pass_nothing_is_kept_of_root(tmp_path: Path) -> None:
    identity = server_identity(tmp_path / "data", [Path("/usr/bin")])

    assert identity is not None
    assert identity.capability is None
    shown = subprocess.run(
        ["cat", "/proc/self/status"], preexec_fn=identity.become, cwd="/", capture_output=True, text=True, check=True
    ).stdout
    assert f"CapEff:\t{0:016x}" in shown
