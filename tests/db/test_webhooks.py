"""Webhooks: one event for every end of a job, signed, tried until it arrives, and never twice at once."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest
import standardwebhooks
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db import deliveries, jobs, keys, upkeep, webhooks
from db.deliveries import PAUSES, Attempt, Claim, pause
from db.doorbell import DELIVER, RecordingDoorbell
from db.errors import Conflict, NotFound
from db.ids import renamed
from db.recording import record
from db.session import Sessions
from db.states import DeliveryState
from db.webhooks import BATCH_EVENTS, Change
from tests.ledger import Ledger
from tests.receiver import Received, Receiver, Told
from tests.waiting import eventually
from workers.delivery import SENDERS, Delivery
from workers.loops import Loop
from workers.outbound import Outbound
from workers.reconcile import Reconciler

FOUR = ["completed", "failed", "expired", "cancelled"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def delivery(sessions: Sessions) -> Delivery:
    return Delivery(sessions, Outbound(allow_private=True, seconds=2))


def subscribe(ledger: Ledger, url: str, *events: str) -> webhooks.Secret:
    with ledger.sessions.begin() as session:
        return webhooks.create(session, ledger.tenant, url, events or BATCH_EVENTS)


def send_test(ledger: Ledger, webhook_id: str) -> str:
    with ledger.sessions.begin() as session:
        return webhooks.test(session, ledger.tenant, webhook_id).id


def run_through(ledger: Ledger, job_id: str) -> None:
    while claim := ledger.claim(job_id):
        with ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim))
    assert ledger.finalize(job_id)


def completed(ledger: Ledger, **fields: Any) -> str:
    job_id = ledger.started(2, **fields)
    run_through(ledger, job_id)
    return job_id


def failed(ledger: Ledger, **fields: Any) -> str:
    job_id = ledger.submit(b"", **fields)
    ledger.ingest(job_id)
    return job_id


def expired(ledger: Ledger, **fields: Any) -> str:
    job_id = ledger.started(2, expires_in=timedelta(hours=1), **fields)
    ledger.run("UPDATE jobs SET expires_at = now() - interval '1 s' WHERE id = :id", id=job_id)
    with ledger.sessions.begin() as session:
        upkeep.expire_jobs(session)
    assert ledger.finalize(job_id)
    return job_id


def cancelled(ledger: Ledger, **fields: Any) -> str:
    job_id = ledger.started(2, **fields)
    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, job_id)
    assert ledger.finalize(job_id)
    return job_id


ENDS: dict[str, Callable[..., str]] = {
    "completed": completed,
    "failed": failed,
    "expired": expired,
    "cancelled": cancelled,
}


def ended(ledger: Ledger, end: str, dialect: str) -> str:
    """A job of the dialect at that end. Its lines are read as any job's; only what it is called matters here."""
    job_id = ENDS[end].__call__(ledger) if dialect == "bushel" else _as_openai(ledger, end)
    assert ledger.job(job_id).status == end
    return job_id


def _as_openai(ledger: Ledger, end: str) -> str:
    lines = b"".join(_line(number) for number in range(2))
    fields: dict[str, Any] = {
        "task": "translation",
        "model": None,
        "dialect": "openai",
        "endpoint": "/v1/translations",
    }
    if end == "failed":
        lines = b"no json\n"
    if end == "expired":
        fields["expires_in"] = timedelta(hours=1)
    job_id = ledger.submit(lines, {"type": "jsonl"}, **fields)
    ledger.ingest(job_id)
    if end == "completed":
        run_through(ledger, job_id)
    elif end == "expired":
        ledger.run("UPDATE jobs SET expires_at = now() - interval '1 s' WHERE id = :id", id=job_id)
        with ledger.sessions.begin() as session:
            upkeep.expire_jobs(session)
        assert ledger.finalize(job_id)
    elif end == "cancelled":
        with ledger.sessions.begin() as session:
            jobs.cancel(session, ledger.tenant, job_id)
        assert ledger.finalize(job_id)
    return job_id


