"""A private one-machine service for one measurement: the parts that `bushel up` starts, in a temporary folder."""

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
from prometheus_client.parser import text_string_to_metric_families

from cli.stack import parts
from cli.stack.logs import Log
from cli.stack.process import Child, Part
from db import keys
from db.session import connect, sessions

# Short beside anything measured here, long beside what a look costs.
POLL_SECONDS = 0.05


# A sample of a metric: its name and its labels, sorted.
Sample = tuple[str, tuple[tuple[str, str], ...]]


class BenchmarkFailed(Exception):
    """A result was wrong or did not come: there is nothing to report the speed of."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """When a job changed state, by the database's own clock, in seconds since its creation."""

    in_progress: float
    finalizing: float
    completed: float


@dataclass(frozen=True, slots=True)
class Poll:
    """A look at a job: what it found, and how long the answer took."""

    status: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Watched:
    """A finished job, how long it took to be seen so, and what each look at it cost."""

    job: dict[str, Any]
    seconds: float
    polls: list[Poll]

    def poll_seconds(self, *statuses: str) -> list[float]:
        """Of the looks that found the job in one of these, or of all."""
        return [poll.seconds for poll in self.polls if not statuses or poll.status in statuses]


class Service:
    """A running service and a connection to it.

    `roles` are the process ids of Bushel's own parts, `metrics` where those of them that are workers answer /metrics.
    """

    def __init__(
        self, url: str, key: str, database_url: str, roles: Mapping[str, int], metrics: Mapping[str, str]
    ) -> None:
        self._database_url, self._roles, self._metrics = database_url, roles, metrics
        self.http = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=300.0, trust_env=False
        )

    @contextmanager
    def seen_by(self, tenant: str) -> Iterator["Service"]:
        """The same service with a key of another tenant, who is made if need be."""
        engine = connect(self._database_url, pool=2, application="benchmark")
        try:
            with sessions(engine).begin() as session:
                key = keys.issue_key(session, tenant)
        finally:
            engine.dispose()
        other = Service(str(self.http.base_url), key, self._database_url, self._roles, self._metrics)
        try:
            yield other
        finally:
            other.http.close()

    def metrics(self, role: str) -> dict[Sample, float]:
        """What a worker counts and measures, as it is now."""
        text = httpx.get(self._metrics[role], timeout=30, trust_env=False).raise_for_status().text
        families = text_string_to_metric_families(text)
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    def pids(self) -> dict[str, list[int]]:
        """Every process of each role: gunicorn's master and its workers are the role `api`."""
        return {
            role: [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
            for role, pid in self._roles.items()
        }

    def upload(self, path: Path) -> str:
        with path.open("rb") as file:
            answer = self.http.post("/v1/files", data={"purpose": "batch"}, files={"file": (path.name, file)})
        return str(checked(answer)["id"])

    def submit(self, **body: Any) -> str:
        return str(checked(self.http.post("/v1/jobs", json=body))["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return checked(self.http.get(f"/v1/jobs/{job_id}"))

    def watch(self, job_id: str, limit_seconds: float) -> Watched:
        """Look again and again until the job has ended; BenchmarkFailed unless every item of it succeeded."""
        began = time.perf_counter()
        polls: list[Poll] = []
        while True:
            asked = time.perf_counter()
            job = self.job(job_id)
            now = time.perf_counter()
            polls.append(Poll(job["status"], round(now - asked, 6)))
            if job["status"] in ("completed", "failed", "expired", "cancelled"):
                break
            if now - began > limit_seconds:
                raise BenchmarkFailed(f"{job_id} is {job['status']} after {limit_seconds:.0f} s: {job['counts']}")
            # Asked, not told: a job's stream tells at most once a second, and what a look costs is a finding itself.
            time.sleep(POLL_SECONDS)
        if job["status"] != "completed" or job["counts"]["succeeded"] != job["counts"]["total"]:
            raise BenchmarkFailed(f"{job_id} is {job['status']}: {job['counts']}, {job['errors']}")
        return Watched(job, now - began, polls)

    def download(self, path: str, target: Path) -> None:
        with self.http.stream("GET", path) as answer, target.open("wb") as out:
            if answer.is_error:
                raise BenchmarkFailed(f"GET {path}: {answer.status_code} {answer.read().decode()}")
            for piece in answer.iter_raw():
                out.write(piece)

    def check_audit(self, job_id: str) -> None:
        audit = checked(self.http.get(f"/v1/jobs/{job_id}/audit"))
        if not audit["ok"]:
            raise BenchmarkFailed(f"the audit of {job_id} found: {audit['checks']}")

    def timeline(self, job_id: str) -> Timeline:
        """From the ledger itself: the API shows whole seconds, which are too coarse for a small job."""
        columns = "created_at, in_progress_at, finalizing_at, completed_at"
        [row] = self.query(f"SELECT {columns} FROM jobs WHERE id = %s", job_id)
        created, *ends = row
        assert isinstance(created, datetime)
        return Timeline(*((end - created).total_seconds() for end in ends))

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._database_url.replace("+psycopg", "")) as connection:
            return connection.execute(statement.encode(), values).fetchall()


def checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise BenchmarkFailed(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    found: dict[str, Any] = answer.json()
    return found


@contextmanager
def running(models: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Fresh processes on a fresh database with its default, durable settings; all gone when the block ends.

    Call from the main thread, to which the processes' lives are tied.
    """
    with tempfile.TemporaryDirectory(prefix="bushel-benchmark-") as folder, ExitStack() as stack:
        # PostgreSQL's own user has to pass through when we are root.
        os.chmod(folder, 0o711)
        data = Path(folder) / "data"
        parts.make_folders(data)
        where = parts.layout(data, "127.0.0.1", parts.check_port("127.0.0.1", 0))
        extra = dict(environment or {})
        for part in (where.postgres.part(), where.valkey.part()):
            _start(stack, part, where.logs)
        _start(stack, _with(parts.migrations(where), extra), where.logs)
        key = parts.first_key(where)
        assert key is not None, "a fresh database has no key yet"
        roles, metrics = {}, {}
        own = {"API": parts.api(where), "io worker": parts.io_worker(where)}
        [own["model worker"]] = parts.model_workers(where, 1, models)
        for role, part in own.items():
            child = _start(stack, _with(part, extra), where.logs)
            assert child.pid is not None
            roles[role] = child.pid
            if "BUSHEL_METRICS_PORT" in part.environment:
                metrics[role] = f"http://{parts.metrics_address(part)}/metrics"
        service = Service(where.url, key, where.postgres.url, roles, metrics)
        stack.callback(service.http.close)
        yield service


def _with(part: Part, environment: Mapping[str, str]) -> Part:
    return dataclasses.replace(part, environment={**part.environment, **environment})


def _start(stack: ExitStack, part: Part, logs: Path) -> Child:
    child = Child(part, Log(logs / f"{part.name}.log"))
    child.start()
    stack.callback(child.stop)
    if part.once:
        if not child.wait(part.start_seconds) or child.exit_code() != 0:
            raise child.failure("did not end well")
    else:
        child.wait_until_ready()
    return child
