"""Webhooks: where you are told that a job has ended, and how the telling went."""

import logging
from typing import Annotated, Any, Literal

import httpx
from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from api import auth
from api.errors import InvalidRequest, documented
from api.pagination import ListQuery
from api.services import services, tenant_id
from api.strict import Kept, Strict
from api.wire import answer, listed, unix
from db import deliveries, webhooks
from db.audit_log import Act
from db.doorbell import DELIVER
from db.models import Delivery, Webhook
from db.states import DeliveryState
from db.targets import MAX_URL, BadTarget, check_url

logger = logging.getLogger(__name__)

tag = Tag(name="webhooks", description="Requests to a server of yours when a job has ended, signed.")
bp = APIBlueprint("webhooks", __name__, url_prefix="/v1/webhooks", abp_tags=[tag])

_EXAMPLE_ID = "wh_0mgcxk2l9h4t8v2c6y0q1w5r3"
_EXAMPLE_DELIVERY = "dlv_0mgcxk2l9h4t8v2c6y0q1w5r3"
_EXAMPLE_URL = "https://example.com/hooks/bushel"
EventName = Literal[
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "batch.*",
    "job.completed",
    "job.failed",
    "job.expired",
    "job.cancelled",
    "job.*",
]
StateName = Literal["pending", "delivered", "failed"]
_EVENTS_TEXT = (
    "`batch.*` tell of batches of the OpenAI API, with nothing but the id; `job.*` of every job, with its counts. "
    "A star stands for all four of a kind."
)


def _once_each(names: list[EventName]) -> list[EventName]:
    return list(dict.fromkeys(names))


Events = Annotated[list[EventName], AfterValidator(_once_each)]


class WebhookRequest(Strict):
    """What to be told, and where."""

    model_config = ConfigDict(json_schema_extra={"example": {"url": _EXAMPLE_URL, "events": ["job.completed"]}})

    url: str = Field(max_length=MAX_URL, description="Where events are sent by POST; https.")
    events: Events = Field(
        ["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"],
        min_length=1,
        max_length=20,
        description=_EVENTS_TEXT,
    )
    description: Kept = Field("", max_length=500, description="For you, to tell webhooks apart.")


class WebhookPatch(Strict):
    """What to change; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"example": {"enabled": True}})

    url: str | None = Field(None, max_length=MAX_URL, description="Where events are sent from now on.")
    events: Events | None = Field(None, min_length=1, max_length=20, description=_EVENTS_TEXT)
    description: Kept | None = Field(None, max_length=500)
    enabled: bool | None = Field(
        None, description="False: send nothing, and give up what waits. True: send what happens from now on."
    )

    @field_validator("url", "events", "description", "enabled", mode="before")
    @classmethod
    def _is_something(cls, value: object) -> object:
        if value is None:
            raise ValueError("must not be null; leave it out to keep it as it is")
        return value


class WebhookObject(BaseModel):
    """A webhook. The secret is only shown when it is made."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": _EXAMPLE_ID,
                "object": "webhook",
                "url": _EXAMPLE_URL,
                "events": ["job.completed"],
                "description": "",
                "enabled": True,
                "disabled_at": None,
                "disabled_reason": None,
                "failing_since": None,
                "previous_secret_expires_at": None,
                "created_at": 1_790_000_000,
            }
        }
    )

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[str]
    description: str
    enabled: bool
    disabled_at: int | None
    disabled_reason: str | None
    failing_since: int | None = Field(description="Since when nothing was delivered any more; null while it works.")
    previous_secret_expires_at: int | None = Field(description="Until when the replaced secret signs, too.")
    created_at: int = Field(description="Unix seconds.")

    @classmethod
    def fields_of(cls, webhook: Webhook) -> dict[str, Any]:
        return {
            "id": webhook.id,
            "url": webhook.url,
            "events": webhook.events,
            "description": webhook.description,
            "enabled": webhook.disabled_at is None,
            "disabled_at": unix(webhook.disabled_at),
            "disabled_reason": webhook.disabled_reason,
            "failing_since": unix(webhook.failing_since),
            "previous_secret_expires_at": unix(webhook.previous_secret_expires_at),
            "created_at": unix(webhook.created_at) or 0,
        }

    @classmethod
    def of(cls, webhook: Webhook) -> "WebhookObject":
        return cls(**cls.fields_of(webhook))


