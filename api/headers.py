"""What every answer tells a browser that shows it: run nothing, frame nothing, guess nothing, keep nothing."""

from collections.abc import Mapping

from flask import Flask, Response, request

from api.scopes import PAGES

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
EVERYWHERE: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": NOTHING,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# The page's one style sheet is inside it; no script, no picture, no font, whatever a description says.
_PAGE = NOTHING.replace("default-src 'none'", "default-src 'none'; style-src 'unsafe-inline'")
# The dashboard: its own style sheet and modules, its own API, its own forms. No script can write markup either.
DASHBOARD = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
# The same for everybody, and nothing of anybody.
_PUBLIC = frozenset({"docs", "openapi_document"})
_DASHBOARD = PAGES | {"ui.sign_in", "ui.sign_out"}


def install(app: Flask) -> None:
    app.after_request(stamp)


def stamp(response: Response) -> Response:
    """Set, not added: no view has a reason of its own, but the one of files that have their hash in their path.

    HSTS is the business of the proxy, which speaks TLS.
    """
    kept = response.headers.get("Cache-Control")
    response.headers.update(EVERYWHERE)
    if request.endpoint == "ui.static" and kept is not None:
        response.headers["Cache-Control"] = kept
    if request.endpoint in _DASHBOARD:
        response.headers["Content-Security-Policy"] = DASHBOARD
        # With none, browsers do not say either where a form was sent from.
        response.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint == "docs":
        response.headers["Content-Security-Policy"] = _PAGE
    if request.endpoint in _PUBLIC:
        response.headers["Cache-Control"] = "no-cache"
    return response
