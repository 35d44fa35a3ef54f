"""Keys: made, listed, replaced and revoked by their own tenant."""

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from api import auth
from api.errors import documented
from api.pagination import ListQuery
from api.services import identity, services, tenant_id
from api.strict import Strict
from api.validation import optional, optional_body
from api.wire import answer, listed, unix
from db import keys
from db.errors import Conflict
from db.keys import GRACE, Issued, Scope
from db.models import APIKey

logger = logging.getLogger(__name__)

tag = Tag(name="keys", description="API keys of your tenant, with the scopes they have.")
bp = APIBlueprint("keys", __name__, url_prefix="/v1/keys", abp_tags=[tag])

_DAY = 86_400
_LONGEST_LIFE, _LONGEST_GRACE = 3_650 * _DAY, 30 * _DAY
_EXAMPLE_ID = "0mgcxk2l9h4t"
ScopeName = Literal["read", "submit", "admin"]


class KeyRequest(Strict):
    """A key to be made."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "example": {"name": "nightly import", "scopes": ["submit"], "expires_in_seconds": 7_776_000}
        },
    )

    name: str = Field("key", min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$", description="For people.")
    scopes: list[ScopeName] = Field(
        ["read", "submit"],
        min_length=1,
        max_length=3,
        description="What it is for: `read` looks, `submit` makes, changes and deletes jobs, files, uploads and "
        "webhooks, `admin` has keys and the audit log. None implies another, and no key grants a scope that it has not "
        "itself.",
    )
    expires_in_seconds: int | None = Field(
        None,
        ge=60,
        le=_LONGEST_LIFE,
        description="After how long it opens nothing any more; null: never. It ends with the key that "
        "asks, if that is sooner.",
    )


class RotationRequest(Strict):
    """How the old secret ends."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": {"grace_seconds": 3_600}})

    grace_seconds: int = Field(
        int(GRACE.total_seconds()),
        ge=0,
        le=_LONGEST_GRACE,
        description="How long the old secret opens beside the new one. 0: it ends at once.",
    )


