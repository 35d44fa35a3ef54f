"""Whether the process in this container does its work; the health checks of docker-compose.yml run it.

    python deploy/probe.py api       /readyz answers 200
    python deploy/probe.py worker    a worker of this host has written its heartbeat lately

Celery's `inspect ping` is no choice here: remote control is off, because everyone who can write to the broker could
use it. And a worker that answers the broker but cannot reach the ledger is of no use.
"""

import http.client
import os
import socket
import sys
from collections.abc import Callable

# Workers write it every few seconds; two missed checks in a row make the container unhealthy.
HEARTBEAT_SECONDS = 45
HEARTBEAT = "SELECT count(*) FROM workers WHERE host = %s AND heartbeat_at > now() - make_interval(secs => %s)"


def api(host: str = "127.0.0.1", port: int = 8765) -> tuple[bool, str]:
    """Ready or not, and what the service says is missing."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status == 200, answer.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as exc:
        return False, f"no answer on {host}:{port}: {exc}"
    finally:
        connection.close()


def worker(host: str | None = None) -> tuple[bool, str]:
    """Alive or not, judged by the ledger's clock."""
    import psycopg

    from db import secret_files

    host = host or socket.gethostname()
    url = str(secret_files.setting("BUSHEL_DATABASE_URL", os.environ)).replace("postgresql+psycopg://", "postgresql://")
    try:
        with psycopg.connect(url, connect_timeout=5, options="-c statement_timeout=5000") as connection:
            row = connection.execute(HEARTBEAT, (host, HEARTBEAT_SECONDS)).fetchone()
    except psycopg.Error as exc:
        return False, f"the database does not answer: {exc}"
    alive = row[0] if row else 0
    return alive > 0, f"{alive} worker(s) of {host} heard of in the last {HEARTBEAT_SECONDS} s"


PROBES: dict[str, Callable[[], tuple[bool, str]]] = {"api": api, "worker": worker}


def main(words: list[str]) -> int:
    if len(words) != 1 or words[0] not in PROBES:
        sys.stderr.write(f"usage: probe.py {' | '.join(PROBES)}\n")
        return 2
    is_well, what = PROBES[words[0]]()
    sys.stdout.write(f"{what}\n")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
