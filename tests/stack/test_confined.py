"""The commands of docker-compose.yml as the containers run them, without containers.

A user without rights, no capability, no way to get one, and a file system that takes writes in the data folder and /tmp
alone. What that breaks would break in the image, too.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import migrations
from cli.stack.postgres import Postgres
from cli.stack.process import die_with_parent
from db.keys import issue_key
from db.session import connect, sessions
from tests.conftest import NO_BROKER
from tests.stack.conftest import REGISTRY
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
USER = SERVICES["api"]["user"].split(":")[0]

# Everything read-only but /tmp (where the data folder is), and the kernel's own file systems, as in a container.
READ_ONLY = """
set -e
mount --make-rprivate /
mount --bind /tmp /tmp
# May be in /tmp.
mount --bind "$HERE" "$HERE"
# What is in a folder that others may not enter, a home say: here, that folder has nothing else.
each() { printf '%s' "$2" | while read -r path; do "$1" "$path"; done; }
stage() { mkdir -p "$STAGE$1"; mount --bind "$1" "$STAGE$1"; }
empty() { mount -t tmpfs -o mode=755 none "$1"; }
back() { mkdir -p "$1"; mount --bind "$STAGE$1" "$1"; }
each stage "$NEEDED"
each empty "$CLOSED"
each back "$NEEDED"
findmnt --raw --noheadings --output TARGET | while read -r target; do
  case "$target" in /proc*|/sys*|/dev*|/tmp) ;; *) mount -o remount,bind,ro "$target" ;; esac
done
if touch /usr/.bushel 2>/dev/null || touch "$HERE/.bushel" 2>/dev/null; then echo "still writable" >&2; exit 70; fi
exec setpriv --reuid "$AS" --regid "$AS" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""

tools = [name for name in ("unshare", "setpriv", "findmnt", "mount") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="NOT CHECKED: confinement needs root"),
    pytest.mark.skipif(ROOT.stat().st_mode & 0o005 != 0o005, reason="NOT CHECKED: this tree is closed to other users"),
    pytest.mark.skipif(bool(tools), reason=f"NOT CHECKED: confinement needs {', '.join(tools)}"),
    pytest.mark.skipif(
        not tools and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
        reason="NOT CHECKED: confinement needs the right to mount",
    ),
]


def closed(path: Path) -> Path | None:
    """The outermost folder above `path` that other users may not pass."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


class Confined:
    """Processes behind those walls, over a database that their user may reach."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("data", "data/tmp", "files", "logs", "stage"):
            (folder / name).mkdir()
        for name, content in {"database_url": database_url, "broker_url": NO_BROKER, "models.toml": REGISTRY}.items():
            (folder / name).write_text(content)
        for path in (folder, *folder.rglob("*")):
            if "postgres" not in path.parts[len(folder.parts) :][:1]:
                os.chown(path, int(USER), int(USER))
        shut = [path for path in (Path(sys.base_prefix), ROOT) if closed(path)]
        image = {"HOME": "/tmp", "TMPDIR": str(folder / "data/tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment = image | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HERE": str(ROOT),
            "AS": USER,
            "NEEDED": "".join(f"{path}\n" for path in shut),
            "CLOSED": "".join(f"{path}\n" for path in {closed(path) for path in shut}),
            "STAGE": str(folder / "stage"),
            "BUSHEL_DATABASE_URL_FILE": str(folder / "database_url"),
            "BUSHEL_BROKER_URL_FILE": str(folder / "broker_url"),
            "BUSHEL_DATA": str(folder / "data"),
            "BUSHEL_STORE_URL": f"file://{folder}/files",
            "BUSHEL_REGISTRY": str(folder / "models.toml"),
        }

    def command(self, words: list[str]) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", *words]

    def start(self, name: str, words: list[str], **more: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "logs" / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self.command(words),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment | more,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        return self.processes[name]

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for log in sorted((self.folder / "logs").iterdir()):
            sys.stdout.write(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}\n")


@pytest.fixture
def confined() -> Iterator[Confined]:
    # Not pytest's own folder, which is closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="bushel-confined-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with Postgres(folder / "postgres", settings={"fsync": "off", "unix_socket_permissions": "0777"}) as postgres:
            url, sockets = postgres.url, postgres._sockets
            migrations.upgrade(url)
            # Both are its user's own; who may pass is asked for no password, as the embedded server has it.
            for passed in (folder / "postgres", sockets):
                passed.chmod(0o711)
            found = Confined(folder, url)
            try:
                yield found
            finally:
                found.close()
    finally:
        shutil.rmtree(folder)


def rights(pid: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    core = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max core"))
    wanted = {name: fields[name] for name in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs")}
    return wanted | {"user": fields["Uid"].split()[1], "core": core.split()[4]}


def test_the_service_works_as_nobody_in_particular_on_a_read_only_system(confined: Confined) -> None:
    reach = subprocess.run(
        confined.command(["python", "-c", "import api.app, workers.tasks"]),
        env=confined.environment,
        cwd=confined.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "Permission denied" in reach.stderr or "No module named" in reach.stderr:
        pytest.skip(
            f"NOT CHECKED: another user may not read this working tree or its environment: {reach.stderr[-300:]}"
        )
    assert reach.returncode == 0, reach.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine = connect((confined.folder / "database_url").read_text())
    with sessions(engine).begin() as session:
        key = issue_key(session, name="test")
    engine.dispose()
    api = [word.replace("0.0.0.0:8765", f"127.0.0.1:{port}") for word in SERVICES["api"]["command"]]
    same = {name: SERVICES["api"]["environment"][name] for name in ("GUNICORN_CMD_ARGS", "BUSHEL_ALLOW_PLAIN_HTTP")}
    worker = SERVICES["worker-io"]["command"]

    started = [
        confined.start("api", api, **same),
        confined.start("worker", worker[: worker.index("-Q")]),
    ]

    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}, timeout=30
    ) as http:

        def answers() -> bool:
            assert [process.poll() for process in started] == [None, None]
            try:
                return http.get("/healthz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers, 120)
        uploaded = http.post(
            "/v1/files", files={"file": ("in.txt", b"one\ntwo\n" * 1000)}, data={"purpose": "batch"}
        ).json()
        made = http.post("/v1/jobs", json={"task": "translation", "model": "echo", "input_file_id": uploaded["id"]})
        assert made.status_code == 202, made.text
        path = f"/v1/jobs/{made.json()['id']}"
        eventually(lambda: http.get(path).json()["status"] == "completed", 120, every=0.2)
        assert http.get(f"{path}/audit").json()["ok"]
        assert len(http.get(f"{path}/results").content.splitlines()) == 2000

    nothing = "0" * 16
    expected = {"CapEff": nothing, "CapPrm": nothing, "CapBnd": nothing, "NoNewPrivs": "1", "user": USER, "core": "0"}
    assert [rights(process.pid) for process in started] == [expected, expected]
