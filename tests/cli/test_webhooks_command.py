"""`bushel webhooks` against the real API."""

import json

import pytest

from cli.main import run
from db.session import Sessions
from tests.conftest import LiveAPI
from tests.ledger import Ledger
from tests.receiver import Receiver
from workers.delivery import Delivery
from workers.outbound import Outbound

Captured = pytest.CaptureFixture[str]
URL = "https://hooks.example/in"


@pytest.fixture(autouse=True)
def _target(api: LiveAPI, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSHEL_URL", api.url)
    monkeypatch.setenv("BUSHEL_API_KEY", key)


def listed(capfd: Captured, *arguments: str) -> list[dict[str, object]]:
    capfd.readouterr()
    assert run(["webhooks", *arguments, "--json"]) == 0
    return list(json.loads(capfd.readouterr().out))


def test_a_webhook_is_created_with_its_secret_on_standard_output_and_listed_without_it(capfd: Captured) -> None:
    assert run(["webhooks", "create", URL, "--event", "job.*", "--description", "mine"]) == 0

    printed = capfd.readouterr()
    secret = printed.out.strip()
    assert secret.startswith("whsec_") and "\n" not in secret
    [webhook] = listed(capfd, "list")
    assert (webhook["url"], webhook["events"], webhook["description"]) == (URL, ["job.*"], "mine")
    assert str(webhook["id"]) in printed.err
    assert run(["webhooks", "list"]) == 0
    shown = capfd.readouterr().out
    assert str(webhook["id"]) in shown and URL in shown and "ok" in shown and secret not in shown


def test_a_rotated_secret_is_another_one(capfd: Captured) -> None:
    run(["webhooks", "create", URL])
    first = capfd.readouterr().out
    [webhook] = listed(capfd, "list")

    assert run(["webhooks", "rotate", str(webhook["id"])]) == 0

    assert capfd.readouterr().out != first


def test_a_test_event_is_sent_looked_at_and_sent_again(capfd: Captured, ledger: Ledger, sessions: Sessions) -> None:
    run(["webhooks", "create", URL])
    [webhook] = listed(capfd, "list")
    id = str(webhook["id"])
    with Receiver() as receiver:
        ledger.run("UPDATE webhooks SET url = :url", url=receiver.url)
        assert run(["webhooks", "test", id]) == 0
        delivery_id = capfd.readouterr().out.strip()
        Delivery(sessions, Outbound(allow_private=True)).run()
        assert run(["webhooks", "redeliver", id, delivery_id]) == 0
        again = capfd.readouterr().out.strip()

    [waiting, sent] = listed(capfd, "deliveries", id)
    assert (waiting["id"], waiting["state"], sent["id"], sent["state"]) == (again, "pending", delivery_id, "delivered")
    assert [row["id"] for row in listed(capfd, "deliveries", id, "--state", "delivered")] == [delivery_id]
    assert run(["webhooks", "deliveries", id]) == 0
    shown = capfd.readouterr().out
    assert delivery_id in shown and "webhook.test" in shown and "200" in shown


def test_a_webhook_is_disabled_enabled_and_deleted(capfd: Captured) -> None:
    run(["webhooks", "create", URL])
    [webhook] = listed(capfd, "list")
    id = str(webhook["id"])

    assert run(["webhooks", "disable", id]) == 0
    assert listed(capfd, "list")[0]["enabled"] is False
    assert run(["webhooks", "test", id]) == 2
    assert "enable it first" in capfd.readouterr().err
    assert run(["webhooks", "enable", id]) == 0
    assert listed(capfd, "list")[0]["enabled"] is True
    assert run(["webhooks", "delete", id]) == 0
    assert listed(capfd, "list") == []


def test_a_url_that_may_not_be_used_is_one_line(capfd: Captured) -> None:
    assert run(["webhooks", "create", "https://127.0.0.1/"]) == 2

    err = capfd.readouterr().err
    assert "leads to 127.0.0.1" in err and len(err.splitlines()) == 1
