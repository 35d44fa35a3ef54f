"""Events from real processes to a real receiver, also when a process is killed in the middle."""

import threading
from collections.abc import Iterator

import pytest
import standardwebhooks
from sqlalchemy import text

from db.session import connect
from tests.receiver import Received, Receiver
from tests.stack.conftest import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def subscribed(stack: Stack, url: str) -> str:
    """The secret of a webhook for all jobs."""
    answer = stack.http.post("/v1/webhooks", json={"url": url, "events": ["job.*"]})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


def make_due(stack: Stack) -> None:
    """Let the dead process's time pass now."""
    engine = connect(stack.environment["BUSHEL_DATABASE_URL"], pool=2)
    with engine.begin() as connection:
        connection.execute(text("UPDATE deliveries SET due_at = now() WHERE state = 'pending'"))
    engine.dispose()


def test_a_job_that_ends_is_told_of_at_once(stack: Stack, receiver: Receiver) -> None:
    stack.environment["BUSHEL_WEBHOOK_PRIVATE_ADDRESSES"] = "true"
    stack.start_api()
    # Nobody looks into the ledger by himself in this test: it is the ring that makes the sender send.
    stack.start_worker(BUSHEL_POLL_SECONDS="600")
    secret = subscribed(stack, receiver.url)
    job_id = stack.submit(inputs=["one", "two"])

    [request] = eventually(lambda: list(receiver.requests), 60)

    event = standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))
    assert (event["type"], event["data"]["id"], event["data"]["counts"]["succeeded"]) == ("job.completed", job_id, 2)
    assert request.headers["user-agent"].startswith("Bushel/")


def test_a_sender_killed_while_the_receiver_thinks_leaves_the_event_to_the_next(
    stack: Stack, receiver: Receiver
) -> None:
    release = threading.Event()
    receiver.when_asked = lambda request: bool(release.wait(60)) and None
    stack.environment["BUSHEL_WEBHOOK_PRIVATE_ADDRESSES"] = "true"
    stack.start_api()
    stack.start_worker("first")
    secret = subscribed(stack, receiver.url)
    stack.finished(stack.submit(inputs=["one"]))
    eventually(lambda: receiver.requests, 30)

    stack.kill("first")
    release.set()
    make_due(stack)
    stack.start_worker("second")

    def delivered() -> list[Received]:
        webhook = stack.http.get("/v1/webhooks").json()["data"][0]["id"]
        [delivery] = stack.http.get(f"/v1/webhooks/{webhook}/deliveries").json()["data"]
        return list(receiver.requests) if delivery["state"] == "delivered" else []

    first, second = eventually(delivered, 60)
    assert first.body == second.body and first.headers["webhook-id"] == second.headers["webhook-id"]
    standardwebhooks.Webhook(secret).verify(second.body, dict(second.headers))
