"""Every documented limit, one below it, at it and one above it: who asks for too much is told how much may be."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from api.config import APISettings
from api.files import MAX_LIFETIME
from api.submission import MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE
from db import keys, quotas
from db.doorbell import RecordingDoorbell
from db.inputs import MAX_CUSTOM_ID, MAX_MESSAGES, MAX_REFERENCE_CHARS, MAX_REFERENCES, MAX_TEXT
from db.keys import MOST_KEYS
from db.quotas import Quota
from db.session import Sessions, connect
from db.session import sessions as sessions_of
from db.targets import MAX_URL
from db.webhooks import MOST_WEBHOOKS
from models.params import MAX_STOP_CHARS, MAX_STOPS
from tests.conftest import NO_BROKER, REGISTRY, fresh_database, served

Ask = Callable[[httpx.Client, int], httpx.Response]


@dataclass(frozen=True)
class Limit:
    """`ask` for so much; `most` is accepted, and what is refused has the limit in its body, with or without commas."""

    name: str
    most: int
    ask: Ask
    status: int = 400
    settings: dict[str, object] = field(default_factory=dict)


def job(**body: object) -> dict[str, object]:
    return {"task": "translation", "inputs": ["one"], **body}


def as_job(make: Callable[[int], dict[str, object]]) -> Ask:
    return lambda client, size: client.post("/v1/jobs", json=make(size))


def chat(**params: object) -> dict[str, object]:
    return {"task": "generation", "inputs": ["one"], "params": params}


def to(path: str, make: Callable[[int], dict[str, object]]) -> Ask:
    return lambda client, size: client.post(path, json=make(size))


def hook(**fields: object) -> dict[str, object]:
    return {"url": "https://hooks.example/", **fields}


def upload(**fields: object) -> dict[str, object]:
    return {"bytes": 3, "filename": "a.txt", "mime_type": "text/plain", "purpose": "batch", **fields}


def rotated(client: httpx.Client, seconds: int) -> httpx.Response:
    key_id = client.post("/v1/keys", json={}).json()["id"]
    return client.post(f"/v1/keys/{key_id}/rotate", json={"grace_seconds": seconds})


def living(client: httpx.Client, seconds: int) -> httpx.Response:
    life = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(seconds)}
    return client.post("/v1/files", files={"file": ("a", b"x")}, data={"purpose": "batch", **life})


def message_batch(client: httpx.Client, characters: int) -> httpx.Response:
    params = {"model": "echo-chat", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]}
    body = {"requests": [{"custom_id": "c" * characters, "params": params}]}
    return client.post("/v1/messages/batches", json=body)


def under_key(client: httpx.Client, characters: int) -> httpx.Response:
    return client.post("/v1/jobs", json=job(), headers={"Idempotency-Key": "k" * characters})


# These leave the service as it was, so they can all be asked of one.
ASKED = (
    Limit("custom_id", MAX_CUSTOM_ID, as_job(lambda n: job(inputs=[{"custom_id": "c" * n, "text": "a"}]))),
    Limit("characters of a text", MAX_TEXT, as_job(lambda n: job(inputs=["a" * n]))),
    Limit(
        "messages",
        MAX_MESSAGES,
        as_job(lambda n: chat() | {"inputs": [{"messages": [{"role": "user", "content": "a"}] * n}]}),
    ),
    Limit("references", MAX_REFERENCES, as_job(lambda n: job(inputs=[{"text": "a", "reference": ["b"] * n}]))),
    Limit("reference", MAX_REFERENCE_CHARS, as_job(lambda n: job(inputs=[{"text": "a", "reference": "b" * n}]))),
    Limit("metadata", MAX_METADATA, as_job(lambda n: job(metadata={str(key): "" for key in range(n)}))),
    Limit("metadata key", MAX_METADATA_KEY, as_job(lambda n: job(metadata={"k" * n: "v"}))),
    Limit("metadata value", MAX_METADATA_VALUE, as_job(lambda n: job(metadata={"k": "v" * n}))),
    Limit("stop strings", MAX_STOPS, as_job(lambda n: chat(stop=[str(stop) for stop in range(n)]))),
    Limit("stop string", MAX_STOP_CHARS, as_job(lambda n: chat(stop=["s" * n]))),
    Limit("max_new_tokens of the model", 512, as_job(lambda n: chat(max_new_tokens=n))),
    Limit("n", 16, as_job(lambda n: chat(n=n, temperature=1))),
    Limit("num_beams", 16, as_job(lambda n: job(params={"num_beams": n}))),
    Limit("top_k", 10_000, as_job(lambda n: job(params={"top_k": n, "temperature": 1}))),
    Limit("priority", 100, as_job(lambda n: job(priority=n))),
    Limit("completion_window", 365, as_job(lambda n: job(completion_window=f"{n}d"))),
    Limit("Idempotency-Key", 255, under_key),
    Limit("page of a list", 100, lambda client, n: client.get("/v1/jobs", params={"limit": n})),
    Limit("page of files", 10_000, lambda client, n: client.get("/v1/files", params={"limit": n})),
    Limit("page of message batches", 1_000, lambda client, n: client.get("/v1/messages/batches", params={"limit": n})),
    Limit("custom_id of a message batch", 64, message_batch),
    Limit("url of a webhook", MAX_URL, to("/v1/webhooks", lambda n: hook(url=f"https://h.example/{'p' * (n - 18)}"))),
    Limit("description of a webhook", 500, to("/v1/webhooks", lambda n: hook(description="d" * n))),
    Limit("name of a key", 100, to("/v1/keys", lambda n: {"name": "n" * n})),
    Limit("life of a key", 3_650 * 86_400, to("/v1/keys", lambda n: {"expires_in_seconds": n})),
    Limit("grace of a rotation", 30 * 86_400, rotated),
    Limit("name of an upload", 1_000, to("/v1/uploads", lambda n: upload(filename="f" * n))),
    Limit("type of an upload", 255, to("/v1/uploads", lambda n: upload(mime_type="m" * n))),
    Limit("life of a file", MAX_LIFETIME, living),
)


def padded(client: httpx.Client, size: int) -> httpx.Response:
    body = b'{"task": "translation", "inputs": ["one"]}'
    return client.post("/v1/jobs", content=body.ljust(size), headers={"content-type": "application/json"})


# These are the operator's to set.
SET = (
    Limit("BUSHEL_MAX_REQUEST_BYTES", 2_000, padded, 413, {"max_request_bytes": 2_000}),
    Limit("BUSHEL_MAX_INLINE_INPUTS", 7, as_job(lambda n: job(inputs=["a"] * n)), 400, {"max_inline_inputs": 7}),
    Limit(
        *("BUSHEL_MAX_UPLOAD_BYTES", 5_000, to("/v1/uploads", lambda n: upload(bytes=n)), 413),
        {"max_upload_bytes": 5_000},
    ),
)


@pytest.fixture(scope="module")
def edges(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One API for all that can be asked of one."""
    folder: Path = tmp_path_factory.mktemp("edges")
    registry = folder / "registry.toml"
    registry.write_text(REGISTRY)
    with fresh_database(postgres) as url:
        engine = connect(url, application="tests")
        with sessions_of(engine).begin() as session:
            key = keys.issue_key(session, "default", "tests")
        engine.dispose()
        settings = APISettings(database_url=url, broker_url=NO_BROKER, data=folder, registry=registry, min_free_bytes=0)
        with served(settings, RecordingDoorbell()) as api, api.client(key) as client:
            yield client


