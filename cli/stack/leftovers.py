"""Processes of an earlier, killed supervisor that still work in a data folder."""

import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from cli.stack.errors import MissingParts, StackError


def end_leftovers(folder: Path, names: Sequence[str], signals: Iterable[tuple[signal.Signals, float]]) -> None:
    """End every process called one of `names` whose working folder is `folder`; StackError if one stays.

    Servers work inside their data folder, so that is what identifies them: a pid from a file may long
    belong to somebody else. Call with the folder's lock held, when no server of ours should run there.
    """
    try:
        import psutil
    except ImportError as exc:
        raise MissingParts("psutil") from exc

    def found() -> list[psutil.Process]:
        inside = str(folder.resolve())
        return [
            process
            for process in psutil.process_iter(["name", "cwd"])
            if process.info["name"] in names and process.info["cwd"] == inside
        ]

    remaining = found()
    for number, seconds in signals:
        for process in remaining:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(remaining, timeout=seconds)
        # Asked anew: a server's own children end a moment after it, and hold its memory until then.
        remaining = found()
        if not remaining:
            return
    if remaining:
        raise StackError(f"process {remaining[0].pid} from an earlier run still works in {folder}; end it first")
