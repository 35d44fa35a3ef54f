"""What Bushel's one-machine stack is made of, in the order it starts."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from cli.stack.errors import MissingParts, OpenAddress, PartFailed, PortInUse, StackError
from cli.stack.postgres import Postgres
from cli.stack.process import Child, Part, Probe, describe_exit
from cli.stack.valkey import Valkey
from db.safeguards import listening_problem

# Not the logger `gunicorn.error`, by which gunicorn says everything.
_IMPORTANT = re.compile(r"(?<![.\w])(ERROR|CRITICAL|Traceback)\b|\"level\": ?\"(error|critical)\"", re.IGNORECASE)
# Ends a worker gently: it finishes the batch on the device, which is made to take seconds.
_WORKER_STOP = ((signal.SIGTERM, 30.0),)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are for one data folder and port."""

    data: Path
    host: str
    port: int
    postgres: Postgres
    valkey: Valkey

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def url(self) -> str:
        return base_url(self.host, self.port)


def base_url(host: str, port: int) -> str:
    """The URL a client on this machine uses for an API bound to `host`.

    >>> base_url("0.0.0.0", 80), base_url("::1", 80)
    ('http://127.0.0.1:80', 'http://[::1]:80')
    """
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def make_folders(data: Path) -> None:
    """The data folder and what we keep in it, closed to others."""
    if not data.exists():
        # PostgreSQL's own user has to pass through when we are root. A folder that was there keeps its mode.
        data.mkdir(parents=True, mode=0o711 if os.geteuid() == 0 else 0o700)
    for folder in (data / "logs", data / "run", data / "files"):
        folder.mkdir(mode=0o700, exist_ok=True)


def layout(data: Path, host: str, port: int) -> Layout:
    """Where things are, for a data folder that `make_folders` has made."""
    return Layout(data, host, port, Postgres(data / "postgres"), Valkey(data / "valkey"))