def _line(number: int) -> bytes:
    body = {"model": "echo", "input": f"line {number}"}
    line = {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/translations", "body": body}
    return json.dumps(line).encode() + b"\n"


def logged(ledger: Ledger, delivery_id: str) -> Any:
    return ledger.rows("SELECT * FROM deliveries WHERE id = :id", id=delivery_id)[0]


def webhook_row(ledger: Ledger, webhook_id: str) -> Any:
    return ledger.rows("SELECT * FROM webhooks WHERE id = :id", id=webhook_id)[0]


def make_due(ledger: Ledger) -> None:
    """Let the pause pass now."""
    ledger.run("UPDATE deliveries SET due_at = now() - interval '1 s' WHERE state = 'pending'")


# One event for every end


@pytest.mark.parametrize("end", FOUR)
def test_every_end_of_a_batch_is_one_thin_event_that_the_openai_client_verifies(
    ledger: Ledger, receiver: Receiver, delivery: Delivery, end: str
) -> None:
    secret = subscribe(ledger, receiver.url).value
    job_id = ended(ledger, end, "openai")
    ledger.finalize(job_id)

    assert delivery.run() == 1 and delivery.run() == 0

    [request] = receiver.requests
    assert request.headers["content-type"] == "application/json"
    event = openai.OpenAI(api_key="-", base_url="http://127.0.0.1:1").webhooks.unwrap(
        request.body, dict(request.headers), secret=secret
    )
    assert event.type == f"batch.{end}"
    assert event.data.id == renamed(job_id, "batch_")  # type: ignore[union-attr]
    assert type(event).__name__ == f"Batch{end.title()}WebhookEvent"
    assert json.loads(request.body).keys() == {"id", "object", "created_at", "type", "data"}
    assert json.loads(request.body)["data"].keys() == {"id"}
    assert (event.id, event.object) == (request.headers["webhook-id"], "event")
    assert abs(event.created_at - datetime.now(UTC).timestamp()) < 30


@pytest.mark.parametrize("end", FOUR)
def test_every_end_of_a_job_is_one_event_with_its_counts_for_those_who_ask_for_it(
    ledger: Ledger, receiver: Receiver, delivery: Delivery, end: str
) -> None:
    secret = subscribe(ledger, receiver.url, "job.*").value
    job_id = ENDS[end](ledger, metadata={"who": "me"})

    assert delivery.run() == 1

    [request] = receiver.requests
    event = standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))
    assert event["type"] == f"job.{end}"
    data, job = event["data"], ledger.job(job_id)
    assert (data["id"], data["object"], data["status"], data["metadata"]) == (job_id, "job", end, {"who": "me"})
    counts = {count: number for count, number in data["counts"].items() if number}
    assert counts == ({"total": job.total} | ledger.counts(job_id) if job.total else {})
    assert (data["model"], data["task"], data["dialect"]) == ("echo", "translation", "bushel")
    assert data["output_file_id"] == job.output_file_id and data["problems"] == (1 if end == "failed" else 0)
    assert data["usage"] == {
        "input_tokens": job.input_tokens,
        "output_tokens": job.output_tokens,
        "total_tokens": job.input_tokens + job.output_tokens,
    }
    assert data["ended_at"] >= data["created_at"] > 0


def test_who_asks_for_nothing_special_hears_of_batches_only(ledger: Ledger, receiver: Receiver) -> None:
    subscribe(ledger, receiver.url)

    completed(ledger)
    assert ledger.rows("SELECT event FROM deliveries") == []
    ended(ledger, "completed", "openai")
    assert ledger.rows("SELECT event FROM deliveries") == [("batch.completed",)]


def test_who_asks_for_one_event_by_name_gets_no_other(ledger: Ledger, receiver: Receiver) -> None:
    subscribe(ledger, receiver.url, "job.cancelled")

    completed(ledger)
    cancelled(ledger)

    assert ledger.rows("SELECT event FROM deliveries") == [("job.cancelled",)]


def test_an_event_has_the_same_id_for_every_webhook(ledger: Ledger, receiver: Receiver) -> None:
    subscribe(ledger, receiver.url, "job.*")
    subscribe(ledger, receiver.url, "job.completed")

    completed(ledger)

    rows = ledger.rows("SELECT event_id, webhook_id FROM deliveries")
    assert len(rows) == 2 and len({row.event_id for row in rows}) == 1 and len({row.webhook_id for row in rows}) == 2