@pytest.mark.parametrize("limit", ASKED, ids=lambda limit: limit.name)
def test_a_limit_is_where_it_is_said_to_be(edges: httpx.Client, limit: Limit) -> None:
    check(edges, limit)


@pytest.mark.parametrize("limit", SET, ids=lambda limit: limit.name)
def test_a_limit_that_is_set_is_where_it_was_set(settings: APISettings, key: str, limit: Limit) -> None:
    with served(settings.model_copy(update=limit.settings), RecordingDoorbell()) as api, api.client(key) as client:
        check(client, limit)


def check(client: httpx.Client, limit: Limit) -> None:
    for size in (limit.most - 1, limit.most):
        answer = limit.ask(client, size)
        assert answer.is_success, (size, answer.text[:500])
    refused = limit.ask(client, limit.most + 1)

    assert refused.status_code == limit.status, refused.text[:500]
    assert str(limit.most) in refused.text or f"{limit.most:,}" in refused.text, refused.text[:500]


# What fills up: one less than may be, then the last one, then one more.


def of_size(client: httpx.Client, size: int) -> httpx.Response:
    return client.post("/v1/files", files={"file": ("a", b"x" * size)}, data={"purpose": "batch"})


def of_items(client: httpx.Client, count: int) -> httpx.Response:
    return client.post("/v1/jobs", json=job(inputs=["a"] * count))


