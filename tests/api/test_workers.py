"""Workers and queues: what everybody may see of them, and what only the owner of the work."""

from typing import Any

import httpx
import msgspec

from db.workers import Presence, beat
from tests.ledger import Ledger

ACTIVITY = {
    "busy": 0.5,
    "memory_bytes": 1000,
    "device_memory_bytes": None,
    "models": {"echo": {"load_seconds": 0.25, "loaded_at": 1_790_000_000, "tokens_per_second": 12.5}},
    "running": {"chunk": 987_654_321_012, "model": "echo", "since": 1_790_000_002, "items": 7},
}


def present(ledger: Ledger, id: str = "worker", **said: Any) -> None:
    with ledger.sessions.begin() as session:
        beat(session, Presence(id, "host", 1, "cpu", "0", ["echo"], **said))


def waiting(client: httpx.Client, ledger: Ledger, inputs: int) -> str:
    """The id of a job whose items wait for a worker."""
    texts = [f"text {number}" for number in range(inputs)]
    job_id = client.post("/v1/jobs", json={"task": "translation", "inputs": texts}).json()["id"]
    ledger.ingest(job_id)
    return str(job_id)


def only(client: httpx.Client, path: str, id: str) -> dict[str, Any]:
    [found] = [each for each in client.get(path).json()["data"] if each["id"] == id]
    return dict(found)


def test_a_worker_is_shown_with_its_device_its_models_and_what_it_does(client: httpx.Client, ledger: Ledger) -> None:
    present(ledger, loaded=["echo"], activity=ACTIVITY)

    worker = only(client, "/v1/workers", "worker")

    assert (worker["alive"], worker["device"], worker["busy"], worker["memory_bytes"]) == (True, "cpu", 0.5, 1000)
    assert worker["models"] == [
        {
            "id": "echo",
            "loaded": True,
            "loaded_at": 1_790_000_000,
            "load_seconds": 0.25,
            "tokens_per_second": 12.5,
            "unavailable_reason": None,
        }
    ]
    assert worker["running"] == {"model": "echo", "items": 7, "since": 1_790_000_002}


def test_a_worker_that_says_nothing_of_itself_is_shown_too(client: httpx.Client, ledger: Ledger) -> None:
    present(ledger, unavailable={"echo": "no weights"})

    worker = only(client, "/v1/workers", "worker")

    assert (worker["busy"], worker["running"], worker["memory_bytes"]) == (None, None, None)
    [model] = worker["models"]
    assert (model["loaded"], model["unavailable_reason"]) == (False, "no weights")


def test_a_worker_that_went_silent_is_told_apart_and_comes_last(client: httpx.Client, ledger: Ledger) -> None:
    present(ledger, "a-lost", activity=ACTIVITY)
    ledger.run("UPDATE workers SET heartbeat_at = now() - interval '5 minutes'")
    present(ledger, "b-alive")

    first, last = client.get("/v1/workers").json()["data"]

    assert [(each["id"], each["alive"]) for each in (first, last)] == [("b-alive", True), ("a-lost", False)]
    # What it said to do then is not what it does now.
    assert last["running"] is None


def test_leases_are_told_one_by_one_to_the_owner_and_as_numbers_to_others(
    client: httpx.Client, stranger: httpx.Client, ledger: Ledger
) -> None:
    present(ledger, activity=ACTIVITY)
    job_id = waiting(client, ledger, 3)
    assert ledger.claim(job_id, owner="worker") is not None

    own, foreign = (only(each, "/v1/workers", "worker")["leases"] for each in (client, stranger))

    assert (own["chunks"], own["items"]) == (foreign["chunks"], foreign["items"]) == (1, 3)
    [lease] = own["own"]
    assert (lease["job_id"], lease["items"], lease["attempt"]) == (job_id, 3, 1)
    assert lease["expires_at"] > lease["since"]
    assert foreign["own"] == []


def test_a_queue_counts_everybody_and_tells_what_is_ones_own(
    client: httpx.Client, stranger: httpx.Client, ledger: Ledger
) -> None:
    present(ledger, loaded=["echo"])
    ledger.run("INSERT INTO model_rates (model, tokens_per_second, output_per_input) VALUES ('echo', 10, 1)")
    mine = waiting(client, ledger, 3)
    waiting(stranger, ledger, 5)
    held = waiting(client, ledger, 2)
    assert ledger.claim(held) is not None
    paused = waiting(client, ledger, 4)
    client.post(f"/v1/jobs/{paused}/pause")

    queue, foreign = (only(each, "/v1/queues", "echo") for each in (client, stranger))

    assert (queue["jobs"], queue["items"], queue["chunks"]) == (2, 8, 2)
    assert (queue["running_items"], queue["leased_chunks"], queue["paused_items"]) == (2, 1, 4)
    assert (queue["workers"], queue["loaded"]) == (1, 1)
    tokens = queue["tokens"]
    assert queue["clear_seconds"] == round(tokens * 2 / 10, 1)
    assert queue["oldest_at"] == client.get(f"/v1/jobs/{mine}").json()["in_progress_at"]
    assert queue["own"] == queue["own"] | {"jobs": 1, "items": 3, "running_items": 2}
    assert foreign["own"] == foreign["own"] | {"jobs": 1, "items": 5, "running_items": 0}
    assert queue["own"]["tokens"] + foreign["own"]["tokens"] == tokens
    assert {name: foreign[name] for name in ("jobs", "items", "tokens")} == {
        name: queue[name] for name in ("jobs", "items", "tokens")
    }


def test_an_empty_queue_says_so_and_a_model_that_is_gone_keeps_its_queue(client: httpx.Client, ledger: Ledger) -> None:
    job_id = waiting(client, ledger, 2)
    ledger.run("UPDATE chunks SET model = 'gone' WHERE job_id = :job", job=job_id)

    found = {each["id"]: each for each in client.get("/v1/queues").json()["data"]}

    assert list(found) == ["echo", "echo-chat", "echo-many", "gone"]
    empty = found["echo-many"]
    assert (empty["jobs"], empty["items"], empty["oldest_at"], empty["clear_seconds"]) == (0, 0, None, None)
    assert (found["gone"]["items"], found["gone"]["workers"]) == (2, 0)


def test_nothing_of_another_tenant_is_in_either(client: httpx.Client, stranger: httpx.Client, ledger: Ledger) -> None:
    present(ledger, activity=ACTIVITY)
    held, left = waiting(client, ledger, 3), waiting(client, ledger, 2)
    assert ledger.claim(held, owner="worker") is not None

    told = msgspec.json.encode([stranger.get(path).json() for path in ("/v1/workers", "/v1/queues")]).decode()

    assert held not in told and left not in told and ledger.tenant not in told
    # Nor which chunk it is, that a worker says it runs.
    assert "987654321012" not in told
