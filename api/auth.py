"""Who asks: key, tenant, pace and scope, all told before anything of the request is read."""

import logging
from datetime import UTC, datetime, timedelta

from flask import Flask, Response, g, request
from sqlalchemy.orm import Session

from api import browsers
from api.errors import ForeignPage, InsufficientScope, RateLimited, Unauthorized
from api.limits import WINDOW_SECONDS, Taken
from api.scopes import PAGES, PUBLIC, needed
from api.services import identity, services, tenant_id
from api.tracing import request_id
from db import audit_log, keys, passes, sign_ins
from db.audit_log import Act, Actor
from db.keys import Scope
from db.passes import Pass
from db.quotas import effective

logger = logging.getLogger(__name__)

# Of equal refusals in a row only the first one in so long is worth an entry.
_SAME_REFUSAL = timedelta(minutes=1)


def install(app: Flask) -> None:
    app.before_request(_admit)
    app.after_request(_stamp)


def _admit() -> None:
    # Without a rule there is nothing to protect: the answer is 404 or 405, whoever asks.
    if request.url_rule is None or request.endpoint in PUBLIC or _is_public_here():
        return
    _authenticate()
    _pace()
    # A page is the same for all who are signed in; what it shows it asks for.
    if request.endpoint in PAGES:
        return
    scope = needed(request.endpoint)
    if scope not in identity().scopes:
        raise refused(scope)


def _is_public_here() -> bool:
    """Metrics, where the operator has said so."""
    return request.endpoint == "metrics.show" and services().settings.metrics_public


def _authenticate() -> None:
    key = _given_key()
    if not key and not browsers.secret():
        raise Unauthorized(
            "no API key; send it as `Authorization: Bearer <key>` or as `x-api-key: <key>`", code="missing_api_key"
        )
    if not key and not browsers.may_change():
        raise ForeignPage(
            f"a browser's sign-in opens this to pages of this server only, with the header `{browsers.HEADER}: 1`; "
            "programs send an API key"
        )
    # Whose it is nobody knows yet, so no tenant's session would find it.
    with services().keyring.begin() as session:
        now = datetime.now(UTC)
        found = keys.verify(session, key, now) if key else sign_ins.verify(session, browsers.secret(), now)
    if found is None:
        raise unknown("API key" if key else "sign-in")
    g.identity, g.tenant_id = found, found.tenant_id


def unknown(what: str) -> Unauthorized:
    """The error of a key, or of a browser's sign-in, that opens nothing."""
    fields = {"action": "auth_failed", "request_id": request_id(), "address": request.remote_addr}
    logger.warning("a request with an invalid %s was refused", what, extra=fields)
    if what == "sign-in":
        return Unauthorized("you are signed out; sign in again", code="signed_out")
    return Unauthorized("the API key is not valid; it may be mistyped, replaced, revoked or expired")


def presented(session: Session, now: datetime) -> Pass:
    """What the request was opened with, for what goes on after it. Unauthorized if that has just ended."""
    key = _given_key()
    found = passes.of_key(session, key, now) if key else passes.of_browser(session, browsers.secret(), now)
    if found is None:
        raise unknown("API key" if key else "sign-in")
    return found


def _given_key() -> str:
    """A bearer key goes before an `x-api-key`, by which Anthropic's clients say the same."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return request.headers.get("x-api-key", "").strip()


def _pace() -> None:
    service = services()
    most = effective(identity().requests_per_second, service.settings.tenant_requests_per_second)
    if most is None:
        return
    taken = service.rates.take(tenant_id(), most)
    g.taken = taken
    if not taken.is_allowed:
        raise RateLimited(
            f"more than {most:,} requests in a second, which is what your tenant may make; send them more slowly",
            retry_after=WINDOW_SECONDS,
        )


def _stamp(response: Response) -> Response:
    """What is left of the tenant's requests, as the IETF's draft of RateLimit header fields has it."""
    taken: Taken | None = g.get("taken")
    if taken is not None:
        response.headers["RateLimit-Policy"] = f'"requests";q={taken.limit};w={WINDOW_SECONDS}'
        response.headers["RateLimit"] = f'"requests";r={taken.remaining};t={WINDOW_SECONDS}'
    return response


def refused(scope: Scope) -> InsufficientScope:
    """The error of a key that lacks a scope, which is in the audit log now."""
    what, by = f"{request.method} {request.url_rule}", actor()
    with services().sessions.begin() as session:
        if not audit_log.noted_lately(session, tenant_id(), by, Act.SCOPE_REFUSED, what, _SAME_REFUSAL):
            audit_log.note(session, tenant_id(), by, Act.SCOPE_REFUSED, what, needed=scope)
    have = ", ".join(sorted(identity().scopes)) or "none"
    return InsufficientScope(f"this needs a key with the scope `{scope}`; the scopes of this key: {have}")


def actor() -> Actor:
    """The key that asks, and where from, for the audit log."""
    return Actor(identity().key_id, request_id(), request.remote_addr)


def note(session: Session, act: Act, object: str, **detail: object) -> None:
    """Put what the asking key does into its tenant's audit log, with the transaction that does it."""
    audit_log.note(session, tenant_id(), actor(), act, object, **detail)
