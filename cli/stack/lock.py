"""One supervisor per data folder, by flock: the kernel drops the lock with the process, however it dies."""

import fcntl
import os
from pathlib import Path
from types import TracebackType

from cli.stack.errors import FolderInUse


def holder(folder: Path) -> int | None:
    """The process that holds the folder's lock, 0 if it is held and does not say by whom; None if nobody does.

    Asks with a shared lock, which is given back at once: there is no way to look at the lock of another process.
    """
    try:
        handle = os.open(folder / "bushel.lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written(handle) or 0
    else:
        return None
    finally:
        os.close(handle)


def _written(handle: int) -> int | None:
    text = os.read(handle, 32).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else None


class FolderLock:
    """Hold `<folder>/bushel.lock` while the block runs; FolderInUse, naming the holder, when it is taken.

    The pid in the file is only for that message. Whether the lock is held is the kernel's word alone,
    so a pid that a killed supervisor left behind, or that another program has got since, means nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handle: int | None = None

    def __enter__(self) -> "FolderLock":
        handle = os.open(self.folder / "bushel.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            pid = _written(handle)
            os.close(handle)
            raise FolderInUse(self.folder, pid) from exc
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._handle = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The file stays: removing it would let a third process lock a new file beside a holder of the old one.
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
