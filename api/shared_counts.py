"""Where the processes of an API put what they count, so that whichever of them is asked tells it of all.

Named in the variable by which prometheus_client finds it, which it reads when it is imported: so before anything that
does that. In memory where there is such a folder: a disk that is slow must not hold up requests.
"""

import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "bushel-metrics-"


def begin(parent: Path | None = None) -> None:
    """Make the folder of this API, unless the operator named one, and clear away those of APIs that were killed."""
    if VARIABLE in os.environ:
        return
    memory = Path("/dev/shm")
    parent = parent or (memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir()))
    _clear(parent)
    os.environ[VARIABLE] = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)


def end() -> None:
    """Remove the folder, if it is one of ours."""
    folder = Path(os.environ.get(VARIABLE, ""))
    if folder.name.startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _clear(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            # Of another user it stays.
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
