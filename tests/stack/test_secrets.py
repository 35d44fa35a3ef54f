"""Where secrets and texts are while the service works: not in logs, not in process arguments, not in the broker."""

import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from sqlalchemy import text

from cli.stack.postgres import program
from cli.stack.valkey import Valkey
from db.session import Sessions
from tests.stack.conftest import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.slow

TEXT = "the heron keeps its counsel"
METADATA = "marabou-ledger"


def test_no_log_no_argument_and_no_message_has_a_secret_or_a_text(stack: Stack, valkey: Valkey) -> None:
    """After good requests, bad ones, a job, a webhook that nobody takes, and a database that is away for a worker."""
    # Accepted like any other by a server that trusts its socket, and so in every place where a real one would be.
    password = "pqv7d2xk0m3w9z"
    url = stack.environment["BUSHEL_DATABASE_URL"].replace("://bushel@", f"://bushel:{password}@")
    assert password in url
    stack.environment |= {"BUSHEL_DATABASE_URL": url, "BUSHEL_WEBHOOK_PRIVATE_ADDRESSES": "true"}
    api = (sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "--no-control-socket")
    stack.start("api", [*api, "--bind", f"127.0.0.1:{stack.port}", "api.app:create_app()"])
    stack.start_worker()
    # It starts and cannot work: what it says about its database and its broker must be discreet, too.
    nowhere = url.replace("host=", "host=/nowhere")
    broken = {"BUSHEL_DATABASE_URL": nowhere, "BUSHEL_BROKER_URL": f"redis://:{password}@127.0.0.1:1/0"}
    stack.start_worker("lost", **broken)
    eventually(stack._is_healthy, 60)

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        hook = stack.http.post(
            "/v1/webhooks",
            json={"url": f"http://127.0.0.1:{deaf.getsockname()[1]}/", "events": ["job.completed"]},
        )
        assert hook.is_success, hook.text
        job_id = stack.submit(inputs=[TEXT] * 5, metadata={"note": METADATA})
        stack.finished(job_id)
        for path, body in {"/v1/jobs": {"task": TEXT}, "/v1/nowhere": {TEXT: 1}}.items():
            assert 400 <= stack.http.post(path, json=body).status_code < 500
        mistyped = stack.key[:-1] + ("a" if stack.key[-1] != "a" else "b")
        assert stack.http.get("/v1/jobs", headers={"authorization": f"Bearer {mistyped}"}).status_code == 401
        eventually(lambda: "lost" in stack.processes and "nowhere" in stack.log("lost"), 60)
    broker_password = str(urlsplit(valkey.url).password)
    secrets = {
        "database password": password,
        "broker password": broker_password,
        "operator password": str(urlsplit(valkey.operator_url).password),
        "key": stack.key,
        "mistyped key": mistyped,
        "webhook secret": hook.json()["secret"],
        "text": TEXT,
        "metadata": METADATA,
    }

    server = psutil.Process(valkey._child.pid if valkey._child else None)
    ours = [psutil.Process(process.pid) for process in stack.processes.values()]
    family = [server, *ours, *(child for parent in ours for child in parent.children(recursive=True))]
    places = {f"log of {path.name}": path.read_bytes() for path in stack.folder.glob("*.log")}
    places |= {f"arguments of {each.pid}": "\0".join(each.cmdline()).encode() for each in family}
    with redis.Redis.from_url(valkey.operator_url) as operator:
        places |= {
            f"broker's {name!r}": repr(
                operator.lrange(name, 0, -1) if operator.type(name) == b"list" else operator.smembers(name)
            ).encode()
            for name in operator.keys("*")
        }
    places |= {f"broker's file {path.name}": path.read_bytes() for path in files(valkey.folder / "data")}
    places |= {f"broker's log {path.name}": path.read_bytes() for path in valkey.folder.glob("*.log*")}

    assert len(family) >= 5 and len(places) >= 10
    found = [
        (what, where)
        for where, content in places.items()
        for what, secret in secrets.items()
        if secret.encode() in content
    ]
    assert found == []
    cores = {Path(f"/proc/{each.pid}/limits").read_text().split("Max core file size")[1].split()[0] for each in family}
    assert cores == {"0"}


