"""Thousands of hostile requests and files against a real API and worker, and a table of what they got."""

import argparse
import contextlib
import json
import os
import re
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from sqlalchemy.engine import make_url

import migrations
from api.app import create_app
from api.config import APISettings
from cli.stack.postgres import Postgres
from cli.stack.valkey import Valkey
from db.doorbell import RecordingDoorbell
from db.keys import issue_key
from db.session import connect
from db.session import sessions as sessions_of
from tests.hostile import bodies, files, names
from tests.hostile.bodies import Route
from tests.hostile.checks import faults
from tests.hostile.memory import Memory
from tests.hostile.requests import Attack, Attacks, Targets, message
from tests.hostile.sending import Answer, send
from tests.stack.conftest import Stack, built
from tests.waiting import eventually

REGISTRY = "".join(
    f'[models.{name}]\ntask = "{task}"\nsource = "."\nengine = "echo"\ndefault = true\n\n'
    for name, task in (
        ("echo", "translation"),
        ("echo-chat", "generation"),
        ("echo-vectors", "embedding"),
        ("echo-short", "summarization"),
    )
)
# No answer may take longer. Generous: a request that waits for a worker may take a minute by itself.
ANSWER_SECONDS = 150.0
SENDERS = 8
# How much the processes may have grown at the end, and at their worst moment. A request body may have 16 MB, and there
# are as many as there are senders.
API_GROWTH, WORKER_GROWTH = 256 * 2**20, 384 * 2**20
# Jobs that somebody still has to do something about, with what would be seen to change of them.
_OPEN = (
    "SELECT id, dialect, task, model, status, queued, running, step_attempt, step_expires_at, version, dry_run, errors"
    " FROM jobs WHERE status NOT IN ('completed', 'failed', 'cancelled', 'expired') AND NOT paused"
)
# Where nothing of an open job changes for so long, nothing will.
STILL_SECONDS = 200.0
# All that the store may hold is named by the server.
_STORED = re.compile(r"(files/file-|inputs/job_|parts/part_)[0-9a-z]{25}\Z")


@dataclass
class Report:
    """What was sent and what came back, by kind; `faults` are in words, with what caused them."""

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    routes: set[Route] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def sent(self) -> int:
        return sum(counter.total() for counter in self.statuses.values())

    def note(self, attack: Attack, answer: Answer, found: Sequence[str]) -> None:
        self.statuses[attack.kind][answer.status] += 1
        self.slowest = max(self.slowest, answer.seconds)
        if attack.route is not None:
            self.routes.add(attack.route)
        for fault in found:
            self.faults.append(f"{attack.kind}: {fault}: {attack.wire[:600]!r} -> {answer.body[:300]!r}")

    def table(self) -> str:
        lines = [f"{'kind':32} {'sent':>6}  answers"]
        for kind, counter in sorted(self.statuses.items()):
            told = ", ".join(f"{status or 'cut'}: {count}" for status, count in sorted(counter.items()))
            lines.append(f"{kind:32} {counter.total():6}  {told}")
        everything = Counter[int]()
        for counter in self.statuses.values():
            everything.update(counter)
        failed = sum(count for status, count in everything.items() if status >= 500)
        lines.append(f"{'all':32} {self.sent:6}  5xx: {failed}; slowest answer {self.slowest:.1f} s")
        return "\n".join(lines)


