"""How gunicorn serves the API: `gunicorn -c python:api.gunicorn_conf 'api.app:create_app()'`."""

from typing import Any

from flask.helpers import get_debug_flag

from api import shared_counts
from api.config import APISettings
from db.discretion import leave_no_core
from db.errors import ConfigError
from db.safeguards import listening_problem

try:
    _settings = APISettings.from_environment()
    if get_debug_flag():
        raise ConfigError("FLASK_DEBUG is set, which shows what went wrong to whoever asks; unset it")
except ConfigError as exc:
    raise SystemExit(f"bushel api: {exc}") from None

shared_counts.begin()

logger_class = "api.server_log.ServerLog"
worker_class = "api.worker.PatientWorker"
workers = _settings.api_processes
threads = _settings.api_threads
# Of a worker's own heartbeat, not of requests: uploads and downloads may take as long as they take.
timeout = 60
graceful_timeout = 15
# Longer than clients keep theirs (httpx: 5 s), so that none sends into a connection that we are closing.
keepalive = 20
# A request line and headers of ours are short; what is longer is an attack or a mistake.
limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 8190
loglevel = _settings.log_level.lower()
accesslog = "-"
# No query and no headers: neither keys nor what a user asked for belong in a log.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(B)s bytes %(M)s ms'


def on_starting(server: Any) -> None:
    """Gunicorn's hook before it listens."""
    leave_no_core()
    hosts = [address[0] for address in server.cfg.address if isinstance(address, tuple)]
    problems = list(filter(None, map(listening_problem, hosts)))
    if problems and not _settings.allow_plain_http:
        raise SystemExit(f"bushel api: {problems[0]}")


def child_exit(server: Any, worker: Any) -> None:
    """Gunicorn's hook when a process has ended: what it counted stays, what it was at does not."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def worker_exit(server: Any, worker: Any) -> None:
    """Gunicorn's hook in a process that ends."""
    from telemetry import traces

    traces.close()


def on_exit(server: Any) -> None:
    """Gunicorn's hook before the last process ends."""
    shared_counts.end()
