"""Who asks: the tenant of the key, looked up before anything of the request is read."""

import logging
from datetime import UTC, datetime

from flask import Flask, g, request

from api.errors import Unauthorized
from api.services import services
from api.tracing import request_id
from db import keys

logger = logging.getLogger(__name__)

# Everything else needs a key, also what is added later and forgets to say so.
PUBLIC = frozenset({"health.healthz", "health.readyz", "openapi_document", "docs", "home"})


def install(app: Flask) -> None:
    app.before_request(_authenticate)


def _authenticate() -> None:
    # Without a rule there is nothing to protect: the answer is 404 or 405, whoever asks.
    if request.url_rule is None or request.endpoint in PUBLIC:
        return
    key = _given_key()
    if not key:
        raise Unauthorized(
            "no API key; send it as `Authorization: Bearer <key>` or as `x-api-key: <key>`", code="missing_api_key"
        )
    with services().sessions.begin() as session:
        tenant = keys.verify(session, key, datetime.now(UTC))
    if tenant is None:
        fields = {"action": "auth_failed", "request_id": request_id(), "address": request.remote_addr}
        logger.warning("a request with an invalid API key was refused", extra=fields)
        raise Unauthorized("the API key is not valid; it may be mistyped, revoked or expired")
    g.tenant_id = tenant


def _given_key() -> str:
    """A bearer key goes before an `x-api-key`, by which Anthropic's clients say the same."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return request.headers.get("x-api-key", "").strip()