def test_of_a_thousand_keys_nothing_that_opens_is_kept_anywhere(
    stack: Stack, database_url: str, sessions: Sessions, valkey: Valkey, tmp_path: Path
) -> None:
    """Made, used, mistyped, rotated and revoked.

    Then the dumps of the database and the broker, every log, every file, temporary ones and those that have no name
    any more too, and every argument.
    """
    temporary = stack.folder / "tmp"
    temporary.mkdir()
    stack.environment["TMPDIR"] = str(temporary)
    stack.start_api()
    issued, ids = [stack.key], []
    for number in range(1_000):
        made = stack.http.post("/v1/keys", json={"name": f"key {number}"}).json()
        issued.append(made["key"])
        ids.append(made["id"])
        if number % 20 == 0:
            assert stack.http.get("/v1/jobs", headers={"authorization": f"Bearer {made['key']}"}).status_code == 200
            assert (
                stack.http.get("/v1/jobs", headers={"authorization": f"Bearer {made['key'][:-1]}"}).status_code == 401
            )
            issued.append(stack.http.post(f"/v1/keys/{made['id']}/rotate").json()["key"])
        # A tenant may have a hundred that open something.
        assert number > 990 or stack.http.delete(f"/v1/keys/{made['id']}").status_code == 200
    # Nobody takes its ring, which shows below that the broker was looked into.
    job_id = stack.submit(inputs=["one"])

    dumped = tmp_path / "dump.sql"
    plain = database_url.replace("postgresql+psycopg://", "postgresql://")
    subprocess.run([program("pg_dump"), f"--file={dumped}", f"--dbname={plain}"], check=True, timeout=120)
    save_uncompressed(valkey)
    server = psutil.Process(valkey._child.pid if valkey._child else None)
    api = psutil.Process(stack.processes["api"].pid)
    family = [server, api, *api.children(recursive=True)]
    with sessions() as session:
        backend = psutil.Process(session.scalars(text("SELECT pg_backend_pid()")).one())
        # Every process of PostgreSQL is in its data's folder, which the service's user may not ask for.
        [database_log] = Path(backend.cwd()).parent.glob("*.log")
    kept = (dumped, database_log, *files(stack.folder), *files(valkey.folder))
    places = {str(path): path.read_bytes() for path in kept}
    places |= {f"{each.pid}'s {name}": content for each in family for name, content in open_files(each.pid).items()}
    places |= {f"arguments of {each.pid}": "\0".join(each.cmdline()).encode() for each in family}

    assert all(key_id.encode() in places[str(dumped)] for key_id in ids)
    assert job_id.encode() in places[str(valkey.folder / "data" / "dump.rdb")]
    assert any(str(temporary) in name for name in places), "no process made its temporary files where we look"
    # What comes after the id is the secret.
    secrets = [key.rpartition("_")[2].encode() for key in issued]
    assert len(set(secrets)) == 1_051 and min(map(len, secrets)) >= 32
    assert [(where, secret) for where, content in places.items() for secret in secrets if secret in content] == []


def save_uncompressed(valkey: Valkey) -> None:
    """Into its dump.rdb, in which a secret that was compressed would not be found."""
    with redis.Redis.from_url(valkey.operator_url) as operator:
        operator.config_set("rdbcompression", "no")
        operator.save()
        operator.config_set("rdbcompression", "yes")


def open_files(pid: int) -> dict[str, bytes]:
    """What is in the files that a process has open, by their names; a deleted one is called so."""
    links = [link for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_file()]
    return {str(link.readlink()): link.read_bytes() for link in links}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
