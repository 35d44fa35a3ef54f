"""What every answer tells a browser that shows it: run nothing, frame nothing, guess nothing, keep nothing."""

from collections.abc import Mapping

from flask import Flask, Response, request

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
# The same for everybody, and nothing of anybody.
_PUBLIC = frozenset({"docs", "openapi_document", "home"})


def install(app: Flask) -> None:
    app.after_request(stamp)


def stamp(response: Response) -> Response:
    """Set, not added: no view has a reason of its own. HSTS is the business of the proxy, which speaks TLS."""
    response.headers.update(EVERYWHERE)
    if request.endpoint == "docs":
        response.headers["Content-Security-Policy"] = _PAGE
    if request.endpoint in _PUBLIC:
        response.headers["Cache-Control"] = "no-cache"
    return response