class WebhookWithSecret(WebhookObject):
    """A webhook and its new secret, which is not shown again."""

    secret: str = Field(description="What deliveries are signed with; give it to your receiver.")

    @classmethod
    def made(cls, made: webhooks.Secret) -> "WebhookWithSecret":
        return cls(**cls.fields_of(made.webhook), secret=made.value)


class WebhookList(BaseModel):
    """A part of the list of webhooks."""

    object: Literal["list"] = "list"
    data: list[WebhookObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookDeleted(BaseModel):
    """Said when a webhook is gone."""

    id: str
    object: Literal["webhook"] = "webhook"
    deleted: Literal[True] = True


class AttemptObject(BaseModel):
    """One try. Without `seconds`, the process that made it ended before it knew how it went."""

    at: float = Field(description="Unix seconds.")
    seconds: float | None = Field(None, description="How long it took.")
    status: int | None = Field(None, description="The status that the receiver answered.")
    error: str | None = Field(None, description="Why there is no answer, or what is wrong with it.")


class DeliveryObject(BaseModel):
    """One event on its way to one webhook, or arrived, or given up."""

    id: str
    object: Literal["webhook.delivery"] = "webhook.delivery"
    webhook_id: str
    event_id: str = Field(description="The same in every try and every redelivery; sent as `webhook-id`.")
    event: str
    job_id: str | None
    state: StateName
    attempts: int
    next_attempt_at: int | None
    log: list[AttemptObject]
    body: str = Field(description="What is sent and signed, to the byte.")
    created_at: int = Field(description="Unix seconds.")
    ended_at: int | None

    @classmethod
    def of(cls, delivery: Delivery) -> "DeliveryObject":
        is_pending = delivery.state == DeliveryState.PENDING
        return cls(
            id=delivery.id,
            webhook_id=delivery.webhook_id,
            event_id=delivery.event_id,
            event=delivery.event,
            job_id=delivery.job_id,
            state=delivery.state,
            attempts=delivery.attempts,
            next_attempt_at=unix(delivery.due_at) if is_pending else None,
            log=[AttemptObject.model_validate(entry) for entry in delivery.log],
            body=delivery.body,
            created_at=unix(delivery.created_at) or 0,
            ended_at=unix(delivery.ended_at),
        )


class DeliveryList(BaseModel):
    """A part of the list of deliveries."""

    object: Literal["list"] = "list"
    data: list[DeliveryObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookPath(Strict):
    webhook_id: str = Field(description="The webhook's id.", json_schema_extra={"example": _EXAMPLE_ID})


class DeliveryPath(WebhookPath):
    delivery_id: str = Field(description="The delivery's id.", json_schema_extra={"example": _EXAMPLE_DELIVERY})


class DeliveriesQuery(ListQuery):
    state: StateName | None = Field(None, description="Only deliveries in this state.")


@bp.post(
    "",
    operation_id="create_webhook",
    responses={201: WebhookWithSecret, **documented(400, 401, 409, 413, 415, 503)},
)
def create(body: WebhookRequest) -> Response:
    """Create a webhook

    The answer has the secret, once. Requests are signed as the Standard Webhooks specification says, so that
    `client.webhooks.unwrap` of the OpenAI client, or any library of that specification, verifies them.
    """
    host = _checked(body.url).host
    with services().sessions.begin() as session:
        made = webhooks.create(session, tenant_id(), body.url, body.events, body.description)
        # Of the URL only the host: receivers are often told apart by a secret in the path.
        auth.note(session, Act.WEBHOOK_CREATED, made.webhook.id, host=host)
    _log(made.webhook.id, "created", f"for {host}")
    return answer(WebhookWithSecret.made(made), 201, Location=f"/v1/webhooks/{made.webhook.id}")


@bp.get("", operation_id="list_webhooks", responses={200: WebhookList, **documented(400, 401, 503)})
def index(query: ListQuery) -> Response:
    """List webhooks"""
    with services().sessions() as session:
        page = webhooks.listing(session, tenant_id(), query.after, query.limit)
    return listed(page.rows, page.has_more, WebhookObject.of)


@bp.get("/<webhook_id>", operation_id="get_webhook", responses={200: WebhookObject, **documented(401, 404, 503)})
def show(path: WebhookPath) -> Response:
    """Look at a webhook"""
    with services().sessions() as session:
        return answer(WebhookObject.of(webhooks.get(session, tenant_id(), path.webhook_id)))


@bp.patch(
    "/<webhook_id>",
    operation_id="update_webhook",
    responses={200: WebhookObject, **documented(400, 401, 404, 413, 415, 503)},
)
def update(path: WebhookPath, body: WebhookPatch) -> Response:
    """Change a webhook

    `enabled: true` brings back one that was disabled, also by its failures.
    """
    if body.url is not None:
        _checked(body.url)
    change = webhooks.Change(body.url, body.events, body.description, body.enabled)
    with services().sessions.begin() as session:
        changed = webhooks.change(session, tenant_id(), path.webhook_id, change)
        auth.note(session, Act.WEBHOOK_CHANGED, path.webhook_id, fields=sorted(body.model_fields_set))
    _log(path.webhook_id, "changed", ", ".join(sorted(body.model_fields_set)))
    return answer(WebhookObject.of(changed))


@bp.delete("/<webhook_id>", operation_id="delete_webhook", responses={200: WebhookDeleted, **documented(401, 404, 503)})
def delete(path: WebhookPath) -> Response:
    """Delete a webhook

    With the log of its deliveries. Nothing more is sent, except what is on its way at this moment.
    """
    with services().sessions.begin() as session:
        webhooks.delete(session, tenant_id(), path.webhook_id)
        auth.note(session, Act.WEBHOOK_DELETED, path.webhook_id)
    _log(path.webhook_id, "deleted")
    return answer(WebhookDeleted(id=path.webhook_id))


@bp.post(
    "/<webhook_id>/rotate",
    operation_id="rotate_webhook_secret",
    responses={200: WebhookWithSecret, **documented(401, 404, 503)},
)
def rotate(path: WebhookPath) -> Response:
    """Replace a webhook's secret

    For 24 hours everything is signed with both, so that your receiver can change over at any time of them.
    """
    with services().sessions.begin() as session:
        made = webhooks.rotate(session, tenant_id(), path.webhook_id)
        auth.note(session, Act.WEBHOOK_SECRET_ROTATED, path.webhook_id)
    _log(path.webhook_id, "given a new secret")
    return answer(WebhookWithSecret.made(made))


@bp.post(
    "/<webhook_id>/test",
    operation_id="test_webhook",
    responses={202: DeliveryObject, **documented(401, 404, 409, 503)},
)
def test(path: WebhookPath) -> Response:
    """Send a test event

    `webhook.test`, whatever the webhook subscribed to. Its delivery tells how it went.
    """
    with services().sessions.begin() as session:
        delivery = webhooks.test(session, tenant_id(), path.webhook_id)
    return _sent(delivery)


@bp.get(
    "/<webhook_id>/deliveries",
    operation_id="list_deliveries",
    responses={200: DeliveryList, **documented(400, 401, 404, 503)},
)
def deliveries_index(path: WebhookPath, query: DeliveriesQuery) -> Response:
    """List a webhook's deliveries

    Newest first, with every try, for 30 days.
    """
    state = DeliveryState(query.state) if query.state else None
    with services().sessions() as session:
        webhook = webhooks.get(session, tenant_id(), path.webhook_id)
        page = deliveries.listing(session, webhook.id, query.after, query.limit, state)
    return listed(page.rows, page.has_more, DeliveryObject.of)


@bp.post(
    "/<webhook_id>/deliveries/<delivery_id>/redeliver",
    operation_id="redeliver",
    responses={202: DeliveryObject, **documented(401, 404, 409, 503)},
)
def redeliver(path: DeliveryPath) -> Response:
    """Send an event again

    The same event, to the byte and under the same id, as a new delivery. It goes where the webhook points now.
    """
    with services().sessions.begin() as session:
        webhook = webhooks.enabled(session, tenant_id(), path.webhook_id)
        delivery = deliveries.redeliver(session, webhook.id, path.delivery_id)
    return _sent(delivery)


def _sent(delivery: Delivery) -> Response:
    # Ring only once the row is committed: a worker that answered sooner would find nothing.
    services().doorbell.ring(DELIVER)
    return answer(DeliveryObject.of(delivery), 202)


def _checked(url: str) -> httpx.URL:
    try:
        return check_url(url, services().settings.webhook_private_addresses)
    except BadTarget as exc:
        raise InvalidRequest(f"`url` {exc}", param="url", code="invalid_url") from exc


def _log(webhook_id: str, what: str, more: str = "") -> None:
    # Of the URL only the host: receivers are often told apart by a secret in the path.
    fields = {"action": "webhook_changed", "webhook": webhook_id}
    logger.info("webhook %s %s %s", webhook_id, what, more, extra=fields)
