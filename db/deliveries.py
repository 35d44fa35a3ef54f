"""Deliveries: one event for one webhook, tried until it arrives or is given up.

Whoever tries a delivery moves its `due_at` ahead first. If that process then ends without a word, the
delivery is due again when that time has come: the receiver may get an event twice, under the same id.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import literal, select, text, tuple_
from sqlalchemy.orm import Session

from db.cursors import Page, UnknownCursor, born, is_id, page
from db.errors import NotFound
from db.ids import new_id
from db.models import Delivery
from db.states import DeliveryState

PREFIX = "dlv_"
# Pauses after each failed try, before jitter: close together at first, because most failures are restarts of the
# receiver, then over 22 hours in all, so that a night without anybody at the other end is survived.
PAUSES = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 21_600, 28_800)
# A receiver may ask for longer pauses (Retry-After), but not for ever.
_LONGEST_PAUSE = timedelta(hours=24)
_GIVE_UP_AFTER = timedelta(hours=48)
# A webhook that nothing reached for so long is disabled when the next delivery is given up.
DISABLE_AFTER_DAYS = 5
# Well above what one try may take in all.
CLAIM_SECONDS = 60
# Tries that run at the same time for one webhook, and for all of a tenant's: slow receivers must not keep the
# senders from everybody else's.
AT_ONCE, AT_ONCE_OF_TENANT = 2, 4
# Claims are made one after the other, or many at once would not see each other and break those bounds.
_CLAIM_LOCK = 7_205_759_410
KEPT_DAYS = 30
_FORGET_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. Its id and its words are the same for every webhook and in every try."""

    id: str
    type: str
    created_at: int
    data: Mapping[str, Any]
    job_id: str | None

    def body(self) -> str:
        shown = {"id": self.id, "object": "event", "created_at": self.created_at, "type": self.type, "data": self.data}
        return msgspec.json.encode(shown).decode()


def add(session: Session, webhook_ids: Sequence[str], event: Event) -> list[str]:
    """Put the event on its way to each of the webhooks; the deliveries' ids."""
    return [_add(session, webhook_id, event.id, event.type, event.job_id, event.body()) for webhook_id in webhook_ids]


def _add(session: Session, webhook_id: str, event_id: str, event: str, job_id: str | None, body: str) -> str:
    id = new_id(PREFIX)
    row = Delivery(
        id=id,
        webhook_id=webhook_id,
        event_id=event_id,
        event=event,
        job_id=job_id,
        body=body,
        created_at=born(id),
    )
    session.add(row)
    session.flush()
    return id


def get(session: Session, webhook_id: str, delivery_id: str) -> Delivery:
    """One of the webhook's deliveries, or NotFound. Whose the webhook is, the caller has asked."""
    query = select(Delivery).where(Delivery.id == delivery_id, Delivery.webhook_id == webhook_id)
    found = session.scalar(query.execution_options(populate_existing=True)) if is_id(delivery_id, PREFIX) else None
    if found is None:
        raise NotFound("delivery", delivery_id)
    return found


def listing(
    session: Session, webhook_id: str, after: str | None, limit: int, state: DeliveryState | None = None
) -> Page[Delivery]:
    """The webhook's deliveries, newest first."""
    query = select(Delivery).where(Delivery.webhook_id == webhook_id)
    if state is not None:
        query = query.where(Delivery.state == state.value)
    if after is not None:
        if not is_id(after, PREFIX):
            raise UnknownCursor(after)
        # `created_at` of a delivery is always that of its id, so the cursor needs no row.
        query = query.where(tuple_(Delivery.created_at, Delivery.id) < tuple_(literal(born(after)), literal(after)))
    query = query.order_by(Delivery.created_at.desc(), Delivery.id.desc()).limit(limit + 1)
    return page(session.scalars(query).all(), limit)


def redeliver(session: Session, webhook_id: str, delivery_id: str) -> Delivery:
    """Send the same event once more, as a delivery of its own.

    The caller holds the webhook (see `webhooks.enabled`), and rings after commit.
    """
    old = get(session, webhook_id, delivery_id)
    return get(session, webhook_id, _add(session, webhook_id, old.event_id, old.event, old.job_id, old.body))


# Sending


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to try a delivery once. `attempt` is its fencing token."""

    id: str
    attempt: int
    webhook_id: str
    url: str
    # The present one first; a second one while it is being changed.
    secrets: tuple[str, ...]
    event_id: str
    event: str
    body: str
    # The trace that the event's job belongs to.
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a try went: the receiver's answer, or why there is none."""

    seconds: float
    status: int | None = None
    error: str | None = None
    # What the receiver asked for, in seconds.
    retry_after: float | None = None

    @property
    def is_delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """The receiver says that it will never want anything again."""
        return self.status == 410