class Campaign:
    """One stack under attack. Tenant `default` attacks; what `victim` has must never be seen by it."""

    def __init__(self, stack: Stack, victim_key: str, seed: int) -> None:
        self.stack, self._victim_key, self._seed = stack, victim_key, seed
        self.marker, self.canary = f"victim{secrets.token_hex(8)}", f"canary{secrets.token_hex(8)}"
        self._database_canary = f"database{secrets.token_hex(8)}"
        self.report = Report()
        self.memory: list[Memory] = []
        self._lock = threading.Lock()
        self._hook_secrets: list[str] = []
        self._silent = socket.create_server(("127.0.0.1", 0))
        stack.registry.write_text(REGISTRY)
        url = make_url(stack.environment["BUSHEL_DATABASE_URL"]).set(password=self._database_canary)
        stack.environment |= {
            "BUSHEL_DATABASE_URL": url.render_as_string(hide_password=False),
            "BUSHEL_UPLOAD_IDLE_SECONDS": "5",
            "BUSHEL_MAX_INFLATED_BYTES": str(48 * 2**20),
            "BUSHEL_MIN_FREE_BYTES": "0",
            "HOME": str(stack.folder.parent / "home"),
            "TMPDIR": str(stack.folder.parent / "tmp"),
        }
        for name in ("HOME", "TMPDIR"):
            Path(stack.environment[name]).mkdir()

    def start(self) -> None:
        """The API as it is served in production, and a worker of everything."""
        command = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "--no-control-socket"]
        self.stack.start("api", [*command, "--bind", f"127.0.0.1:{self.stack.port}", "api.app:create_app()"])
        self.stack.start_worker()
        eventually(self._is_up, 120)
        self.stack.finished(self.stack.submit(inputs=["warm"]), 120)

    def run(self, count: int, megabytes: int = 0) -> None:
        """Send `count` attacks, and files of so many `megabytes`; then wait until the last job has ended."""
        self._victim_before = self._make_victim()
        attacks = Attacks(self._targets(), self._seed)
        # What a process needs once it has seen some of everything is no growth.
        warming = max(count // 20, 20)
        self._send_all(attacks.all(warming))
        self.memory.append(self._measured())
        self._send_all(attacks.all(count - warming))
        for file in files.large(megabytes) if megabytes else []:
            self._send_all(iter([attacks.upload(file)]))
        self._settle()
        self.memory.append(self._measured())

    def verdict(self) -> list[str]:
        """Everything that is not as it should be, after the attack."""
        return [
            *self.report.faults,
            *self._unattacked(),
            *self._bad_ends(),
            *self._broken_service(),
            *self._changed_victim(),
            *self._leaks_in_logs(),
            *self._escapes(),
            *self._calls(),
            *self._growth(),
        ]

    def _is_up(self) -> bool:
        try:
            return self.stack.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _client(self, key: str) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.stack.port}", headers=headers, timeout=60)

    def _make_victim(self) -> dict[str, Any]:
        with self._client(self._victim_key) as http:
            self._foreign = things(http, self.marker, self._hook_secrets)
            self._settle()
            return self._victim_state(http)

    def _victim_state(self, http: httpx.Client) -> dict[str, Any]:
        ids = self._foreign
        webhook = http.get(f"/v1/webhooks/{ids['<webhook_id>']}").json()
        return {
            "job": http.get(f"/v1/jobs/{ids['<job_id>']}").json(),
            "results": http.get(f"/v1/jobs/{ids['<job_id>']}/results").text,
            "file": http.get(f"/v1/files/{ids['<file_id>']}/content").text,
            # Nothing is delivered there, and after a while the webhook says so.
            "webhook": {name: webhook[name] for name in ("id", "url", "events", "description", "enabled")},
            "files": len(http.get("/v1/files").json()["data"]),
            "jobs": len(http.get("/v1/jobs").json()["data"]),
        }

    def _targets(self) -> Targets:
        http = self.stack.http
        own, spare = (things(http, self.canary, self._hook_secrets) for _ in range(2))
        port = int(self._silent.getsockname()[1])
        templates = bodies.valid(self.canary)
        return Targets(self._routes(), self.stack.key, self.canary, own, spare, self._foreign, port, templates)

    def _routes(self) -> list[Route]:
        environment = self.stack.environment
        settings = APISettings(
            database_url=environment["BUSHEL_DATABASE_URL"],
            broker_url=environment["BUSHEL_BROKER_URL"],
            data=self.stack.folder,
            registry=self.stack.registry,
        )
        app = create_app(settings, RecordingDoorbell())
        # Pages for people answer people; theirs are the tests of the dashboard.
        rules = [rule for rule in app.url_map.iter_rules() if not rule.endpoint.startswith("ui.")]
        app.close()
        return sorted((method, rule.rule) for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"})

    def _send_all(self, attacks: Iterator[Attack]) -> None:
        """From several threads, each taking the next one when it has the answer to its last."""
        failed: list[BaseException] = []

        def sender() -> None:
            try:
                while (attack := self._next(attacks)) is not None:
                    self._send(attack)
            except BaseException as exc:
                failed.append(exc)
                raise

        threads = [threading.Thread(target=sender, name=f"sender-{number}") for number in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    def _next(self, attacks: Iterator[Attack]) -> Attack | None:
        with self._lock:
            return next(attacks, None)

    def _send(self, attack: Attack) -> None:
        answer = self._judged(attack)
        if attack.format is None or answer.status != 200:
            return
        body = {"task": "translation", "input_file_id": json.loads(answer.body)["id"], "format": attack.format}
        headers = [(b"Authorization", f"Bearer {self.stack.key}".encode()), (b"Content-Type", b"application/json")]
        wire = message("POST", b"/v1/jobs", headers, json.dumps(body | {"on_error": "skip"}).encode())
        self._judged(Attack(f"{attack.kind}, its job", wire, "POST"))

    def _judged(self, attack: Attack) -> Answer:
        answer = send(self.stack.port, attack, ANSWER_SECONDS)
        found = faults(attack, answer, [self.marker.encode()])
        with self._lock:
            self.report.note(attack, answer, found)
        return answer

    def _sql(self, statement: str) -> list[Any]:
        url = self.stack.environment["BUSHEL_DATABASE_URL"].replace("postgresql+psycopg://", "postgresql://")
        with psycopg.connect(url, autocommit=True) as connection:
            return connection.execute(statement).fetchall()

    def _settle(self) -> None:
        """Until no job is open any more but those that were paused on request; what stays open is a fault."""
        last = [time.monotonic(), ""]

        def is_settled() -> bool:
            now = str(self._sql(f"{_OPEN} ORDER BY id"))
            if now != last[1]:
                last[:] = [time.monotonic(), now]
            return now == "[]" or time.monotonic() - float(last[0]) > STILL_SECONDS

        eventually(is_settled, 1_200, every=0.5)
        self.report.faults += [f"a job does not end: {row}" for row in self._sql(f"{_OPEN} LIMIT 20")]

    def _unattacked(self) -> list[str]:
        return [f"no attack at {method} {rule}" for method, rule in set(self._routes()) - self.report.routes]

    def _bad_ends(self) -> list[str]:
        """Jobs that ended by a fault of ours, and sums that do not add up."""
        internal = self._sql("SELECT id, errors FROM jobs WHERE errors::text LIKE '%internal_error%'")
        failed = self._sql(
            "SELECT job_id, error_code, error_message FROM results"
            " WHERE error_code IN ('internal_error', 'engine_error', 'worker_crashed')"
        )
        crashed = self._sql("SELECT id, crashes FROM chunks WHERE crashes > 0")
        wrong = self._sql(
            "SELECT id, status FROM jobs WHERE succeeded + failed <>"
            " (SELECT count(*) FROM results WHERE job_id = jobs.id)"
        )
        return [f"a job ended badly: {row}" for rows in (internal, failed, crashed, wrong) for row in rows]

    def _broken_service(self) -> list[str]:
        lines = [f"a good line {number}" for number in range(100)]
        job = self.stack.finished(self.stack.submit(inputs=lines), 120)
        results = [line["output"]["text"] for line in self.stack.results(job["id"])]
        dead = [name for name, process in self.stack.processes.items() if process.poll() is not None]
        found = [f"the {name} is dead" for name in dead]
        if job["status"] != "completed" or len(results) != len(lines):
            found.append(f"a good job is {job['status']} with {len(results)} results")
        return found

    def _changed_victim(self) -> list[str]:
        with self._client(self._victim_key) as http:
            now = self._victim_state(http)
        return [f"the victim's {name} changed" for name, was in self._victim_before.items() if now[name] != was]

    def _leaks_in_logs(self) -> list[str]:
        """Texts, names, outputs, keys, webhook secrets and the database's password belong in no log."""
        keys = [key.rsplit("_", 1)[1] for key in (self.stack.key, self._victim_key)]
        wanted = [self.marker, self.canary, self._database_canary, *keys, *self._hook_secrets]
        found = []
        for log in logs(self.stack.folder.parent):
            content = log.read_text(errors="replace")
            found += [f"{log.name} has {word[:8]}…: {_around(content, word)}" for word in wanted if word in content]
        return found

    def _escapes(self) -> list[str]:
        """Whatever was written outside of the data folder, or in it under a name that a client chose."""
        store = self.stack.folder / "files"
        # The store's own note of whose it is lies beside what it stores.
        stored = [path for path in store.rglob("*") if path.is_file() and path != store / "ledger"]
        odd = [path for path in stored if not _STORED.match(str(path.relative_to(store)))]
        home = [path for path in Path(self.stack.environment["HOME"]).rglob("*") if path.is_file()]
        places = [Path("/"), Path("/tmp"), Path.cwd(), Path.home(), self.stack.folder.parent, self.stack.folder]
        escaped = [path for place in places for path in place.glob("*") if names.ESCAPE in path.name]
        return [f"written where it should not be: {path}" for path in (*odd, *home, *escaped)]

    def _calls(self) -> list[str]:
        self._silent.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            self._silent.accept()
            return ["somebody called the port that must stay silent"]
        return []

    def _measured(self) -> Memory:
        return Memory.of({name: process.pid for name, process in self.stack.processes.items()})

    def _growth(self) -> list[str]:
        first, last = self.memory
        bounds = {"api": API_GROWTH, "worker": WORKER_GROWTH}
        grown = {name: last.resident[name] - first.resident[name] for name in bounds}
        return [f"the {name} grew by {size / 2**20:.0f} MB" for name, size in grown.items() if size > bounds[name]]

    def close(self) -> None:
        self._silent.close()


def things(http: httpx.Client, mark: str, hook_secrets: list[str]) -> dict[str, str]:
    """One of everything a tenant can have, with `mark` in every text and name."""

    def made(path: str, **sent: Any) -> dict[str, Any]:
        answer = http.post(path, **sent)
        assert answer.status_code in (200, 201, 202), answer.text
        found: dict[str, Any] = answer.json()
        return found

    line = {"custom_id": mark, "method": "POST", "url": "/v1/translations", "body": {"model": "echo", "input": mark}}
    upload = {"bytes": 3, "filename": mark, "mime_type": "text/plain", "purpose": "batch"}
    file = {"file": (f"{mark}.jsonl", json.dumps(line) + "\n")}
    file_id = made("/v1/files", files=file, data={"purpose": "batch"})["id"]
    inputs = [
        {"custom_id": f"{mark}-{number}", "text": f"{mark} text {number}", "reference": mark} for number in (1, 2)
    ]
    job = {"task": "translation", "inputs": inputs, "metadata": {mark: mark}}
    params = {"model": "echo-chat", "max_tokens": 5, "messages": [{"role": "user", "content": mark}]}
    hook = made("/v1/webhooks", json={"url": f"https://hooks.example/{mark}", "description": mark})
    hook_secrets.append(hook["secret"])
    upload_id = made("/v1/uploads", json=upload)["id"]
    return {
        "<file_id>": file_id,
        "<job_id>": made("/v1/jobs", json=job)["id"],
        "<other_id>": made("/v1/jobs", json=job)["id"],
        "<upload_id>": upload_id,
        "<part_id>": made(f"/v1/uploads/{upload_id}/parts", files={"data": ("a", b"abc")})["id"],
        "<batch_id>": made(
            "/v1/batches",
            json={
                "input_file_id": file_id,
                "endpoint": "/v1/translations",
                "completion_window": "24h",
                "metadata": {"a": mark},
            },
        )["id"],
        "<message_batch_id>": made(
            "/v1/messages/batches", json={"requests": [{"custom_id": mark[:60], "params": params}]}
        )["id"],
        "<webhook_id>": hook["id"],
        "<delivery_id>": made(f"/v1/webhooks/{hook['id']}/test")["id"],
        "<model>": "echo",
    }


def logs(root: Path) -> Iterator[Path]:
    """Every log under `root`, the database's and the broker's among them."""
    return (path for path in root.rglob("*.log") if path.is_file())


def _around(content: str, word: str) -> str:
    at = content.find(word)
    return repr(content[max(0, at - 150) : at + 50])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20261123)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bushel-hostile-") as temporary:
        root = Path(temporary)
        os.chmod(root, 0o755)
        for name in ("postgres", "valkey", "data"):
            (root / name).mkdir()
        with Postgres(root / "postgres") as server, Valkey(root / "valkey") as broker:
            migrations.upgrade(server.url)
            engine = connect(server.url)
            with sessions_of(engine).begin() as session:
                victim = issue_key(session, "victim", "tests")
            engine.dispose()
            with contextlib.redirect_stdout(sys.stderr), built(root / "data", server.url, broker) as stack:
                campaign = Campaign(stack, victim, options.seed)
                try:
                    campaign.start()
                    campaign.run(options.requests, options.megabytes)
                    found = campaign.verdict()
                finally:
                    campaign.close()
    told = [campaign.report.table(), *(memory.line() for memory in campaign.memory)]
    told += [f"{len(found)} faults; seed {options.seed}; {time.monotonic() - began:.0f} s", *found[:40]]
    sys.stdout.write("\n".join(told) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