def test_an_end_that_is_rolled_back_has_no_event(ledger: Ledger, receiver: Receiver) -> None:
    subscribe(ledger, receiver.url, "job.*")
    job_id = completed(ledger)
    ledger.run("DELETE FROM deliveries")

    with ledger.sessions() as session:
        assert webhooks.emit(session, job_id)
        assert session.execute(text("SELECT count(*) FROM deliveries")).scalar_one() == 1
        session.rollback()

    assert ledger.rows("SELECT id FROM deliveries") == []


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_a_step_whose_commit_fails_leaves_no_event_and_the_next_try_exactly_one(
    ledger: Ledger, receiver: Receiver, end: str
) -> None:
    subscribe(ledger, receiver.url, "job.*")
    ledger.run("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE 'no room left';
        END $$
    """)
    ledger.run(f"""
        CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON jobs DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (new.status = '{end}' AND old.status <> new.status) EXECUTE FUNCTION refuse()
    """)
    with pytest.raises(DBAPIError, match="no room left"):
        ENDS[end](ledger)
    assert ledger.rows("SELECT id FROM deliveries") == []
    ledger.run("DROP TRIGGER refuse ON jobs")
    # The lease of the step that broke off runs out.
    ledger.run("UPDATE jobs SET step_expires_at = NULL")

    [job_id] = ledger.rows("SELECT id FROM jobs")[0]
    assert ledger.ingest(job_id) or ledger.finalize(job_id)

    assert ledger.job(job_id).status == end
    assert ledger.rows("SELECT event, job_id FROM deliveries") == [(f"job.{end}", job_id)]


def test_a_job_that_has_not_ended_has_no_event(ledger: Ledger, receiver: Receiver) -> None:
    subscribe(ledger, receiver.url, "job.*")
    job_id = ledger.started(2)

    with ledger.sessions.begin() as session:
        assert not webhooks.emit(session, job_id)
        assert not webhooks.emit(session, "job_0mgcxk2l9h4t8v2c6y0q1w5r3")


def test_a_request_that_somebody_waits_for_has_no_event(ledger: Ledger, receiver: Receiver) -> None:
    subscribe(ledger, receiver.url, "job.*", "batch.*")
    job_id = ledger.started(2)
    ledger.run("UPDATE jobs SET interactive = true WHERE id = :id", id=job_id)

    run_through(ledger, job_id)

    assert ledger.job(job_id).status == "completed" and ledger.rows("SELECT id FROM deliveries") == []


def test_the_senders_are_rung_for_once_and_only_if_somebody_wants_to_hear(ledger: Ledger, receiver: Receiver) -> None:
    completed(ledger)
    assert (DELIVER,) not in ledger.bell.rings

    subscribe(ledger, receiver.url, "job.*")
    completed(ledger)
    failed(ledger)

    assert ledger.bell.rings.count((DELIVER,)) == 2


def test_another_tenants_webhook_hears_nothing(ledger: Ledger, receiver: Receiver) -> None:
    with ledger.sessions.begin() as session:
        other = keys.tenant(session, "other")
        webhooks.create(session, other, receiver.url, ["job.*", "batch.*"])

    completed(ledger)

    assert ledger.rows("SELECT id FROM deliveries") == []


def test_a_webhook_deleted_while_a_job_ends_neither_hears_of_it_nor_stops_it(
    ledger: Ledger, receiver: Receiver
) -> None:
    webhook_id = subscribe(ledger, receiver.url, "job.*").webhook.id
    job_id = completed(ledger)

    with ledger.sessions() as ending:
        assert webhooks.emit(ending, job_id)
        with ThreadPoolExecutor(1) as pool:
            # Waits for the ending job's lock on the webhook; then takes its delivery along.
            deleting = pool.submit(_delete, ledger, webhook_id)
            eventually(lambda: ledger.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
            ending.commit()
            deleting.result(10)

    assert ledger.rows("SELECT id FROM deliveries") == []


def _delete(ledger: Ledger, webhook_id: str) -> None:
    with ledger.sessions.begin() as session:
        webhooks.delete(session, ledger.tenant, webhook_id)


# Signing


def test_for_a_day_after_a_rotation_both_secrets_verify(ledger: Ledger, receiver: Receiver, delivery: Delivery) -> None:
    made = subscribe(ledger, receiver.url)
    with ledger.sessions.begin() as session:
        rotated = webhooks.rotate(session, ledger.tenant, made.webhook.id)
    send_test(ledger, made.webhook.id)

    delivery.run()

    [request] = receiver.requests
    assert len(request.headers["webhook-signature"].split(" ")) == 2
    client = openai.OpenAI(api_key="-", base_url="http://127.0.0.1:1")
    for secret in (made.value, rotated.value):
        assert standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))["type"] == "webhook.test"
        client.webhooks.verify_signature(request.body, dict(request.headers), secret=secret)
    assert made.value != rotated.value and rotated.webhook.previous_secret_expires_at is not None
    left = rotated.webhook.previous_secret_expires_at - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)


def test_then_only_the_new_one_does(ledger: Ledger, receiver: Receiver, delivery: Delivery) -> None:
    made = subscribe(ledger, receiver.url)
    with ledger.sessions.begin() as session:
        rotated = webhooks.rotate(session, ledger.tenant, made.webhook.id)
    ledger.run("UPDATE webhooks SET previous_secret_expires_at = now() - interval '1 s'")
    send_test(ledger, made.webhook.id)

    delivery.run()

    [request] = receiver.requests
    standardwebhooks.Webhook(rotated.value).verify(request.body, dict(request.headers))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(made.value).verify(request.body, dict(request.headers))


def test_a_changed_body_or_another_secret_does_not_verify(
    ledger: Ledger, receiver: Receiver, delivery: Delivery
) -> None:
    made = subscribe(ledger, receiver.url)
    send_test(ledger, made.webhook.id)
    delivery.run()
    [request] = receiver.requests

    client = openai.OpenAI(api_key="-", base_url="http://127.0.0.1:1")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(request.body + b" ", dict(request.headers), secret=made.value)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(request.body, dict(request.headers), secret="whsec_" + "A" * 43 + "=")


# Trying again


def test_a_delivery_is_tried_again_with_the_same_id_and_body_until_it_arrives(
    ledger: Ledger, receiver: Receiver, delivery: Delivery
) -> None:
    webhook_id = subscribe(ledger, receiver.url).webhook.id
    delivery_id = send_test(ledger, webhook_id)
    for status in (500, 404, 302):
        receiver.answers.put(Told(status, {"location": receiver.url}))

    for tries in range(1, 4):
        assert delivery.run() == 1
        row = logged(ledger, delivery_id)
        assert (row.state, row.attempts) == ("pending", tries)
        assert webhook_row(ledger, webhook_id).failing_since is not None
        make_due(ledger)
    assert delivery.run() == 1

    row = logged(ledger, delivery_id)
    assert row.state == "delivered" and row.ended_at is not None
    assert [entry["status"] for entry in row.log] == [500, 404, 302, 200]
    assert "redirects are not followed" in row.log[2]["error"]
    assert all(entry["at"] > 0 and entry["seconds"] >= 0 for entry in row.log)
    assert (
        len({request.body for request in receiver.requests})
        == 1
        == len({request.headers["webhook-id"] for request in receiver.requests})
    )
    assert webhook_row(ledger, webhook_id).failing_since is None


def test_the_pauses_grow_and_last_about_a_day() -> None:
    waits = [pause(tries, None, 1.0) for tries in range(1, len(PAUSES) + 1)]

    assert all(wait is not None for wait in waits) and pause(len(PAUSES) + 1, None, 1.0) is None
    seconds = [wait.total_seconds() for wait in waits if wait]
    assert seconds == sorted(seconds) and 20 * 3600 < sum(seconds) < 24 * 3600


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [(None, 5), (1, 5), (600, 600), (10**9, 24 * 3600)],
    ids=["none", "less", "more", "ever"],
)
def test_retry_after_makes_a_pause_longer_but_not_endless(retry_after: float | None, expected: int) -> None:
    assert pause(1, retry_after, 1.0) == timedelta(seconds=expected)


def test_retry_after_is_respected(ledger: Ledger, receiver: Receiver, delivery: Delivery) -> None:
    webhook_id = subscribe(ledger, receiver.url).webhook.id
    delivery_id = send_test(ledger, webhook_id)
    receiver.answers.put(Told(429, {"retry-after": "7000"}))

    delivery.run()

    wait = logged(ledger, delivery_id).due_at - datetime.now(UTC)
    assert timedelta(seconds=6_900) < wait <= timedelta(seconds=7_000)


def test_after_the_last_try_it_is_given_up(ledger: Ledger, receiver: Receiver, delivery: Delivery) -> None:
    delivery_id = send_test(ledger, subscribe(ledger, receiver.url).webhook.id)
    for _ in range(len(PAUSES) + 1):
        receiver.answers.put(Told(500))

    for _ in range(len(PAUSES) + 1):
        assert delivery.run() == 1
        make_due(ledger)

    row = logged(ledger, delivery_id)
    assert (row.state, row.attempts, len(row.log)) == ("failed", 11, 11)
    assert delivery.run() == 0


def test_an_old_delivery_is_given_up_however_long_the_receiver_asks_to_wait(
    ledger: Ledger, receiver: Receiver, delivery: Delivery
) -> None:
    delivery_id = send_test(ledger, subscribe(ledger, receiver.url).webhook.id)
    ledger.run("UPDATE deliveries SET created_at = now() - interval '30 hours'")
    receiver.answers.put(Told(503, {"retry-after": "86400"}))

    delivery.run()

    assert logged(ledger, delivery_id).state == "failed"


def test_what_does_not_answer_is_noted_with_the_reason(ledger: Ledger, delivery: Delivery) -> None:
    delivery_id = send_test(ledger, subscribe(ledger, "http://127.0.0.1:1/").webhook.id)

    delivery.run()

    [entry] = logged(ledger, delivery_id).log
    assert (entry["status"], entry["error"]) == (None, "the connection was refused")


def test_a_webhook_from_before_private_addresses_were_forbidden_is_not_sent_to(
    ledger: Ledger, receiver: Receiver, sessions: Sessions
) -> None:
    delivery_id = send_test(ledger, subscribe(ledger, receiver.url).webhook.id)

    Delivery(sessions, Outbound(allow_private=False)).run()

    [entry] = logged(ledger, delivery_id).log
    assert "must begin with https" in entry["error"] and receiver.requests == []


# Crashes and races


def test_an_event_sent_by_a_process_that_died_before_it_could_say_so_is_sent_again_under_its_id(
    ledger: Ledger, receiver: Receiver, sessions: Sessions, delivery: Delivery
) -> None:
    delivery_id = send_test(ledger, subscribe(ledger, receiver.url).webhook.id)

    class Dying(Outbound):
        def post(self, *args: Any) -> Any:
            super().post(*args)
            raise SystemExit

    with pytest.raises(SystemExit):
        Delivery(sessions, Dying(allow_private=True)).run()
    assert delivery.run() == 0, "nobody else tries it before its time has come"
    make_due(ledger)
    assert delivery.run() == 1

    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"] and first.body == second.body
    row = logged(ledger, delivery_id)
    assert (row.state, row.attempts) == ("delivered", 2)
    assert "seconds" not in row.log[0] and row.log[1]["status"] == 200


def test_a_claim_comes_due_again_by_itself_well_after_a_try_can_last(ledger: Ledger, receiver: Receiver) -> None:
    delivery_id = send_test(ledger, subscribe(ledger, receiver.url).webhook.id)
    with ledger.sessions.begin() as session:
        assert deliveries.claim(session) is not None

    wait = logged(ledger, delivery_id).due_at - datetime.now(UTC)

    assert timedelta(seconds=50) < wait <= timedelta(seconds=60)


def test_deliverers_that_race_send_every_event_once(ledger: Ledger, receiver: Receiver, sessions: Sessions) -> None:
    webhook_ids = [subscribe(ledger, receiver.url).webhook.id for _ in range(5)]
    expected = [send_test(ledger, webhook_id) for webhook_id in webhook_ids for _ in range(8)]

    def run_until_empty() -> int:
        return Delivery(sessions, Outbound(allow_private=True)).run()

    with ThreadPoolExecutor(4) as pool:
        tries = sum(pool.map(lambda _: run_until_empty(), range(4)))

    # At the bound per webhook all senders may stop with some left; their loops come back.
    tries += run_until_empty()
    assert tries == len(expected) == len(receiver.requests)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == len(expected)
    assert ledger.rows("SELECT DISTINCT state, attempts FROM deliveries") == [("delivered", 1)]


def test_no_more_than_a_few_tries_run_for_one_webhook_and_for_one_tenant(ledger: Ledger, receiver: Receiver) -> None:
    webhook_ids = [subscribe(ledger, receiver.url).webhook.id for _ in range(4)]
    for webhook_id in webhook_ids:
        for _ in range(4):
            send_test(ledger, webhook_id)
    with ledger.sessions.begin() as session:
        other = webhooks.create(session, keys.tenant(session, "other"), receiver.url).webhook
        webhooks.test(session, other.tenant_id, other.id)

    def claim(_: int) -> Claim | None:
        with ledger.sessions.begin() as session:
            return deliveries.claim(session)

    with ThreadPoolExecutor(8) as pool:
        claims = [claim for claim in pool.map(claim, range(20)) if claim]

    counts = Counter(claim.webhook_id for claim in claims)
    assert counts.pop(other.id) == 1
    assert max(counts.values()) == deliveries.AT_ONCE and sum(counts.values()) == deliveries.AT_ONCE_OF_TENANT
    # A try that has ended makes room for another one.
    mine = next(claim for claim in claims if claim.webhook_id in webhook_ids)
    settle(ledger, mine, Attempt(1, status=500))
    assert claim_next(ledger).id not in {claim.id for claim in claims}


def test_who_had_to_wait_for_the_claim_counts_the_tries_that_began_meanwhile(
    ledger: Ledger, receiver: Receiver
) -> None:
    webhook_id = subscribe(ledger, receiver.url).webhook.id
    for _ in range(deliveries.AT_ONCE + 1):
        send_test(ledger, webhook_id)

    with ledger.sessions.begin() as early:
        # To PostgreSQL, this is the time of all that the transaction does.
        early.execute(text("SELECT now()"))
        for _ in range(deliveries.AT_ONCE):
            claim_next(ledger)

        assert deliveries.claim(early) is None


def test_a_late_word_of_a_lost_claim_changes_nothing(ledger: Ledger, receiver: Receiver) -> None:
    delivery_id = send_test(ledger, subscribe(ledger, receiver.url).webhook.id)
    first = claim_next(ledger)
    make_due(ledger)
    second = claim_next(ledger)

    assert settle(ledger, first, Attempt(1, status=500)) is None
    assert settle(ledger, second, Attempt(1, status=200)) is DeliveryState.DELIVERED
    assert settle(ledger, second, Attempt(1, status=500)) is None
    assert logged(ledger, delivery_id).state == "delivered"


def claim_next(ledger: Ledger) -> Claim:
    with ledger.sessions.begin() as session:
        claim = deliveries.claim(session)
    assert claim is not None
    return claim


def settle(ledger: Ledger, claim: Claim, attempt: Attempt) -> DeliveryState | None:
    with ledger.sessions.begin() as session:
        return deliveries.settle(session, claim, attempt)


def test_a_slow_receiver_does_not_keep_the_others_waiting(
    ledger: Ledger, receiver: Receiver, sessions: Sessions
) -> None:
    release = threading.Event()

    def dawdle(request: Received) -> None:
        release.wait(10)

    with Receiver() as slow:
        slow.when_asked = dawdle
        slow_id = subscribe(ledger, slow.url).webhook.id
        for _ in range(20):
            send_test(ledger, slow_id)
        send_test(ledger, subscribe(ledger, receiver.url).webhook.id)
        delivery = Delivery(sessions, Outbound(allow_private=True))
        loops = [Loop("delivery", 0.05, delivery.run) for _ in range(SENDERS)]
        for loop in loops:
            loop.start()

        eventually(lambda: receiver.requests)

        assert len(slow.requests) <= deliveries.AT_ONCE
        release.set()
        eventually(lambda: not ledger.rows("SELECT id FROM deliveries WHERE state = 'pending'"))
        for loop in loops:
            loop.stop()


def test_a_webhook_deleted_while_its_event_is_on_its_way_is_gone_and_nothing_breaks(
    ledger: Ledger, receiver: Receiver, delivery: Delivery
) -> None:
    webhook_id = subscribe(ledger, receiver.url).webhook.id
    send_test(ledger, webhook_id)
    receiver.when_asked = lambda request: _delete(ledger, webhook_id)

    assert delivery.run() == 1

    assert len(receiver.requests) == 1
    assert ledger.rows("SELECT id FROM deliveries") == [] == ledger.rows("SELECT id FROM webhooks")


def test_a_loop_that_is_woken_does_not_wait_for_its_time() -> None:
    calls: list[int] = []
    loop = Loop("test", 600, lambda: calls.append(1))
    loop.start()
    eventually(lambda: calls)

    loop.wake()

    eventually(lambda: len(calls) == 2)
    loop.stop()


# Disabling


def test_410_disables_at_once_and_gives_up_what_waits(ledger: Ledger, receiver: Receiver, delivery: Delivery) -> None:
    webhook_id = subscribe(ledger, receiver.url, "job.*").webhook.id
    for _ in range(3):
        send_test(ledger, webhook_id)
    receiver.answers.put(Told(410))

    assert delivery.run() == 1

    row = webhook_row(ledger, webhook_id)
    assert row.disabled_at is not None and "410" in row.disabled_reason
    assert ledger.rows("SELECT state FROM deliveries") == [("failed",)] * 3
    completed(ledger)
    assert len(ledger.rows("SELECT id FROM deliveries")) == 3
    with pytest.raises(Conflict, match="disabled"):
        send_test(ledger, webhook_id)


def exhaust(ledger: Ledger, receiver: Receiver, delivery: Delivery, failing_days: float) -> str:
    """A webhook whose delivery was given up, after so many days without success."""
    webhook_id = subscribe(ledger, receiver.url).webhook.id
    send_test(ledger, webhook_id)
    receiver.answers.put(Told(500))
    delivery.run()
    ledger.run("UPDATE webhooks SET failing_since = now() - :days * interval '1 day'", days=failing_days)
    ledger.run(
        """
        UPDATE deliveries SET due_at = now(), attempts = :tries,
            log = (SELECT jsonb_agg('{"at": 0, "seconds": 0}'::jsonb) FROM generate_series(1, :tries))
        """,
        tries=len(PAUSES),
    )
    receiver.answers.put(Told(500))
    assert delivery.run() == 1
    return webhook_id


def test_a_webhook_that_nothing_reached_for_five_days_is_disabled(
    ledger: Ledger, receiver: Receiver, delivery: Delivery
) -> None:
    webhook_id = exhaust(ledger, receiver, delivery, 5.1)

    row = webhook_row(ledger, webhook_id)
    assert row.disabled_at is not None and row.disabled_reason == "nothing was delivered for 5 days"


def test_before_that_it_is_not(ledger: Ledger, receiver: Receiver, delivery: Delivery) -> None:
    webhook_id = exhaust(ledger, receiver, delivery, 4.9)

    assert webhook_row(ledger, webhook_id).disabled_at is None


def test_a_first_failure_after_a_long_silence_does_not_disable(
    ledger: Ledger, receiver: Receiver, delivery: Delivery
) -> None:
    webhook_id = subscribe(ledger, receiver.url).webhook.id
    ledger.run("UPDATE webhooks SET failing_since = now() - interval '30 days'")
    delivery_id = send_test(ledger, webhook_id)
    receiver.answers.put(Told(500))

    delivery.run()

    assert webhook_row(ledger, webhook_id).disabled_at is None
    assert logged(ledger, delivery_id).state == "pending"


def test_enabling_brings_it_back_with_a_clean_record(ledger: Ledger, receiver: Receiver, delivery: Delivery) -> None:
    webhook_id = exhaust(ledger, receiver, delivery, 6)

    with ledger.sessions.begin() as session:
        webhook = webhooks.change(session, ledger.tenant, webhook_id, Change(enabled=True))

    assert (webhook.disabled_at, webhook.disabled_reason, webhook.failing_since) == (None, None, None)
    delivery_id = send_test(ledger, webhook_id)
    delivery.run()
    assert logged(ledger, delivery_id).state == "delivered"


def test_an_event_that_arrives_after_its_webhook_was_disabled_counts_as_delivered(
    ledger: Ledger, receiver: Receiver, delivery: Delivery
) -> None:
    webhook_id = subscribe(ledger, receiver.url).webhook.id
    delivery_id = send_test(ledger, webhook_id)

    def disable(request: Received) -> None:
        with ledger.sessions.begin() as session:
            webhooks.change(session, ledger.tenant, webhook_id, Change(enabled=False))

    receiver.when_asked = disable
    delivery.run()

    assert logged(ledger, delivery_id).state == "delivered"
    assert webhook_row(ledger, webhook_id).disabled_reason == "it was disabled by hand"


def test_what_the_old_address_answers_says_nothing_of_the_new_one(
    ledger: Ledger, receiver: Receiver, delivery: Delivery
) -> None:
    """Its owner moves, tells the old receiver to answer 410, and changes the URL - while an event is on its way."""
    webhook_id = subscribe(ledger, receiver.url).webhook.id
    delivery_id = send_test(ledger, webhook_id)
    moved = receiver.url.replace("/hook", "/moved")

    def move(request: Received) -> None:
        if request.path == "/hook":
            with ledger.sessions.begin() as session:
                webhooks.change(session, ledger.tenant, webhook_id, Change(url=moved))

    receiver.when_asked = move
    receiver.answers.put(Told(410))
    delivery.run()

    row = webhook_row(ledger, webhook_id)
    assert (row.disabled_at, row.failing_since, logged(ledger, delivery_id).state) == (None, None, "pending")
    make_due(ledger)
    delivery.run()
    assert [request.path for request in receiver.requests] == ["/hook", "/moved"]
    assert logged(ledger, delivery_id).state == "delivered"


# By hand, and in the end


def test_redelivery_sends_the_same_event_under_its_id_where_the_webhook_points_now(
    ledger: Ledger, receiver: Receiver, delivery: Delivery
) -> None:
    webhook_id = subscribe(ledger, "http://127.0.0.1:1/").webhook.id
    old_id = send_test(ledger, webhook_id)
    delivery.run()
    with ledger.sessions.begin() as session:
        webhook = webhooks.change(session, ledger.tenant, webhook_id, Change(url=receiver.url))
        assert webhook.failing_since is None
        new_id = deliveries.redeliver(session, webhook_id, old_id).id

    assert delivery.run() == 1

    [request] = receiver.requests
    old, new = logged(ledger, old_id), logged(ledger, new_id)
    assert request.headers["webhook-id"] == old.event_id == new.event_id
    assert request.body.decode() == old.body == new.body
    assert (old.state, new.state, new.attempts) == ("pending", "delivered", 1)


def test_a_delivery_of_another_webhook_cannot_be_redelivered(ledger: Ledger, receiver: Receiver) -> None:
    mine, other = (subscribe(ledger, receiver.url).webhook.id for _ in range(2))
    delivery_id = send_test(ledger, mine)

    with ledger.sessions() as session, pytest.raises(NotFound):
        deliveries.redeliver(session, other, delivery_id)


def test_the_log_reaches_back_thirty_days(ledger: Ledger, receiver: Receiver, delivery: Delivery) -> None:
    webhook_id = subscribe(ledger, receiver.url).webhook.id
    old, young, waiting = (send_test(ledger, webhook_id) for _ in range(3))
    ledger.run("UPDATE deliveries SET created_at = now() - interval '31 days' WHERE id = :id", id=old)
    ledger.run("UPDATE deliveries SET created_at = now() - interval '29 days' WHERE id = :id", id=young)
    ledger.run("UPDATE deliveries SET due_at = now() + interval '1 hour' WHERE id = :id", id=waiting)
    delivery.run()

    Reconciler(ledger.sessions, ledger.store, RecordingDoorbell()).run()

    assert {row.id for row in ledger.rows("SELECT id FROM deliveries")} == {young, waiting}


def test_there_is_a_bound_to_the_webhooks_of_a_tenant(ledger: Ledger) -> None:
    for _ in range(webhooks.MOST_WEBHOOKS):
        subscribe(ledger, "https://hooks.example/")

    with pytest.raises(Conflict, match="the most there may be"):
        subscribe(ledger, "https://hooks.example/")