def claim(session: Session) -> Claim | None:
    """The delivery that has been due longest, to be tried by the caller alone; None when there is none.

    The try is noted in the log before it is made. A note without an outcome is of a process that ended.
    """
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CLAIM_LOCK})
    bounds = {"at_once": AT_ONCE, "at_once_of_tenant": AT_ONCE_OF_TENANT}
    row = session.execute(_CLAIM, {"seconds": CLAIM_SECONDS, **bounds}).one_or_none()
    if row is None:
        return None
    signing = (row.secret,) if row.previous_secret is None else (row.secret, row.previous_secret)
    event = (row.event_id, row.event, row.body)
    return Claim(row.id, row.attempts, row.webhook_id, row.url, signing, *event, row.traceparent)


# By the clock of the statement: the transaction may have begun long before it got the lock, and to its now() tries that
# began while it waited would be none.
_CLAIM = text("""
    WITH tried AS (
        SELECT d.webhook_id, w.tenant_id FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id
        WHERE d.state = 'pending' AND d.due_at > statement_timestamp()
            AND d.due_at <= statement_timestamp() + :seconds * interval '1 second'
            AND d.attempts > 0 AND NOT d.log -> -1 ? 'seconds'
    ), next AS (
        SELECT d.id, w.url, w.secret, j.traceparent,
            CASE WHEN w.previous_secret_expires_at > now() THEN w.previous_secret END AS previous_secret
        FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id LEFT JOIN jobs j ON j.id = d.job_id
        WHERE d.state = 'pending' AND d.due_at <= statement_timestamp() AND w.disabled_at IS NULL
            AND w.id NOT IN (SELECT webhook_id FROM tried GROUP BY webhook_id HAVING count(*) >= :at_once)
            AND w.tenant_id NOT IN (
                SELECT tenant_id FROM tried GROUP BY tenant_id HAVING count(*) >= :at_once_of_tenant)
        ORDER BY d.due_at LIMIT 1 FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE deliveries d SET attempts = d.attempts + 1,
        due_at = statement_timestamp() + :seconds * interval '1 second',
        log = d.log || jsonb_build_object('at', round(extract(epoch FROM clock_timestamp()), 3))
    FROM next WHERE d.id = next.id
    RETURNING d.id, d.attempts, d.webhook_id, d.event_id, d.event, d.body, next.url, next.secret, next.previous_secret,
        next.traceparent
""")


def settle(session: Session, claim: Claim, attempt: Attempt) -> DeliveryState | None:
    """Record how the try went and what is next; None if the delivery is gone, or another process has taken it."""
    # The webhook first: who deletes it goes on to its deliveries, and would meet us the other way round.
    webhook = session.execute(
        text("SELECT url FROM webhooks WHERE id = :id FOR NO KEY UPDATE"), {"id": claim.webhook_id}
    ).one_or_none()
    row = None if webhook is None else session.execute(_HELD, _place(claim, attempt)).one_or_none()
    if webhook is None or row is None:
        return None
    # The URL was changed meanwhile: what the old address says is no word on the new one.
    has_moved = webhook.url != claim.url
    state, due_at = _next(claim.attempt, attempt, row.now, row.created_at, has_moved)
    session.execute(
        _SETTLE,
        {
            "id": claim.id,
            "state": state.value,
            "due_at": due_at,
            "place": [str(claim.attempt - 1)],
            "outcome": msgspec.json.encode(_noted(attempt)).decode(),
        },
    )
    if not has_moved:
        _note_health(session, claim, attempt, state)
    return state


def _place(claim: Claim, attempt: Attempt) -> dict[str, object]:
    return {"id": claim.id, "attempt": claim.attempt, "is_delivered": attempt.is_delivered}


# A delivery that was given up while it was on its way, because the webhook was disabled, may have arrived.
_HELD = text("""
    SELECT created_at, now() AS now FROM deliveries
    WHERE id = :id AND attempts = :attempt AND (state = 'pending' OR (state = 'failed' AND :is_delivered)) FOR UPDATE
""")
_SETTLE = text("""
    UPDATE deliveries SET state = :state, due_at = coalesce(:due_at, due_at),
        log = jsonb_set(log, CAST(:place AS text[]), (log #> CAST(:place AS text[])) || CAST(:outcome AS jsonb)),
        ended_at = CASE WHEN :state = 'pending' THEN NULL ELSE now() END
    WHERE id = :id
""")


