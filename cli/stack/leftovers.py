"""Processes of an earlier, killed supervisor that still work in a data folder."""

import contextlib
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.stack.errors import MissingParts, StackError

if TYPE_CHECKING:
    import psutil

_POLL_SECONDS = 0.05


def leftovers(folder: Path, names: Sequence[str]) -> "list[psutil.Process]":
    """The processes called one of `names` that work in `folder`; MissingParts where nobody can tell."""
    try:
        import psutil
    except ImportError as exc:
        raise MissingParts("psutil") from exc
    inside = str(folder.resolve())
    return [
        process
        for process in psutil.process_iter(["name", "cwd"])
        if process.info["name"] in names and process.info["cwd"] == inside
    ]


def end_leftovers(folder: Path, names: Sequence[str], signals: Iterable[tuple[signal.Signals, float]]) -> None:
    """End every process called one of `names` whose working folder is `folder`; StackError if one stays.

    Servers work inside their data folder, so that is what identifies them: a pid from a file may long
    belong to somebody else. Call with the folder's lock held, when no server of ours should run there.
    """
    remaining = leftovers(folder, names)
    if not remaining:
        return
    # It was there, else nothing would have been found.
    import psutil

    for number, seconds in signals:
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        # Asked anew rather than waited for: a server's own children end a moment after it and hold its memory
        # until then, and a dead one whose parent never looks (a container without an init) has no folder any more.
        deadline = time.monotonic() + seconds
        while (remaining := leftovers(folder, names)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if not remaining:
            return
    raise StackError(f"process {remaining[0].pid} from an earlier run still works in {folder}; end it first")
