"""Webhooks over HTTP: made, changed, tried out, looked into; and never pointed where they must not."""

import json
from collections.abc import Iterator

import httpx
import pytest
import standardwebhooks

from api.config import APISettings
from db.cursors import is_id
from db.doorbell import DELIVER
from db.session import Sessions
from tests.conftest import LiveAPI
from tests.ledger import Ledger
from tests.receiver import Receiver
from workers.delivery import Delivery
from workers.outbound import Outbound

URL = "https://hooks.example/in"
BATCHES = ["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]
KEYS = {
    *("id", "object", "url", "events", "description", "enabled", "disabled_at", "disabled_reason", "failing_since"),
    *("previous_secret_expires_at", "created_at"),
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def made(client: httpx.Client, **fields: object) -> dict[str, object]:
    answer = client.post("/v1/webhooks", json={"url": URL} | fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def redirect(ledger: Ledger, webhook_id: object, url: str) -> None:
    """Point it at this machine, where the API would not let it."""
    ledger.run("UPDATE webhooks SET url = :url WHERE id = :id", url=url, id=webhook_id)


def test_a_webhook_is_made_with_a_secret_that_is_never_shown_again(client: httpx.Client) -> None:
    answer = client.post("/v1/webhooks", json={"url": URL, "description": "mine"})

    webhook = answer.json()
    assert answer.status_code == 201 and answer.headers["location"] == f"/v1/webhooks/{webhook['id']}"
    assert webhook.keys() == KEYS | {"secret"} and is_id(webhook["id"], "wh_")
    assert webhook["secret"].startswith("whsec_") and len(webhook["secret"]) == 50
    assert (webhook["events"], webhook["enabled"], webhook["description"]) == (BATCHES, True, "mine")
    secret = webhook.pop("secret")
    shown = [
        client.get(f"/v1/webhooks/{webhook['id']}"),
        client.get("/v1/webhooks"),
        client.patch(f"/v1/webhooks/{webhook['id']}", json={"description": "mine"}),
    ]
    assert all(secret not in answer.text for answer in shown)
    assert shown[0].json() == webhook == shown[1].json()["data"][0] == shown[2].json()


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://10.0.0.8/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0.0.0.0/",
        "https://[::ffff:10.0.0.1]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://017700000001/",
        "https://a:b@hooks.example/",
        "https://hooks.example/#x",
        "https://",
        "no url",
        "",
        "https://hooks.example/\u0000",
        "https://\u2603.example:port/",
    ],
)
def test_a_url_that_may_not_be_used_is_refused_when_it_is_said(client: httpx.Client, url: str) -> None:
    webhook = made(client)

    for answer in (
        client.post("/v1/webhooks", json={"url": url}),
        client.patch(f"/v1/webhooks/{webhook['id']}", json={"url": url}),
    ):
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == "url" and answer.json()["error"]["code"] == "invalid_url"
    assert len(client.get("/v1/webhooks").json()["data"]) == 1


def test_where_private_addresses_are_allowed_plain_http_and_this_machine_are_too(
    settings: APISettings, key: str
) -> None:
    from api.app import create_app
    from db.doorbell import RecordingDoorbell

    app = create_app(settings.model_copy(update={"webhook_private_addresses": True}), RecordingDoorbell())
    ask = app.test_client()

    def post(url: str) -> int:
        return ask.post("/v1/webhooks", json={"url": url}, headers={"authorization": f"Bearer {key}"}).status_code

    assert [post("http://127.0.0.1:9000/"), post("http://receiver.internal/"), post("http://10.1.1.1/")] == [201] * 3
    assert post("http://169.254.169.254/") == 400
    app.close()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "url"),
        ({"url": 1}, "url"),
        ({"url": URL, "events": []}, "events"),
        ({"url": URL, "events": ["batch.done"]}, "events.0"),
        ({"url": URL, "events": "job.*"}, "events"),
        ({"url": URL, "secret": "whsec_mine"}, "secret"),
        ({"url": URL, "description": "x" * 501}, "description"),
        ({"url": "https://hooks.example/" + "x" * 2048}, "url"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(client: httpx.Client, body: dict[str, object], param: str) -> None:
    answer = client.post("/v1/webhooks", json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("field", ["url", "events", "description", "enabled"])
def test_null_is_no_way_to_leave_a_field_as_it_is(client: httpx.Client, field: str) -> None:
    answer = client.patch(f"/v1/webhooks/{made(client)['id']}", json={field: None})

    assert answer.status_code == 400 and "leave it out" in answer.json()["error"]["message"]


def test_a_change_changes_what_it_names_and_nothing_else(client: httpx.Client) -> None:
    webhook = made(client)
    webhook.pop("secret")
    path = f"/v1/webhooks/{webhook['id']}"

    assert client.patch(path, json={}).json() == webhook
    assert client.patch(path, json={"events": ["job.*", "job.*"]}).json() == webhook | {"events": ["job.*"]}
    off = client.patch(path, json={"enabled": False}).json()
    assert not off["enabled"] and off["disabled_at"] and off["disabled_reason"] == "it was disabled by hand"
    assert client.patch(path, json={"enabled": False}).json() == off
    assert client.patch(path, json={"enabled": True}).json() == webhook | {"events": ["job.*"]}


def test_a_deleted_webhook_is_gone(client: httpx.Client) -> None:
    path = f"/v1/webhooks/{made(client)['id']}"

    assert client.delete(path).json() == {"id": path.rpartition("/")[2], "object": "webhook", "deleted": True}

    assert [client.get(path).status_code, client.delete(path).status_code] == [404, 404]
    assert client.get(path).json()["error"]["code"] == "webhook_not_found"


def test_webhooks_are_listed_page_by_page(client: httpx.Client) -> None:
    ids = [made(client)["id"] for _ in range(5)]

    first = client.get("/v1/webhooks", params={"limit": 3}).json()
    second = client.get("/v1/webhooks", params={"limit": 3, "after": first["last_id"]}).json()

    assert [row["id"] for row in first["data"] + second["data"]] == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_a_test_event_arrives_and_its_delivery_tells_how_it_went(
    api: LiveAPI, client: httpx.Client, ledger: Ledger, receiver: Receiver, sessions: Sessions
) -> None:
    webhook = made(client, events=["job.failed"])
    redirect(ledger, webhook["id"], receiver.url)

    answer = client.post(f"/v1/webhooks/{webhook['id']}/test")

    sent = answer.json()
    assert answer.status_code == 202 and (DELIVER,) in api.bell.rings
    assert (sent["state"], sent["attempts"], sent["log"], sent["event"]) == ("pending", 0, [], "webhook.test")
    assert Delivery(sessions, Outbound(allow_private=True)).run() == 1
    [request] = receiver.requests
    event = standardwebhooks.Webhook(str(webhook["secret"])).verify(request.body, dict(request.headers))
    assert event["type"] == "webhook.test" and event["data"] == {"id": webhook["id"]}
    [seen] = client.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["data"]
    assert (seen["id"], seen["state"], seen["attempts"]) == (sent["id"], "delivered", 1)
    assert seen["body"] == request.body.decode() and seen["event_id"] == request.headers["webhook-id"]
    assert (seen["next_attempt_at"], seen["log"][0]["status"]) == (None, 200)


def test_redelivery_is_a_delivery_of_its_own_with_the_same_event(
    api: LiveAPI, client: httpx.Client, ledger: Ledger, receiver: Receiver, sessions: Sessions
) -> None:
    path = f"/v1/webhooks/{made(client)['id']}"
    redirect(ledger, path.rpartition("/")[2], receiver.url)
    first = client.post(f"{path}/test").json()
    api.bell.rings.clear()

    answer = client.post(f"{path}/deliveries/{first['id']}/redeliver")

    second = answer.json()
    assert answer.status_code == 202 and api.bell.rings == [(DELIVER,)]
    assert second["id"] != first["id"]
    assert (second["event_id"], second["body"]) == (first["event_id"], first["body"])
    assert Delivery(sessions, Outbound(allow_private=True)).run() == 2
    assert len({request.body for request in receiver.requests}) == 1


def test_nothing_is_sent_to_a_disabled_webhook(client: httpx.Client) -> None:
    path = f"/v1/webhooks/{made(client)['id']}"
    delivery = client.post(f"{path}/test").json()
    client.patch(path, json={"enabled": False})

    answers = [client.post(f"{path}/test"), client.post(f"{path}/deliveries/{delivery['id']}/redeliver")]

    assert [answer.status_code for answer in answers] == [409, 409]
    assert answers[0].json()["error"]["code"] == "webhook_disabled"
    assert answers[0].headers["x-should-retry"] == "false"
    assert client.get(f"{path}/deliveries").json()["data"][0]["state"] == "failed"


def test_a_rotation_shows_a_new_secret_and_until_when_the_old_one_signs(client: httpx.Client) -> None:
    webhook = made(client)

    answer = client.post(f"/v1/webhooks/{webhook['id']}/rotate")

    rotated = answer.json()
    assert answer.status_code == 200 and rotated["secret"] != webhook["secret"]
    assert rotated["previous_secret_expires_at"] == pytest.approx(webhook["created_at"] + 86_400, abs=60)


def test_deliveries_are_listed_page_by_page_and_by_state(client: httpx.Client, ledger: Ledger) -> None:
    path = f"/v1/webhooks/{made(client)['id']}"
    ids = [client.post(f"{path}/test").json()["id"] for _ in range(5)]
    ledger.run("UPDATE deliveries SET state = 'delivered' WHERE id = ANY(:ids)", ids=ids[:2])

    first = client.get(f"{path}/deliveries", params={"limit": 3}).json()
    second = client.get(f"{path}/deliveries", params={"limit": 3, "after": first["last_id"]}).json()
    waiting = client.get(f"{path}/deliveries", params={"state": "pending"}).json()

    assert [row["id"] for row in first["data"] + second["data"]] == ids[::-1]
    assert [row["id"] for row in waiting["data"]] == ids[:1:-1]
    assert client.get(f"{path}/deliveries", params={"after": "nonsense"}).status_code == 400
    # Also one that is gone is a place to go on from.
    ledger.run("DELETE FROM deliveries WHERE id = :id", id=ids[2])
    rest = client.get(f"{path}/deliveries", params={"after": ids[2]}).json()
    assert [row["id"] for row in rest["data"]] == ids[1::-1]


def test_another_tenant_sees_and_does_nothing(client: httpx.Client, stranger: httpx.Client, ledger: Ledger) -> None:
    path = f"/v1/webhooks/{made(client)['id']}"
    delivery = client.post(f"{path}/test").json()
    before = ledger.rows("SELECT * FROM webhooks"), ledger.rows("SELECT * FROM deliveries")

    answers = [
        stranger.get(path),
        stranger.patch(path, json={"enabled": False}),
        stranger.delete(path),
        stranger.post(f"{path}/rotate"),
        stranger.post(f"{path}/test"),
        stranger.get(f"{path}/deliveries"),
        stranger.post(f"{path}/deliveries/{delivery['id']}/redeliver"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 7
    assert stranger.get("/v1/webhooks").json()["data"] == []
    assert (ledger.rows("SELECT * FROM webhooks"), ledger.rows("SELECT * FROM deliveries")) == before


def test_a_strangers_delivery_cannot_be_reached_through_ones_own_webhook(
    client: httpx.Client, stranger: httpx.Client
) -> None:
    foreign = client.post(f"/v1/webhooks/{made(client)['id']}/test").json()["id"]
    own = f"/v1/webhooks/{made(stranger)['id']}"

    answer = stranger.post(f"{own}/deliveries/{foreign}/redeliver")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "delivery_not_found")


def test_a_job_handed_in_over_http_is_told_of(
    client: httpx.Client, ledger: Ledger, receiver: Receiver, sessions: Sessions
) -> None:
    webhook = made(client, events=["job.*"])
    redirect(ledger, webhook["id"], receiver.url)
    job_id = client.post("/v1/jobs", json={"task": "translation", "inputs": ["a"], "metadata": {"k": "v"}}).json()["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    ledger.finalize(job_id)

    assert Delivery(sessions, Outbound(allow_private=True)).run() == 1

    event = json.loads(receiver.requests[0].body)
    assert (event["type"], event["data"]["id"], event["data"]["metadata"]) == ("job.cancelled", job_id, {"k": "v"})