def _next(
    attempts: int, attempt: Attempt, now: datetime, created_at: datetime, has_moved: bool
) -> tuple[DeliveryState, datetime | None]:
    if attempt.is_delivered:
        return DeliveryState.DELIVERED, None
    wait = pause(attempts, attempt.retry_after, random.uniform(0.8, 1.2))
    if (attempt.is_gone and not has_moved) or wait is None or now + wait > created_at + _GIVE_UP_AFTER:
        return DeliveryState.FAILED, None
    return DeliveryState.PENDING, now + wait


def pause(attempts: int, retry_after: float | None, jitter: float) -> timedelta | None:
    """How long to wait after that many tries; None: give up.

    >>> pause(1, None, 1.0), pause(1, 90, 1.2), pause(11, None, 1.0)
    (datetime.timedelta(seconds=5), datetime.timedelta(seconds=90), None)
    """
    if attempts > len(PAUSES):
        return None
    wait = timedelta(seconds=PAUSES[attempts - 1] * jitter)
    return max(wait, timedelta(seconds=min(retry_after or 0.0, _LONGEST_PAUSE.total_seconds())))


def _noted(attempt: Attempt) -> dict[str, object]:
    return {"seconds": round(attempt.seconds, 3), "status": attempt.status, "error": attempt.error}


def _note_health(session: Session, claim: Claim, attempt: Attempt, state: DeliveryState) -> None:
    if attempt.is_delivered:
        session.execute(text("UPDATE webhooks SET failing_since = NULL WHERE id = :id"), {"id": claim.webhook_id})
        return
    failing_days = session.execute(
        text("""
            UPDATE webhooks SET failing_since = coalesce(failing_since, now()) WHERE id = :id
            RETURNING extract(epoch FROM now() - failing_since) / 86400
        """),
        {"id": claim.webhook_id},
    ).scalar_one()
    if attempt.is_gone:
        disable(session, claim.webhook_id, "the receiver answered 410 Gone")
    elif state is DeliveryState.FAILED and failing_days >= DISABLE_AFTER_DAYS:
        disable(session, claim.webhook_id, f"nothing was delivered for {int(failing_days)} days")


def disable(session: Session, webhook_id: str, reason: str) -> None:
    """Send nothing there any more, and give up what waits. The caller holds the webhook's lock."""
    session.execute(
        text("""
            UPDATE webhooks SET disabled_at = coalesce(disabled_at, now()),
                disabled_reason = coalesce(disabled_reason, :reason)
            WHERE id = :id
        """),
        {"id": webhook_id, "reason": reason},
    )
    session.execute(
        text("""
            UPDATE deliveries SET state = 'failed', ended_at = now() WHERE webhook_id = :id AND state = 'pending'
        """),
        {"id": webhook_id},
    )


def forget_job(session: Session, tenant_id: str, job_id: str) -> None:
    """The job is deleted: so is the log of its events, and one that still waits is sent without its metadata."""
    whose = {"tenant": tenant_id, "job": job_id}
    ours = "job_id = :job AND webhook_id IN (SELECT id FROM webhooks WHERE tenant_id = :tenant)"
    session.execute(text(f"DELETE FROM deliveries WHERE {ours} AND state <> 'pending'"), whose)
    waiting = session.execute(text(f"SELECT id, body FROM deliveries WHERE {ours} FOR UPDATE"), whose).all()
    for row in waiting:
        event = msgspec.json.decode(row.body)
        if event["data"].get("metadata") is not None:
            body = msgspec.json.encode({**event, "data": {**event["data"], "metadata": None}}).decode()
            session.execute(text("UPDATE deliveries SET body = :body WHERE id = :id"), {"body": body, "id": row.id})


def forget(session: Session) -> None:
    """The log reaches back 30 days. A part a call; what waits to be delivered is younger than that."""
    session.execute(
        text("""
            DELETE FROM deliveries WHERE id IN (
                SELECT old.id FROM webhooks w CROSS JOIN LATERAL (
                    SELECT d.id FROM deliveries d WHERE d.webhook_id = w.id AND d.created_at < :before
                    ORDER BY d.created_at LIMIT :limit
                ) AS old LIMIT :limit
            ) AND state <> 'pending'
        """),
        {"before": datetime.now(UTC) - timedelta(days=KEPT_DAYS), "limit": _FORGET_AT_ONCE},
    )
