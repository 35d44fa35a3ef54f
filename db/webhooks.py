"""Webhooks: where tenants are told of the ends of their jobs, and the events of those ends.

An event is written in the transaction that ends the job, so that there is one exactly if the job has ended.
"""

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete as delete_from
from sqlalchemy import func, literal_column, select, text
from sqlalchemy.orm import Session

from db import deliveries
from db.cursors import Page, beyond, born, is_id, page
from db.deliveries import Event
from db.errors import Conflict, NotFound
from db.ids import new_id, renamed
from db.models import Delivery, Webhook
from db.states import Count, JobStatus

PREFIX, EVENT_PREFIX = "wh_", "evt_"
TEST_EVENT = "webhook.test"
_ENDS = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.EXPIRED, JobStatus.CANCELLED)
BATCH_EVENTS = tuple(f"batch.{end}" for end in _ENDS)
JOB_EVENTS = tuple(f"job.{end}" for end in _ENDS)
# What one may subscribe to. A star stands for all of its kind.
SUBSCRIPTIONS = (*BATCH_EVENTS, "batch.*", *JOB_EVENTS, "job.*")
MOST_WEBHOOKS = 50
# How long a replaced secret goes on signing.
ROTATION_HOURS = 24


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret in clear, for the one time that it is shown."""

    webhook: Webhook
    value: str


def create(
    session: Session, tenant_id: str, url: str, events: Sequence[str] = BATCH_EVENTS, description: str = ""
) -> Secret:
    """A new webhook. The URL is checked by the caller, who knows what is allowed here."""
    have = session.scalar(select(func.count()).select_from(Webhook).where(Webhook.tenant_id == tenant_id)) or 0
    if have >= MOST_WEBHOOKS:
        raise Conflict(f"there are {have} webhooks already, the most there may be; delete one", "too_many_webhooks")
    id, secret = new_id(PREFIX), _new_secret()
    webhook = Webhook(
        id=id,
        tenant_id=tenant_id,
        url=url,
        events=list(events),
        description=description,
        secret=secret,
        created_at=born(id),
    )
    session.add(webhook)
    session.flush()
    session.refresh(webhook)
    return Secret(webhook, secret)


def get(session: Session, tenant_id: str, webhook_id: str, *, locked: bool = False) -> Webhook:
    """The webhook, or NotFound: unknown and foreign ones look the same."""
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.tenant_id == tenant_id)
    query = query.execution_options(populate_existing=True)
    if locked:
        query = query.with_for_update(key_share=True)
    webhook = session.scalar(query) if is_id(webhook_id, PREFIX) else None
    if webhook is None:
        raise NotFound("webhook", webhook_id)
    return webhook


def listing(session: Session, tenant_id: str, after: str | None, limit: int) -> Page[Webhook]:
    query = select(Webhook).where(Webhook.tenant_id == tenant_id)
    return page(session.scalars(beyond(query, tenant_id, Webhook, after, limit, "desc", PREFIX)).all(), limit)


@dataclass(frozen=True, slots=True)
class Change:
    """What to change of a webhook; None: as it is."""

    url: str | None = None
    events: Sequence[str] | None = None
    description: str | None = None
    enabled: bool | None = None


def change(session: Session, tenant_id: str, webhook_id: str, change: Change) -> Webhook:
    """Disabling gives up what waits to be delivered; enabling forgets how long it has been failing."""
    webhook = get(session, tenant_id, webhook_id, locked=True)
    if change.url is not None and change.url != webhook.url:
        # Another receiver, with a record of its own.
        webhook.url, webhook.failing_since = change.url, None
    if change.events is not None:
        webhook.events = list(change.events)
    if change.description is not None:
        webhook.description = change.description
    session.flush()
    if change.enabled is True and webhook.disabled_at is not None:
        webhook.disabled_at = webhook.disabled_reason = webhook.failing_since = None
    elif change.enabled is False and webhook.disabled_at is None:
        deliveries.disable(session, webhook_id, "it was disabled by hand")
    session.flush()
    session.refresh(webhook)
    return webhook


def delete(session: Session, tenant_id: str, webhook_id: str) -> None:
    """Remove it with its deliveries. One that is on its way may still arrive."""
    query = delete_from(Webhook).where(Webhook.id == webhook_id, Webhook.tenant_id == tenant_id).returning(Webhook.id)
    if not is_id(webhook_id, PREFIX) or session.scalar(query) is None:
        raise NotFound("webhook", webhook_id)


def rotate(session: Session, tenant_id: str, webhook_id: str) -> Secret:
    """Give it a new secret. The old one signs beside it for a day; one that was still doing so stops at once."""
    webhook = get(session, tenant_id, webhook_id, locked=True)
    webhook.previous_secret, webhook.secret = webhook.secret, _new_secret()
    webhook.previous_secret_expires_at = func.now() + literal_column(f"interval '{ROTATION_HOURS} hours'")
    session.flush()
    session.refresh(webhook)
    return Secret(webhook, webhook.secret)


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def test(session: Session, tenant_id: str, webhook_id: str) -> Delivery:
    """Send it an event of no meaning, whatever it subscribed to. The caller rings after commit."""
    webhook = enabled(session, tenant_id, webhook_id)
    event = _event(TEST_EVENT, {"id": webhook.id}, None)
    [delivery_id] = deliveries.add(session, [webhook.id], event)
    return deliveries.get(session, webhook.id, delivery_id)


def enabled(session: Session, tenant_id: str, webhook_id: str) -> Webhook:
    """The webhook, locked, to which something is to be sent; Conflict if it is disabled."""
    webhook = get(session, tenant_id, webhook_id, locked=True)
    if webhook.disabled_at is not None:
        raise Conflict(f"webhook {webhook_id} is disabled; enable it first", "webhook_disabled")
    return webhook


# Events


def emit(session: Session, job_id: str) -> bool:
    """Write the events of a job that has just ended, for whoever wants them; True if anybody does.

    Called in the transaction that ends the job, after its last status is set. The caller rings DELIVER
    after commit if this returned True.
    """
    row = session.execute(_ENDED_JOB, {"job": job_id}).one_or_none()
    if row is None:
        return False
    job = row._asdict()
    events = [_event(f"job.{job['status']}", _job_data(job), job_id)]
    if job["dialect"] == "openai":
        # Thin, as OpenAI sends it: the receiver fetches the batch.
        events.append(_event(f"batch.{job['status']}", {"id": renamed(job_id, "batch_")}, job_id))
    return any([_address(session, job["tenant_id"], event) for event in events])


def _address(session: Session, tenant_id: str, event: Event) -> bool:
    kind = event.type.partition(".")[0]
    # The lock keeps the webhook from being deleted or disabled until the deliveries are in.
    wanting = session.execute(
        text("""
            SELECT id FROM webhooks
            WHERE tenant_id = :tenant AND disabled_at IS NULL AND events ?| CAST(:names AS text[])
            ORDER BY id FOR SHARE
        """),
        {"tenant": tenant_id, "names": [event.type, f"{kind}.*"]},
    )
    ids = list(wanting.scalars())
    return bool(ids and deliveries.add(session, ids, event))


def _event(type: str, data: Mapping[str, Any], job_id: str | None) -> Event:
    return Event(new_id(EVENT_PREFIX), type, int(datetime.now(UTC).timestamp()), data, job_id)


_ENDED_JOB = text("""
    SELECT id, tenant_id, dialect, endpoint, task, model, status, dry_run, metadata, total, queued, running, succeeded,
        failed, cancelled, expired, input_tokens, output_tokens, input_file_id, output_file_id, error_file_id,
        report_file_id, parent_id, coalesce(CAST(errors ->> 'total' AS integer), 0) AS problems,
        CAST(extract(epoch FROM created_at) AS bigint) AS created_at,
        CAST(extract(epoch FROM coalesce(completed_at, failed_at, expired_at, cancelled_at)) AS bigint) AS ended_at
    FROM jobs
    WHERE id = :job AND NOT interactive AND status IN ('completed', 'failed', 'expired', 'cancelled')
""")
_SHOWN = (
    *("id", "status", "task", "model", "dialect", "endpoint", "parent_id", "dry_run", "metadata"),
    *("input_file_id", "output_file_id", "error_file_id", "report_file_id", "created_at", "ended_at"),
)


def _job_data(job: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a job at its end, under the names that the job itself has them."""
    tokens = {name: job[name] for name in ("input_tokens", "output_tokens")}
    return {
        "object": "job",
        **{name: job[name] for name in _SHOWN},
        "counts": {"total": job["total"], **{count.value: job[count.value] for count in Count}},
        "usage": {**tokens, "total_tokens": sum(tokens.values())},
        # How many problems of the input made it fail; the job lists them.
        "problems": job["problems"],
    }
