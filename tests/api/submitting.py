"""Jobs of the tests: submitted over HTTP, and run by hand."""

from typing import Any

import httpx

from db.recording import record
from tests.ledger import Ledger

JOB = {"task": "translation", "inputs": ["one", {"custom_id": "b", "text": "two"}]}


def submit(client: httpx.Client, **changes: Any) -> httpx.Response:
    return client.post("/v1/jobs", json={**JOB, **changes})


def problems(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 400, answer.text
    return {each["param"]: each["code"] for each in answer.json()["error"]["details"]}


def upload(client: httpx.Client, data: bytes = b"one\ntwo\n", name: str = "in.txt") -> str:
    return str(client.post("/v1/files", data={"purpose": "batch"}, files={"file": (name, data)}).json()["id"])


def run(ledger: Ledger, job_id: str, fail: int = 0) -> None:
    """Ingest the job and run its one chunk."""
    assert ledger.ingest(job_id)
    claim = ledger.claim(job_id)
    assert claim is not None
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim, fail))
