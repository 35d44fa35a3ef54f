"""NVIDIA Triton with its dynamic batcher, served by the peers' interpreter and asked over HTTP."""

import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Any

from benchmarks.decoding import Decoding
from benchmarks.service import BenchmarkFailed

# A request a text, so many at once: what the dynamic batcher is for. It waits so long for a batch to fill up.
CLIENTS, DELAY_MICROSECONDS = 64, 5_000
_START_SECONDS = 150.0
_PATH = "/v2/models/translation/infer"


class DoesNotRun(Exception):
    """Triton did not start here; the message says what it said."""


class Triton:
    """A client of a running server: threads with a kept connection each."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._mine = threading.local()

    def translate(self, lines: Sequence[str], decoding: Decoding) -> list[str]:
        """How outputs are searched for was said when the server started."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(self._ask, lines))

    def _ask(self, line: str) -> str:
        if not hasattr(self._mine, "connection"):
            self._mine.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        connection: http.client.HTTPConnection = self._mine.connection
        text = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [line]}
        connection.request("POST", _PATH, json.dumps({"inputs": [text]}).encode(), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise BenchmarkFailed(f"Triton: {answer.status} {content[:300].decode(errors='replace')}")
        [output] = json.loads(content)["outputs"]
        return str(output["data"][0])


@contextmanager
def triton(python: Path, about: dict[str, Any], log: Path) -> Iterator[Triton]:
    """DoesNotRun, with the end of its log, when the server does not come up here."""
    port = _free_ports()
    said = about | {"port": port, "batch": CLIENTS, "delay_microseconds": DELAY_MICROSECONDS}
    script = Path(__file__).with_name("triton_server.py")
    with log.open("wb") as out:
        # In a session of its own: what it starts is ended with it.
        process = Popen([python, script, json.dumps(said)], stdin=PIPE, stdout=PIPE, stderr=out, start_new_session=True)
    try:
        _wait_until_ready(process, log)
        yield Triton(port)
    finally:
        _stop(process)


def _wait_until_ready(process: "Popen[bytes]", log: Path) -> None:
    assert process.stdout is not None
    ready = threading.Event()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == b"ready":
                ready.set()

    threading.Thread(target=listen, daemon=True).start()
    waited = 0.0
    while not ready.wait(0.5):
        waited += 0.5
        if process.poll() is not None or waited > _START_SECONDS:
            raise DoesNotRun(_reason(log, process.poll()))


def _reason(log: Path, status: int | None) -> str:
    """Its last error in one line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    end = f"it ended with status {status}" if status is not None else f"it was not ready after {_START_SECONDS:.0f} s"
    return f"{end}: {(errors or lines or ['it said nothing'])[-1][:300]}"


def _stop(process: "Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(20)
    except TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports() -> int:
    """The first of three in a row that nobody has."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            try:
                for after in (port + 1, port + 2):
                    with socket.socket() as other:
                        other.bind(("127.0.0.1", after))
            except (OSError, OverflowError):
                continue
            return port
