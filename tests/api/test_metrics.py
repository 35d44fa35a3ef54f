"""What the API tells Prometheus of the service: of all tenants together, and without whose."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.config import APISettings
from db.doorbell import RecordingDoorbell
from tests.conftest import NO_BROKER, LiveAPI, served
from tests.following import following
from tests.ledger import Ledger
from tests.waiting import eventually

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@contextmanager
def public(settings: APISettings, **changes: object) -> Iterator[LiveAPI]:
    with served(settings.model_copy(update={"metrics_public": True, **changes}), RecordingDoorbell()) as api:
        yield api


def scraped(client: httpx.Client) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def test_the_operator_may_let_everybody_who_reaches_it_scrape(settings: APISettings) -> None:
    with public(settings) as api, api.client(None) as nobody:
        assert value(scraped(nobody), "bushel_database_reachable") == 1
        # And nothing else.
        assert nobody.get("/v1/jobs").status_code == 401


def test_the_backlog_is_that_of_all_tenants(
    api: LiveAPI, client: httpx.Client, stranger: httpx.Client, ledger: Ledger
) -> None:
    ids = []
    for each in (client, stranger):
        body = {"task": "translation", "model": "echo", "inputs": ["one two", "three four five"]}
        ids.append(each.post("/v1/jobs", json=body).json()["id"])
    for job_id in ids:
        ledger.ingest(job_id)
    assert client.post(f"/v1/jobs/{ids[0]}/pause").status_code == 200

    found = scraped(client)

    assert value(found, "bushel_queue_jobs", model="echo") == 2
    assert value(found, "bushel_queue_items", model="echo") == 4
    assert (value(found, "bushel_queue_tokens", model="echo") or 0) > 4
    assert value(found, "bushel_queue_chunks", model="echo") == 2
    assert value(found, "bushel_jobs_open", status="in_progress") == 2
    assert (value(found, "bushel_queue_oldest_seconds", model="echo") or 0) > 0
    assert value(found, "bushel_workers_alive") == 0


def test_jobs_that_are_all_paused_wait_for_nobody(client: httpx.Client, ledger: Ledger) -> None:
    job_id = client.post("/v1/jobs", json={"task": "translation", "model": "echo", "inputs": ["one"]}).json()["id"]
    ledger.ingest(job_id)
    client.post(f"/v1/jobs/{job_id}/pause")

    assert value(scraped(client), "bushel_queue_oldest_seconds", model="echo") == 0


def test_a_scrape_in_an_outage_says_so(settings: APISettings) -> None:
    away = {"database_url": "postgresql+psycopg://bushel@127.0.0.1:1/none", "broker_url": NO_BROKER}
    with public(settings, **away) as api, api.client(None) as nobody:
        found = scraped(nobody)

    assert value(found, "bushel_database_reachable") == 0
    assert not [name for name, _ in found if name.startswith("bushel_queue")]


def test_what_a_client_writes_becomes_no_label(client: httpx.Client) -> None:
    client.request("BREW", "/v1/jobs/job_of_the_bittern")
    client.get("/bittern/of/the/marsh")
    client.get("/v1/jobs/job_of_the_bittern")

    found = scraped(client)

    assert (value(found, "bushel_http_requests_total", method="other", route="none", status="405") or 0) >= 1
    assert (value(found, "bushel_http_requests_total", method="GET", route="none", status="404") or 0) >= 1
    by_route = {"method": "GET", "route": "/v1/jobs/<job_id>"}
    assert (value(found, "bushel_http_requests_total", status="404", **by_route) or 0) >= 1
    assert not [labels for _, labels in found if "bittern" in str(labels)]


@pytest.mark.parametrize("status", [200, 404])
def test_no_request_stays_in_progress(client: httpx.Client, status: int) -> None:
    assert client.get("/v1/jobs" if status == 200 else "/v1/jobs/job_x").status_code == status

    # But the scrape itself.
    assert value(scraped(client), "bushel_http_requests_in_progress") == 1


def test_event_streams_are_counted_while_they_have_a_place(settings: APISettings, key: str, ledger: Ledger) -> None:
    def count() -> float | None:
        return value(scraped(client), "bushel_event_streams")

    with public(settings, max_streams=2) as api, api.client(key) as client:
        before = count()
        assert before is not None
        with following(client, "/v1/events"), following(client, f"/v1/jobs/{ledger.started(1)}/events"):
            assert count() == before + 2
            # One that is refused has none.
            assert client.get("/v1/events", headers={"accept": "text/event-stream"}).status_code == 429
            assert count() == before + 2
        # A thread of this server finds out that its client is gone when it writes to it.
        ledger.started(1)
        eventually(lambda: count() == before, 40)