def of_jobs(client: httpx.Client, count: int) -> httpx.Response:
    return [client.post("/v1/jobs", json=job()) for _ in range(count)][-1]


def of_keys(client: httpx.Client, count: int) -> httpx.Response:
    return [client.post("/v1/keys", json={}) for _ in range(count)][-1]


def of_webhooks(client: httpx.Client, count: int) -> httpx.Response:
    return [client.post("/v1/webhooks", json=hook()) for _ in range(count)][-1]


@pytest.mark.parametrize(
    ("quota", "most", "add", "status"),
    [
        pytest.param(Quota.OPEN_JOBS, 3, of_jobs, 429, id="open jobs"),
        pytest.param(Quota.QUEUED_ITEMS, 9, of_items, 429, id="queued items"),
        # An input of one letter is one token.
        pytest.param(Quota.QUEUED_TOKENS, 9, of_items, 429, id="queued tokens"),
        pytest.param(Quota.STORED_BYTES, 1_000, of_size, 429, id="stored bytes"),
        # One is the test's own.
        pytest.param(None, MOST_KEYS - 1, of_keys, 409, id="keys"),
        pytest.param(None, MOST_WEBHOOKS, of_webhooks, 409, id="webhooks"),
    ],
)
def test_what_fills_up_takes_exactly_as_much_as_it_may(
    client: httpx.Client, sessions: Sessions, quota: Quota | None, most: int, add: Ask, status: int
) -> None:
    if quota is not None:
        with sessions.begin() as session:
            quotas.set_limits(session, "default", {quota: most})

    assert add(client, most - 1).is_success
    assert add(client, 1).is_success
    refused = add(client, 1)

    assert refused.status_code == status, refused.text
    named = most if quota is not None else MOST_KEYS if most == MOST_KEYS - 1 else most
    assert str(named) in refused.text or f"{named:,}" in refused.text, refused.text


# Where a list goes on is said by clients too.

LISTS = {
    "/v1/jobs": "after",
    "/v1/files": "after",
    "/v1/batches": "after",
    "/v1/webhooks": "after",
    "/v1/keys": "after",
    "/v1/audit-log": "after",
    "/v1/messages/batches": "after_id",
}
FORGED = (
    "",
    "x",
    "\0",
    "-1",
    "9" * 40,
    "job_",
    "job_zzzzzzzzz0000000000000000",
    "job_0mgcxk2l9h4t8v2c6y0q1w5r3",
    "file-0mgcxk2l9h4t8v2c6y0q1w5r3",
    "JOB_0MGCXK2L9H4T8V2C6Y0Q1W5R3",
    "job_0mgcxk2l9h4t8v2c6y0q1w5r3\n",
    "job_0mgcxk2l9h4t8v2c6y0q1w5r3' OR '1'='1",
    "job_%",
    "🙂" * 100,
    "../../etc/passwd",
    "x" * 10_000,
)


@pytest.mark.parametrize("path", LISTS)
def test_a_forged_cursor_is_refused_or_leads_nowhere(edges: httpx.Client, path: str) -> None:
    for forged in FORGED:
        answer = edges.get(path, params={LISTS[path]: forged})

        assert answer.status_code in (200, 400), (forged, answer.text[:300])
        if answer.status_code == 400:
            assert LISTS[path] in answer.text, (forged, answer.text[:300])


@pytest.mark.parametrize("order", ["input", "finished"])
@pytest.mark.parametrize("after", ["", "x", "-2", "1.5", "1e3", "\0", "0x1", str(2**31), str(2**63), "9" * 40])
def test_a_forged_place_in_results_is_refused_or_leads_nowhere(edges: httpx.Client, order: str, after: str) -> None:
    job_id = edges.post("/v1/jobs", json=job()).json()["id"]

    answer = edges.get(f"/v1/jobs/{job_id}/results", params={"order": order, "after": after, "limit": 10})

    assert answer.status_code in (200, 400), answer.text
    assert (answer.status_code == 200 and answer.content == b"") or answer.json()["error"]["param"] == "after"
