"""The cache over HTTP: asked for by the job, told in its usage, looked at and emptied by its tenant."""

from typing import Any

import httpx
import msgspec
import pytest

from db import jobs, keys
from db.session import Sessions
from tests.api.conftest import sdk
from tests.conftest import LiveAPI
from tests.ledger import Ledger, json_lines
from tests.waiting import eventually

TEXTS = ["one", "two words", "one"]


@pytest.fixture
def stranger_key(sessions: Sessions) -> str:
    """A key of another tenant."""
    with sessions.begin() as session:
        return keys.issue_key(session, "stranger", "tests")


def submitted(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={"task": "translation", "inputs": TEXTS, **fields})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def done(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        now = client.get(f"/v1/jobs/{job['id']}").json()
        return dict(now) if now["status"] == "completed" else {}

    return eventually(look, 60)


def results(client: httpx.Client, job: dict[str, Any]) -> list[Any]:
    lines = client.get(f"/v1/jobs/{job['id']}/results").content.splitlines()
    return [(found["custom_id"], found["output"]) for found in map(msgspec.json.decode, lines)]


def test_a_job_takes_what_an_earlier_one_made_and_says_so(stack: LiveAPI, key: str) -> None:
    with stack.client(key) as client:
        first = done(client, submitted(client, cache=True))
        assert client.get("/v1/cache").json() == {"object": "cache", "entries": 2, "has_more": False}

        second = done(client, submitted(client, cache=True))

        assert first["cache"] and second["cache"]
        assert results(client, second) == results(client, first)
        usage = {name: second["usage"][name] for name in second["usage"] if name != "device_seconds"}
        assert usage == {
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "same_items": 1,
            "cached_items": 2,
            "saved_input_tokens": 4,
            "saved_output_tokens": 4,
            "joules": None,
        }
        assert (first["usage"]["same_items"], first["usage"]["saved_input_tokens"]) == (1, 1)

        assert client.delete(f"/v1/jobs/{first['id']}").status_code == 200
        assert client.get("/v1/cache").json()["entries"] == 0


def test_a_tenant_empties_its_own_cache_and_the_log_says_so(
    stack: LiveAPI, key: str, ledger: Ledger, stranger_key: str
) -> None:
    with stack.client(key) as client, stack.client(stranger_key) as stranger:
        for each in (client, stranger):
            done(each, submitted(each, cache=True))

        assert client.delete("/v1/cache").json() == {"object": "cache", "cleared": 2}

        assert client.get("/v1/cache").json()["entries"] == 0 and stranger.get("/v1/cache").json()["entries"] == 2
        assert done(client, submitted(client, cache=True))["usage"]["cached_items"] == 0
        assert done(stranger, submitted(stranger, cache=True))["usage"]["cached_items"] == 2
    [entry] = ledger.rows("SELECT tenant_id, object, detail FROM audit_log WHERE action = 'cache.cleared'")
    assert (entry.tenant_id, entry.object, entry.detail) == (ledger.tenant, "cache", {"entries": 2})


def test_jobs_are_without_it_unless_they_say_so(client: httpx.Client) -> None:
    assert submitted(client)["cache"] is False
    refused = client.post("/v1/jobs", json={"task": "translation", "inputs": TEXTS, "cache": "yes"})

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "cache")


def test_a_clone_is_as_its_parent_unless_it_says_otherwise(client: httpx.Client) -> None:
    parent = submitted(client, cache=True)["id"]

    like, other = (client.post(f"/v1/jobs/{parent}/clone", json=body).json() for body in ({}, {"cache": False}))

    assert (like["cache"], other["cache"]) == (True, False)


def test_a_batch_takes_what_a_job_made(stack: LiveAPI, key: str, ledger: Ledger) -> None:
    with stack.client(key) as client, sdk(stack, key) as ai:
        done(client, submitted(client, cache=True, model="echo"))
        request = {"method": "POST", "url": "/v1/translations", "body": {"model": "echo", "input": "two words"}}
        lines = json_lines({"custom_id": "a", **request}, {"custom_id": "b", **request})
        file = ai.files.create(file=("in.jsonl", lines), purpose="batch")
        batch = ai.batches.create(
            input_file_id=file.id,
            endpoint="/v1/translations",  # type: ignore[arg-type]
            completion_window="24h",
            extra_body={"bushel": {"cache": True}},
        )

        eventually(lambda: ai.batches.retrieve(batch.id).status == "completed", 60)

        batch = ai.batches.retrieve(batch.id)
        extension = batch.model_dump()["bushel"]
        assert (extension["cache"], extension["cached_requests"], extension["same_requests"]) == (True, 1, 1)
        assert (extension["saved_input_tokens"], extension["saved_output_tokens"]) == (4, 4)
        assert batch.usage is not None and batch.usage.total_tokens == 0
        with ledger.sessions() as session:
            assert jobs.get(session, ledger.tenant, extension["job_id"]).cache
