"""The embedded broker and who may do what with it."""

import base64
import json
import os
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.app.amqp import utf8dict

from cli.stack.valkey import Valkey
from db.doorbell import INGEST, IO_QUEUE, CeleryDoorbell, broker
from db.session import Sessions
from models.registry import load
from tests.ledger import Ledger
from tests.stack.conftest import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.slow


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url.replace("redis+socket://", "unix://").partition("?")[0])


@pytest.fixture
def operator(valkey: Valkey) -> Iterator[redis.Redis]:
    with client(valkey.operator_url) as connection:
        yield connection


@pytest.fixture
def service(valkey: Valkey) -> Iterator[redis.Redis]:
    with client(valkey.url) as connection:
        yield connection


# Users


def test_without_a_password_the_broker_answers_nobody(valkey: Valkey) -> None:
    with redis.Redis(unix_socket_path=str(valkey.socket)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


@pytest.mark.parametrize(
    "command",
    [
        ("EVAL", "return 1", "0"),
        ("SCRIPT", "LOAD", "return 1"),
        ("FUNCTION", "LIST"),
        ("CONFIG", "GET", "dir"),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("DEBUG", "SLEEP", "0"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("MODULE", "LIST"),
        ("SAVE",),
        ("REPLICAOF", "203.0.113.9", "6379"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("MONITOR",),
        ("SHUTDOWN", "NOSAVE"),
        ("LPUSH", "somebody-elses", "x"),
        ("DEL", "somebody-elses"),
        ("PUBLISH", "anywhere", "x"),
    ],
    ids=" ".join,
)
def test_the_services_user_may_do_nothing_that_rings_do_not_need(
    service: redis.Redis, command: tuple[str, ...]
) -> None:
    with pytest.raises(redis.ResponseError, match=r"(?i)no permissions|command not allowed"):
        service.execute_command(*command)


def test_passwords_are_in_files_that_only_their_owner_reads_and_in_no_argument(valkey: Valkey) -> None:
    files = [valkey.folder / name for name in ("bushel.password", "operator.password", "users.acl")]
    pid = valkey._child.pid if valkey._child else None
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes()

    assert [oct(path.stat().st_mode & 0o777) for path in files] == ["0o600"] * 3
    for path in files[:2]:
        password = path.read_text().strip()
        assert len(password) == 48
        assert password.encode() not in arguments
        assert password not in files[2].read_text()


def test_a_password_is_changed_by_removing_its_file(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey") as server:
        before = server.url
    (tmp_path / "valkey" / "bushel.password").unlink()

    with Valkey(tmp_path / "valkey") as server:
        assert server.url != before
        with client(server.url) as now:
            assert now.ping()
        with client(before) as then, pytest.raises(redis.AuthenticationError):
            then.ping()


# Messages


@pytest.fixture
def ledger(stack: Stack, sessions: Sessions) -> Ledger:
    [tenant] = [row.id for row in Ledger(sessions, "", stack.folder).rows("SELECT id FROM tenants")]
    bell = CeleryDoorbell(broker(stack.environment["BUSHEL_BROKER_URL"]))
    found = Ledger(sessions, tenant, stack.folder / "files", load([stack.registry]))
    found.bell = bell  # type: ignore[assignment]
    return found


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._path),)


def message(body: bytes, content_type: str, task: object = INGEST, **headers: object) -> bytes:
    """As kombu keeps one in its list, whatever it says of itself."""
    properties = {
        "delivery_info": {"exchange": "", "routing_key": IO_QUEUE},
        "delivery_mode": 2,
        "delivery_tag": "forged",
        "body_encoding": "base64",
        "priority": 0,
    }
    sealed = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": content_type,
        "headers": utf8dict({"lang": "py", "task": task, "id": "forged", "argsrepr": "", **headers}),
        "properties": properties,
    }
    return json.dumps(sealed).encode()


def forged(canary: Path) -> list[bytes]:
    """Messages of every kind that a worker must throw away."""
    pickled = pickle.dumps(((Canary(canary),), {}, {}))
    yaml = f'!!python/object/apply:os.mkdir ["{canary}"]'.encode()
    call = json.dumps([[], {}, {}]).encode()
    return [
        *(message(pickled, kind) for kind in ("application/x-python-serialize", "application/json", "pickle", "")),
        *(message(yaml, kind) for kind in ("application/x-yaml", "application/json")),
        message(b"\xc1\xff", "application/x-msgpack"),
        message(pickled, "application/data"),
        *(message(call, "application/json", task) for task in ("os.system", "celery.backend_cleanup", "", 5, None)),
        message(json.dumps([["x" * 5_000_000], {}, {}]).encode(), "application/json"),
        message(
            json.dumps([[], {"job_id": "job_none", "shadow": 1}, {"chord": {"task": "os.system"}}]).encode(),
            "application/json",
        ),
        message(call, "application/json", eta="2999-01-01T00:00:00", retries=10**9),
        message(call, "application/json", id=[]),
        message(call, "application/json", timelimit="soon", origin=[], stamps=7, root_id={}),
        message(b"", "application/json"),
        message(b"[" * 100_000, "application/json"),
        # What is not even an envelope.
        *(b"", b"\x00\xff", b"5", b"[]", b"{}", b'{"body": 5}', b'{"body": "x", "properties": {}}', b"{" * 1000),
        pickled,
    ]


def garbled(chance: random.Random) -> bytes:
    """A message whose envelope is whole and whose body was a ring's, until some of its bytes were changed or lost."""
    body = bytearray(json.dumps([["job_none"], {}, {"callbacks": None, "errbacks": None, "chain": None}]).encode())
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(body) + 1)
        body[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
    kind = chance.choice(["application/json", "application/x-python-serialize", "application/data", "text/plain"])
    return message(bytes(body), kind, chance.choice([INGEST, "os.system", "bushel.nothing"]))


def test_messages_that_are_no_rings_are_dropped_and_nothing_of_them_is_run(
    stack: Stack, ledger: Ledger, operator: redis.Redis, tmp_path: Path
) -> None:
    canary, chance = tmp_path / "canary", random.Random(38)
    stack.start_worker()
    operator.lpush(f"bushel:{IO_QUEUE}", *forged(canary), *(garbled(chance) for _ in range(10_000)))
    job_id = ledger.submit(b"one\ntwo")

    ledger.bell.ring(INGEST, job_id)

    eventually(lambda: ledger.job(job_id).status == "completed", 120)
    # Behind them in the queue, and so after them.
    eventually(lambda: operator.llen(f"bushel:{IO_QUEUE}") == 0, 120)
    assert ledger.counts(job_id) == {"succeeded": 2}
    assert not canary.exists()
    assert stack.processes["worker"].poll() is None
    assert stack.stop("worker") == 0


def test_a_worker_needs_no_right_that_its_user_lacks(stack: Stack, ledger: Ledger, operator: redis.Redis) -> None:
    before = operator.info("commandstats")
    stack.start_worker()
    job_id = ledger.submit(b"one\ntwo")
    ledger.bell.ring(INGEST, job_id)

    eventually(lambda: ledger.job(job_id).status == "completed", 60)
    assert stack.stop("worker") == 0

    refused = {
        name: found["rejected_calls"] - before.get(name, {"rejected_calls": 0})["rejected_calls"]
        for name, found in operator.info("commandstats").items()
    }
    assert {name for name, count in refused.items() if count} == set()
    assert not any("NOPERM" in path.read_text(errors="replace") for path in stack.folder.glob("*.log"))
