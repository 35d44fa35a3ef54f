"""Telling receivers: due deliveries are claimed, signed, sent and settled, one after the other."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version

from standardwebhooks import Webhook

from db import deliveries, faults
from db.deliveries import Attempt, Claim
from db.session import Sessions
from db.states import DeliveryState
from telemetry import traces
from workers import metrics
from workers.outbound import Outbound, Undelivered

logger = logging.getLogger(__name__)

# Threads of an io process that deliver; no database connection is held while one waits for a receiver.
SENDERS = 8
_OUTCOMES = {
    None: "dropped",
    DeliveryState.PENDING: "retried",
    DeliveryState.DELIVERED: "delivered",
    DeliveryState.FAILED: "failed",
}


class Delivery:
    """The delivery step. One instance serves a process; `run` may be called from several threads."""

    def __init__(self, sessions: Sessions, outbound: Outbound, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._sessions, self._outbound, self._should_stop = sessions, outbound, should_stop
        self._agent = f"Bushel/{version('bushel')} (webhooks)"

    def run(self) -> int:
        """Try everything that is due; how many tries that were."""
        tries = 0
        while not self._should_stop() and (claim := self._claim()) is not None:
            faults.reached("in delivery")
            attributes: traces.Attributes = {"bushel.delivery": claim.id, "bushel.attempt": claim.attempt}
            with traces.span("webhook", claim.traceparent, attributes):
                attempt = self._send(claim)
            faults.reached("after delivery")
            self._settle(claim, attempt)
            tries += 1
        return tries

    def _claim(self) -> Claim | None:
        with self._sessions.begin() as session:
            return deliveries.claim(session)

    def _send(self, claim: Claim) -> Attempt:
        headers = {
            "content-type": "application/json",
            "user-agent": self._agent,
            **signed(claim.secrets, claim.event_id, claim.body, datetime.now(UTC)),
        }
        if (traceparent := traces.current()) is not None:
            headers["traceparent"] = traceparent
        began = time.monotonic()
        try:
            answer = self._outbound.post(claim.url, headers, claim.body.encode())
        except Undelivered as exc:
            return Attempt(time.monotonic() - began, error=str(exc))
        except Exception:
            # The edge to a stranger's machine: whatever it makes our libraries throw costs this try alone.
            logger.exception("delivery %s failed", claim.id, extra={"action": "delivery_error", "delivery": claim.id})
            return Attempt(time.monotonic() - began, error="the request failed on our side; the log tells more")
        error = "redirects are not followed; change the URL instead" if 300 <= answer.status < 400 else None
        return Attempt(time.monotonic() - began, answer.status, error, answer.retry_after)

    def _settle(self, claim: Claim, attempt: Attempt) -> None:
        with self._sessions.begin() as session:
            state = deliveries.settle(session, claim, attempt)
        metrics.DELIVERY.observe(attempt.seconds)
        metrics.DELIVERIES.labels(_OUTCOMES[state]).inc()
        fields = {
            "action": "delivery_tried",
            "delivery": claim.id,
            "webhook": claim.webhook_id,
            "event": claim.event,
            "status": attempt.status,
            "attempt": claim.attempt,
        }
        outcome = {None: "no longer wanted", DeliveryState.PENDING: "to be tried again"}.get(state, state)
        how = attempt.status if attempt.error is None else attempt.error
        logger.info("%s to webhook %s: %s, %s", claim.event, claim.webhook_id, how, outcome, extra=fields)


def signed(secrets: tuple[str, ...], event_id: str, body: str, now: datetime) -> dict[str, str]:
    """The headers of the Standard Webhooks specification, with one signature a secret."""
    signatures = [Webhook(secret).sign(event_id, now, body) for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
