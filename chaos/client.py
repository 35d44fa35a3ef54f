"""A client as it should be: it tries again what was not answered, with a key that makes that safe."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from chaos.errors import ChaosFailed
from chaos.journal import Journal, Promise
from chaos.stack import Stack

_PATIENCE_SECONDS = 180.0
_AGAIN = frozenset({429, 500, 502, 503, 504, 507})
_PAUSE_SECONDS = 0.2


class Client:
    """Submits and reads over HTTP. `refusals` counts the answers and broken connections that were tried again."""

    def __init__(self, stack: Stack, journal: Journal, patience: float = _PATIENCE_SECONDS) -> None:
        self._stack, self._journal, self._patience = stack, journal, patience
        self.refusals: dict[str, int] = {}

    @property
    def internal_errors(self) -> int:
        """Answers of 500. They are tried again, so that the scenario goes on, and are to be told."""
        return self.refusals.get("500", 0)

    def submit(self, model: str, lines: list[str], expected: list[str] | None = None, **fields: Any) -> Promise:
        """Upload the lines as a text file and submit them; noted once the service has said 202."""
        mark = uuid.uuid4().hex[:12]
        inputs, right = self._written(mark, lines, lines if expected is None else expected)
        body = {"model": model, "task": "translation", "format": {"type": "txt"}, "on_error": "skip", **fields}
        body["input_file_id"] = self.upload(inputs)
        return self._promised(mark, body, inputs, right)

    def submit_inline(self, model: str, lines: list[str]) -> Promise:
        """Submit the lines in the request itself; noted once the service has said 202."""
        mark = uuid.uuid4().hex[:12]
        inputs, right = self._written(mark, lines, lines)
        return self._promised(mark, {"model": model, "task": "translation", "inputs": lines}, inputs, right)

    def _written(self, mark: str, lines: list[str], expected: list[str]) -> tuple[Path, Path]:
        inputs, right = self._stack.folder / f"{mark}.in.txt", self._stack.folder / f"{mark}.out.txt"
        inputs.write_text("".join(f"{line}\n" for line in lines))
        right.write_text("".join(f"{line}\n" for line in expected))
        return inputs, right

    def _promised(self, mark: str, body: dict[str, Any], inputs: Path, right: Path) -> Promise:
        job = self.asked("POST", "/v1/jobs", json=body, headers={"idempotency-key": mark}).json()
        promise = Promise(job["id"], str(inputs), str(right))
        self._journal.note(promise)
        return promise

    def upload(self, path: Path) -> str:
        # Trying this again may leave a file that nobody uses, and never a wrong one.
        data = path.read_bytes()
        files = {"file": (path.name, data)}
        return str(self.asked("POST", "/v1/files", files=files, data={"purpose": "batch"}).json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.asked("GET", f"/v1/jobs/{job_id}").json()
        return found

    def asked(self, method: str, path: str, **how: Any) -> httpx.Response:
        """The first answer that is not an excuse; ChaosFailed for a refusal, or when none came in time."""
        answer = self.persistently(lambda: self._stack.http.request(method, path, **how), f"{method} {path}")
        if answer.is_error:
            raise ChaosFailed(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer

    def persistently(self, ask: Callable[[], httpx.Response], what: str) -> httpx.Response:
        deadline = time.monotonic() + self._patience
        while True:
            excuse = ""
            try:
                answer = ask()
                if answer.status_code not in _AGAIN:
                    return answer
                excuse = str(answer.status_code)
            except httpx.TransportError as exc:
                excuse = type(exc).__name__
            self.refusals[excuse] = self.refusals.get(excuse, 0) + 1
            if time.monotonic() > deadline:
                raise ChaosFailed(f"{what}: no answer in {self._patience:.0f} s, the last time {excuse}")
            time.sleep(_PAUSE_SECONDS)
