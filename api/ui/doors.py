"""Signing browsers in and out."""

import logging
from datetime import UTC, datetime
from urllib.parse import urlencode

from flask import Response, make_response, redirect, render_template, request
from flask.typing import ResponseReturnValue

from api import auth, browsers
from api.errors import ForeignPage
from api.services import services
from api.tracing import request_id
from db import audit_log, sign_ins
from db.audit_log import Act, Actor

logger = logging.getLogger(__name__)


def sign_in() -> ResponseReturnValue:
    """The form, and where it is sent: an API key for a cookie that opens what the key opens."""
    if request.method != "POST":
        wanted = _inside(request.args.get("next", ""))
        return redirect(wanted, 303) if _is_signed_in() else _form(wanted)
    _ensure_ours()
    wanted, key = _inside(request.form.get("next", "")), request.form.get("key", "").strip()
    if not key:
        return _form(wanted, "Enter an API key.", 400)
    with services().keyring.begin() as session:
        begun = sign_ins.begin(session, key, datetime.now(UTC))
        if begun is not None:
            identity = begun[0]
            by = Actor(identity.key_id, request_id(), request.remote_addr)
            audit_log.note(session, identity.tenant_id, by, Act.SIGNED_IN, identity.key_id)
    if begun is None:
        return _form(wanted, auth.unknown("API key").message, 401)
    logger.info("a browser signed in with key %s", identity.key_id, extra={"action": "signed_in"})
    response = make_response(redirect(wanted, 303))
    _set_cookie(response, begun[1], int(sign_ins.LIFETIME.total_seconds()))
    return response


def sign_out() -> ResponseReturnValue:
    """End the browser's sign-in, here and in its cookie; for one that is not signed in it changes nothing."""
    _ensure_ours()
    with services().keyring.begin() as session:
        sign_ins.end(session, browsers.secret(), datetime.now(UTC))
    response = make_response(redirect("/sign-in", 303))
    _set_cookie(response, "", 0)
    return response


def sign_in_address(path: str) -> str:
    """Where to sign in on the way to a page of ours."""
    return "/sign-in" if path == "/" else f"/sign-in?{urlencode({'next': path})}"


def _ensure_ours() -> None:
    if not browsers.is_from_our_page():
        raise ForeignPage("this form was not sent by a page of this server; open it here and send it again")


def _is_signed_in() -> bool:
    with services().keyring.begin() as session:
        return sign_ins.verify(session, browsers.secret(), datetime.now(UTC)) is not None


def _form(wanted: str, problem: str | None = None, status: int = 200) -> Response:
    page = render_template("ui/sign_in.html", title="Sign in", wanted=wanted, problem=problem)
    return Response(page, status)


def _set_cookie(response: Response, secret: str, seconds: int) -> None:
    response.set_cookie(
        browsers.cookie_name(),
        secret,
        max_age=seconds,
        path="/",
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
    )


def _inside(path: str) -> str:
    """A path of this server, whatever was asked for: no other host, and no header of its own.

    >>> _inside("/jobs/1?a=b"), _inside("//evil.example"), _inside("/\\\\evil.example"), _inside("https://evil.example")
    ('/jobs/1?a=b', '/', '/', '/')
    """
    is_path = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_path and not path.startswith(("/sign-", "/v1/")) else "/"
