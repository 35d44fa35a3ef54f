"""`bushel up` as a child, and workers beside it that no supervisor brings back."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import httpx
import psutil
import psycopg
import redis
from psycopg.rows import dict_row

from chaos.errors import ChaosFailed
from cli.stack import parts
from cli.stack.process import die_with_parent

T = TypeVar("T")

START_SECONDS = 180.0
_POLL_SECONDS = 0.1


def until(claim: Callable[[], T | None], seconds: float, what: str, every: float = _POLL_SECONDS) -> T:
    """The first truthy value of `claim`; ChaosFailed, saying what was waited for, once the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := claim()):
        if time.monotonic() > deadline:
            raise ChaosFailed(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)
    return value


@dataclass(frozen=True, slots=True)
class Lease:
    """A chunk in somebody's hands. `pid` is read from the owner's name."""

    chunk_id: int
    attempt: int
    pid: int


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at the ledger: results so far, jobs that have not ended, leases."""

    settled: int
    open_jobs: int
    leases: tuple[Lease, ...]


_PROGRESS = """
    SELECT (SELECT coalesce(sum(succeeded + failed), 0) FROM jobs) AS settled,
        (SELECT count(*) FROM jobs WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling')) AS open,
        (SELECT coalesce(json_agg(json_build_array(id, attempt, lease_owner)), '[]')
            FROM chunks WHERE state = 'leased') AS leases
"""


class Stack:
    """The whole service on one data folder. Use from the main thread: the children's lives are tied to it."""

    def __init__(
        self,
        folder: Path,
        registry: str,
        models: Sequence[str],
        workers: int = 2,
        environment: Mapping[str, str] | None = None,
        database: Mapping[str, str] | None = None,
    ) -> None:
        """`environment` is for all processes, `database` for PostgreSQL alone."""
        self.folder, self.models, self.workers = folder, tuple(models), workers
        self.environment, self._database = dict(environment or {}), dict(database or {})
        folder.mkdir(parents=True, exist_ok=True)
        # PostgreSQL's own user has to pass through when we are root.
        folder.chmod(0o711)
        self.registry = folder / "registry.toml"
        self.registry.write_text(registry)
        self.data = folder / "data"
        parts.make_folders(self.data)
        self.where = parts.layout(self.data, "127.0.0.1", parts.check_port("127.0.0.1", 0))
        self._up: subprocess.Popen[bytes] | None = None
        self._beside: dict[str, subprocess.Popen[bytes]] = {}
        self._connection: psycopg.Connection[dict[str, Any]] | None = None
        self.http: httpx.Client = httpx.Client()

    # Starting and stopping

    def start(self) -> None:
        """Return once everything is ready."""
        self.launch()
        until(self._has_key, START_SECONDS, "the first API key")
        self.http = httpx.Client(
            base_url=self.where.url, headers={"authorization": f"Bearer {self._key()}"}, timeout=30.0, trust_env=False
        )
        until(self._is_complete, START_SECONDS, "all parts")

    def launch(self) -> None:
        """Start `bushel up`, also again after it was killed."""
        if self._database:
            program: tuple[object, ...] = (sys.executable, "-m", "chaos.up", self.data, self.where.port, self.workers)
            outer = self._outer() | {"CHAOS_DATABASE": json.dumps(self._database)}
            self._up = self._run("up", [*program, *self.models], outer)
            return
        flags = [word for name in self.models for word in ("--model", name)]
        program = (sys.executable, "-m", "cli.main", "--data", self.data, "up", "--port", self.where.port)
        self._up = self._run("up", [*program, "--workers", self.workers, *flags], self._outer())

    def add_worker(self, name: str, slot: str | None = None, **environment: str) -> int:
        """A worker of all models beside those of the supervisor; its process id. Returns before it is ready.

        Nobody starts it again, and without a `slot` nobody inherits its leases.
        """
        queues = ",".join(f"bushel.model.{model}" for model in self.models)
        command = [
            *(sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--pool", "threads"),
            *("--concurrency", "2", "-Q", queues, "-n", f"{name}@%h", "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
        own = parts.environment(self.where) | ({"BUSHEL_WORKER_SLOT": slot} if slot else {})
        self._beside[name] = self._run(name, command, {**self._outer(), **own, **environment})
        return self._beside[name].pid

    def await_worker(self, pid: int) -> None:
        """Until the ledger has its heartbeat."""
        until(lambda: self.rows("SELECT 1 FROM workers WHERE pid = %s", pid), START_SECONDS, f"worker {pid}")

    def reap(self, name: str, seconds: float = 60.0) -> int:
        """The exit status of a worker beside the supervisor that is ending, or has ended."""
        return self._beside.pop(name).wait(seconds)

    def has_ended(self, name: str) -> bool:
        return self._beside[name].poll() is not None

    def close(self) -> None:
        """End everything; what was stopped by a signal is let go first."""
        self.http.close()
        if self._connection is not None:
            self._connection.close()
        running = [*self._beside.values(), *([self._up] if self._up else [])]
        for process in running:
            for one in _family(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.resume()
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def python_path(self) -> str:
        return str(Path(__file__).resolve().parents[1])

    def _outer(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BUSHEL_")}
        own = {"BUSHEL_REGISTRY": str(self.registry), "PYTHONPATH": self.python_path}
        return kept | own | self.environment

    def _run(self, name: str, command: Sequence[object], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(environment),
                cwd=self.data / "run",
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    def _has_key(self) -> bool:
        assert self._up is not None
        if self._up.poll() is not None:
            raise ChaosFailed(f"bushel up ended with {self._up.returncode}: {self.log('up')[-2000:]}")
        path = self.data / "client.json"
        return path.exists() and bool(json.loads(path.read_text()).get("api_key"))

    def _is_complete(self) -> bool:
        return self._has_key() and f"Bushel is up: {self.where.url}" in self.log("up")

    def _key(self) -> str:
        return str(json.loads((self.data / "client.json").read_text())["api_key"])

    def secrets(self) -> dict[str, str]:
        """What opens the service to those who read it, by what it is. Of the key, only what is not its name."""
        passwords = {"the broker's": self.where.valkey.url, "the broker's operator's": self.where.valkey.operator_url}
        found = {f"{whose} password": str(urlsplit(url).password) for whose, url in passwords.items()}
        return found | {"the key": self._key().rpartition("_")[2]}

    # Looking

    def roles(self) -> dict[str, int]:
        """Process ids by role: up, api, api-child, postgres, backend, valkey, worker-io, worker-1, …

        Roles whose process is down at the moment are absent.
        """
        assert self._up is not None
        found = {"up": self._up.pid} if self._up.poll() is None else {}
        for process in _children(self._up.pid):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if (role := _role(process)) is not None:
                    found[role] = process.pid
                    below = {"api": "api-child", "postgres": "backend"}.get(role)
                    if below and (children := _children(process.pid)):
                        # The newest: of PostgreSQL's the first ones are its own helpers.
                        found[below] = max(child.pid for child in children)
        return found | {name: process.pid for name, process in self._beside.items() if process.poll() is None}

    def is_up(self) -> bool:
        return self._up is not None and self._up.poll() is None

    def is_ready(self) -> bool:
        try:
            return self.http.get("/readyz", timeout=2.0).status_code == 200
        except httpx.TransportError:
            return False

    def log(self, name: str) -> str:
        """What a part has written so far, by the name of its process."""
        found = [path for path in (self.folder / f"{name}.log", self.where.logs / f"{name}.log") if path.exists()]
        return "".join(path.read_text(errors="replace") for path in found)

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Of a query in a transaction of its own; psycopg.Error while the database is away."""
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(
                    self.database_url, autocommit=True, connect_timeout=3, row_factory=dict_row
                )
            cursor = self._connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []
        except psycopg.OperationalError:
            self._connection = None
            raise

    def count(self, statement: str, *values: object) -> int:
        """The number that a query tells, 0 for a NULL."""
        [row] = self.rows(statement, *values)
        [value] = row.values()
        return int(value or 0)

    def progress(self) -> Progress | None:
        """None while the database does not answer."""
        try:
            [row] = self.rows(_PROGRESS)
        except psycopg.Error:
            return None
        leases = tuple(Lease(chunk, attempt, _pid_of(owner)) for chunk, attempt, owner in row["leases"])
        return Progress(row["settled"], row["open"], leases)

    @property
    def database_url(self) -> str:
        return self.where.postgres.url.replace("+psycopg", "")

    @property
    def database_socket(self) -> Path:
        return Path(unquote(self.where.postgres.url.partition("host=")[2])) / ".s.PGSQL.5432"

    @contextlib.contextmanager
    def administrator(self) -> Iterator[psycopg.Connection[Any]]:
        """A superuser's connection to the same database."""
        folder = str(self.database_socket.parent)
        with psycopg.connect(host=folder, user="postgres", dbname="bushel", autocommit=True) as connection:
            yield connection

    @contextlib.contextmanager
    def broker(self) -> Iterator[redis.Redis]:
        """The broker, with every right."""
        with redis.Redis.from_url(self.where.valkey.operator_url, socket_timeout=5.0) as connection:
            yield connection


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _role(process: psutil.Process) -> str | None:
    name, words = process.name(), process.cmdline()
    if name == "postgres":
        return "postgres"
    if name == "valkey-server":
        return "valkey"
    if "gunicorn" in words:
        return "api"
    if "celery" in words and "-n" in words:
        return words[words.index("-n") + 1].partition("@")[0]
    return None


def _pid_of(owner: str) -> int:
    """Of `host/slot:pid:hex` or `host:pid:hex`."""
    return int(owner.rsplit(":", 2)[-2])
