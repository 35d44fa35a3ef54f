"""Settings of worker processes."""

import socket
from functools import cached_property

from pydantic import Field

from db.config import Settings


class WorkerSettings(Settings):
    """What workers read from the environment beside the shared settings."""

    device: str | None = Field(None, description="cpu, cuda or cuda:N; default: what the engine finds")
    chunk_deadline_seconds: float = Field(
        600, ge=1, description="longest a chunk may take before its worker is taken to hang and is ended"
    )
    stop_grace_seconds: float = Field(
        10, ge=0, description="how long a stopping worker lets the running chunk finish before it hands the rest back"
    )
    max_loaded_models: int = Field(2, ge=1, description="models a worker keeps in memory; the longest unused one goes")
    max_inflated_bytes: int = Field(
        20 * 2**30, ge=1, description="largest size of an input file after unpacking, in bytes"
    )
    max_lines: int = Field(20_000_000, ge=1, description="most lines an input file may have, blank ones included")
    retention_days: float | None = Field(
        None,
        gt=0,
        description="jobs that ended longer ago than so many days are deleted, as if their owners had asked for it;"
        " default: kept until they are deleted",
    )
    worker_slot: str | None = Field(
        None,
        description="a name that one process at a time has on this host, given by whoever restarts it: leases of a"
        " predecessor under it are taken back at once instead of when they run out",
    )
    poll_seconds: float = Field(
        2.0, gt=0, description="how often an idle worker looks into the ledger by itself, in case a ring was lost"
    )

    metrics_port: int | None = Field(
        None, ge=0, le=65_535, description="serve Prometheus metrics of the worker on this port, at /metrics"
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="address to serve them on; there is no key to them, so leave it unless the network is yours",
    )

    @cached_property
    def host(self) -> str:
        return socket.gethostname()