def environment(where: Layout) -> dict[str, str]:
    """What every part that is Bushel's own finds in its environment, besides what ours has."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    # The parts run in a folder of their own, where a relative path would lead elsewhere.
    registry = os.environ.get("BUSHEL_REGISTRY")
    return ({"BUSHEL_REGISTRY": str(Path(registry).expanduser().absolute())} if registry else {}) | {
        "BUSHEL_DATABASE_URL": where.postgres.url,
        "BUSHEL_BROKER_URL": where.valkey.url,
        "BUSHEL_DATA": str(where.data),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }


def migrations(where: Layout) -> Part:
    """Brings the schema up to date and ends."""
    return Part(
        name="migrations",
        command=(sys.executable, "-m", "migrations"),
        environment=environment(where),
        folder=where.data / "run",
        start_seconds=300.0,
        once=True,
    )


def api(where: Layout) -> Part:
    """The HTTP API; ready when it says so itself."""
    host = f"[{where.host}]" if ":" in where.host else where.host
    shared_memory = Path("/dev/shm")
    heartbeat = ("--worker-tmp-dir", str(shared_memory)) if os.access(shared_memory, os.W_OK) else ()
    return Part(
        name="api",
        command=(
            *(sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "--bind", f"{host}:{where.port}"),
            *("--no-control-socket", *heartbeat, "api.app:create_app()"),
        ),
        environment=environment(where),
        folder=where.data / "run",
        probe=_answers(where.url),
        start_seconds=90.0,
        stop=((signal.SIGTERM, 20.0),),
        # gunicorn's quick stop: its workers would otherwise see only at their next look that it is gone.
        orphaned=signal.SIGQUIT,
        important=_IMPORTANT,
    )


def metrics_address(part: Part) -> str:
    """Where a worker answers `/metrics`, on this machine alone."""
    return f"127.0.0.1:{part.environment['BUSHEL_METRICS_PORT']}"


def write_targets(where: Layout, workers: Sequence[Part]) -> Path:
    """A file that tells a Prometheus on this machine where the workers are (its `file_sd_configs`)."""
    path = where.data / "run" / "metrics.json"
    targets = [{"targets": [metrics_address(part)], "labels": {"part": part.name}} for part in workers]
    path.write_text(json.dumps(targets, indent=2) + "\n", encoding="utf-8")
    return path


def log_format(where: Layout) -> str:
    """What BUSHEL_LOG_FORMAT says; ours is like that of the parts."""
    from db.config import Settings

    settings = Settings(database_url=where.postgres.url, broker_url=where.valkey.url, data=where.data)
    return settings.log_format


def io_worker(where: Layout) -> Part:
    """Ingest, finalize, reconcile; never loads a model."""
    return _worker(where, "worker-io", ("bushel.io",), 2)


def model_workers(where: Layout, count: int, models: Sequence[str]) -> tuple[Part, ...]:
    """`count` processes that each run all of `models`."""
    queues = [f"bushel.model.{name}" for name in models]
    return tuple(_worker(where, f"worker-{number}", queues, 4) for number in range(1, count + 1))


def model_names(where: Layout, wanted: Sequence[str]) -> tuple[str, ...]:
    """The models to serve: those of the registry, or of `wanted`, each of which must be in it."""
    try:
        from db.config import Settings
        from models.registry import RegistryError, load
    except ImportError as exc:
        raise MissingParts(exc.name or "Bushel's server side") from exc
    settings = Settings(database_url=where.postgres.url, broker_url=where.valkey.url, data=where.data)
    try:
        registry = load(settings.registry_files)
        return tuple(registry.get(name).name for name in wanted) or tuple(spec.name for spec in registry.all())
    except RegistryError as exc:
        raise StackError(str(exc)) from exc


def first_key(where: Layout) -> str | None:
    """A new API key if there is none at all yet; None otherwise. Only its hash is kept in the database.

    In a process of its own, so that the supervisor never holds a database connection; the key
    travels through a pipe and touches no log.
    """
    command = (sys.executable, "-m", "db.keys", "--first")
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment(where)},
            cwd=where.data / "run",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as exc:
        raise PartFailed("first key", "was not made in 60 s") from exc
    if done.returncode != 0:
        raise PartFailed("first key", f"could not be made: {done.stderr.strip() or describe_exit(done.returncode)}")
    return done.stdout.strip() or None


def check_port(host: str, port: int) -> int:
    """`port`, or a free one for 0.

    PortInUse when the API could not be bound to it, OpenAddress when it would refuse to be: told here, before anything
    is started for it.
    """
    problem = listening_problem(host)
    if problem and not TypeAdapter(bool).validate_python(os.environ.get("BUSHEL_ALLOW_PLAIN_HTTP", "false")):
        raise OpenAddress(problem)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As gunicorn does: a port still in TIME_WAIT from our last run is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise PortInUse(host, port, (exc.strerror or str(exc)).lower()) from exc
        return int(probe.getsockname()[1])


def _worker(where: Layout, name: str, queues: Sequence[str], concurrency: int) -> Part:
    return Part(
        name=name,
        command=(
            *(sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--pool", "threads"),
            *("--concurrency", str(concurrency), "-Q", ",".join(queues), "-n", f"{name}@%h", "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
        environment=environment(where)
        | {
            "BUSHEL_WORKER_SLOT": name,
            # The same over its restarts, and its own: one for all from our environment could be had by one only.
            "BUSHEL_METRICS_PORT": str(_free_port()),
            "BUSHEL_METRICS_HOST": "127.0.0.1",
        },
        folder=where.data / "run",
        probe=_beats(where.postgres.url),
        start_seconds=120.0,
        stop=_WORKER_STOP,
        important=_IMPORTANT,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _beats(database_url: str) -> Probe:
    """A worker is ready once its heartbeat is in the ledger: it has its settings, its registry and the database.

    Not Celery's own line `ready.`, which a higher log level hides, nor its remote control, which is off.
    """
    url = database_url.replace("postgresql+psycopg://", "postgresql://")
    query = "SELECT 1 FROM workers WHERE host = %s AND pid = %s AND heartbeat_at >= to_timestamp(%s)"

    def probe(child: Child) -> str | None:
        try:
            import psycopg
        except ImportError as exc:
            raise MissingParts("psycopg") from exc
        try:
            with psycopg.connect(url, connect_timeout=3) as connection:
                found = connection.execute(query, (socket.gethostname(), child.pid, child.started_at)).fetchone()
        except psycopg.Error as exc:
            return str(exc).strip().splitlines()[-1]
        return None if found else "its heartbeat is not in the ledger yet"

    return probe


def _answers(url: str) -> Probe:
    def probe(child: Child) -> str | None:
        for path in ("/healthz", "/readyz"):
            if (reason := _refusal(url + path)) is not None:
                return f"{path}: {reason}"
        return None

    return probe


# A proxy from the environment must not come between us and our own machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _refusal(url: str) -> str | None:
    try:
        with _opener.open(url, timeout=3):
            return None
    except urllib.error.HTTPError as exc:
        with exc:
            return f"{exc.code} {exc.read(500).decode('utf-8', 'replace').strip()}"
    except OSError as exc:
        return str(exc)