class KeyObject(BaseModel):
    """A key, without its secret."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": _EXAMPLE_ID,
                "object": "api_key",
                "name": "nightly import",
                "scopes": ["submit"],
                "created_at": 1_790_000_000,
                "expires_at": 1_797_776_000,
                "revoked_at": None,
                "last_used_at": 1_790_003_600,
                "previous_secret_expires_at": None,
            }
        }
    )

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    scopes: list[ScopeName]
    created_at: int = Field(description="Unix seconds.")
    expires_at: int | None = Field(description="From when it opens nothing; null: never.")
    revoked_at: int | None
    last_used_at: int | None = Field(description="To the minute.")
    previous_secret_expires_at: int | None = Field(description="Until when the replaced secret opens, too.")

    @classmethod
    def fields_of(cls, key: APIKey) -> dict[str, Any]:
        return {
            "id": key.id,
            "name": key.name,
            "scopes": key.scopes,
            "created_at": unix(key.created_at) or 0,
            "expires_at": unix(key.expires_at),
            "revoked_at": unix(key.revoked_at),
            "last_used_at": unix(key.last_used_at),
            "previous_secret_expires_at": unix(key.previous_expires_at),
        }

    @classmethod
    def of(cls, key: APIKey) -> "KeyObject":
        return cls(**cls.fields_of(key))


class KeyWithSecret(KeyObject):
    """A key in clear, which is not shown again."""

    key: str = Field(description="What to send as `Authorization: Bearer <key>`. Bushel keeps only a hash of it.")

    @classmethod
    def issued(cls, issued: Issued) -> "KeyWithSecret":
        return cls(**cls.fields_of(issued.row), key=issued.key)


class KeyList(BaseModel):
    """A part of the list of keys."""

    object: Literal["list"] = "list"
    data: list[KeyObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class KeyPath(Strict):
    key_id: str = Field(
        description="The key's id: what stands between `bsh_` and the next `_`.",
        json_schema_extra={"example": _EXAMPLE_ID},
    )


@bp.get("", operation_id="list_keys", responses={200: KeyList, **documented(400, 401, 503)})
def index(query: ListQuery) -> Response:
    """List keys

    Those that were revoked or have expired, too.
    """
    with services().sessions() as session:
        page = keys.listing(session, tenant_id(), query.after, query.limit)
    return listed(page.rows, page.has_more, KeyObject.of)


@bp.post("", operation_id="create_key", responses={201: KeyWithSecret, **documented(400, 401, 409, 413, 415, 503)})
def create(body: KeyRequest) -> Response:
    """Create a key

    The answer has it in clear, once.
    """
    scopes = [Scope(name) for name in body.scopes]
    _ensure_may_grant(scopes)
    lifetime = None if body.expires_in_seconds is None else timedelta(seconds=body.expires_in_seconds)
    with services().sessions.begin() as session:
        ends = keys.get(session, tenant_id(), identity().key_id).expires_at
        issued = keys.add_key(session, tenant_id(), body.name, lifetime, scopes, auth.actor(), ends)
    _log(issued.row.id, "created")
    return _secret(issued, 201, Location=f"/v1/keys/{issued.row.id}")


@bp.get("/<key_id>", operation_id="get_key", responses={200: KeyObject, **documented(401, 404, 503)})
def show(path: KeyPath) -> Response:
    """Look at a key"""
    with services().sessions() as session:
        return answer(KeyObject.of(keys.get(session, tenant_id(), path.key_id)))


@bp.delete("/<key_id>", operation_id="revoke_key", responses={200: KeyObject, **documented(401, 404, 503)})
def revoke(path: KeyPath) -> Response:
    """Revoke a key

    It opens nothing from now on, and stays in the list. Revoking again changes nothing.
    """
    with services().sessions.begin() as session:
        key = keys.get(session, tenant_id(), path.key_id, locked=True)
        keys.revoke(session, key, auth.actor())
    _log(key.id, "revoked")
    return answer(KeyObject.of(key))


@bp.post(
    "/<key_id>/rotate",
    operation_id="rotate_key",
    openapi_extensions={"requestBody": optional(RotationRequest)},
    responses={200: KeyWithSecret, **documented(400, 401, 404, 409, 413, 415, 503)},
)
def rotate(path: KeyPath) -> Response:
    """Replace a key's secret

    Id, name, scopes and expiry stay. The old secret opens beside the new one for a day, or for as long as you say; one
    from a rotation before ends at once.
    """
    grace = timedelta(seconds=optional_body(RotationRequest).grace_seconds)
    # Whoever gets the new secret has the key's scopes: that is granting them.
    with services().sessions() as session:
        scopes = keys.get(session, tenant_id(), path.key_id).scopes
    _ensure_may_grant(map(Scope, scopes))
    with services().sessions.begin() as session:
        key = keys.get(session, tenant_id(), path.key_id, locked=True)
        _ensure_ends_before(key, keys.get(session, tenant_id(), identity().key_id))
        issued = keys.rotate(session, key, grace, auth.actor())
    _log(issued.row.id, "given a new secret")
    return _secret(issued)


def _secret(issued: Issued, status: int = 200, **headers: str) -> Response:
    response = answer(KeyWithSecret.issued(issued), status, **headers)
    response.headers["Cache-Control"] = "no-store"
    return response


def _ensure_may_grant(scopes: Iterable[Scope]) -> None:
    for scope in sorted(scopes):
        if scope not in identity().scopes:
            raise auth.refused(scope)


def _ensure_ends_before(key: APIKey, asking: APIKey) -> None:
    """Whoever gets the new secret has it for as long as the key lasts."""
    if asking.expires_at is not None and (key.expires_at is None or key.expires_at > asking.expires_at):
        message = f"API key {key.id} outlives the key that asks; replace its secret with one that lasts as long"
        raise Conflict(message, "key_outlives_yours")


def _log(key_id: str, what: str) -> None:
    logger.info("key %s %s", key_id, what, extra={"action": "key_changed", "key_id": key_id})
