"""What is told of a request: to the log, to the metrics, and to its trace."""

import time
from typing import cast

from flask import Flask, Response, g, request

from api import metrics, tracing
from telemetry import logs, traces
from telemetry.traces import Live

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Asked every few seconds for ever, and part of nothing.
_UNTRACED = frozenset({"health.healthz", "health.readyz", "metrics.show"})


def install(app: Flask) -> None:
    """To be installed first: everything else that happens to a request happens inside of this."""
    app.before_request(_begin)
    app.after_request(_note_status)
    app.teardown_request(_end)


def _begin() -> None:
    tracing.begin()
    logs.begin(request_id=tracing.request_id())
    metrics.IN_PROGRESS.inc()
    g.begun_at = time.perf_counter()
    if traces.is_on() and request.endpoint not in _UNTRACED:
        attributes = {"http.request.method": method(), "http.route": route(), "bushel.request_id": tracing.request_id()}
        parent = request.headers.get("traceparent")
        g.span = traces.begin(f"{method()} {route()}", parent, attributes, is_server=True)
        logs.add(trace_id=g.span.trace_id)


def _note_status(response: Response) -> Response:
    g.status = response.status_code
    return response


def _end(exc: BaseException | None) -> None:
    if "begun_at" not in g:
        return
    # Popped, so that a request that is torn down twice counts once.
    seconds, status = time.perf_counter() - g.pop("begun_at"), int(g.get("status", 500))
    metrics.IN_PROGRESS.dec()
    metrics.REQUESTS.labels(method(), route(), str(status)).inc()
    metrics.SECONDS.labels(method(), route()).observe(seconds)
    live = cast("Live | None", g.pop("span", None))
    if live is not None:
        live.note(http__response__status_code=status)
        if status >= 500:
            live.failed(str(status))
        live.end()
    logs.begin()


def method() -> str:
    """One of the known ones: whatever else a client writes there is no label."""
    return request.method if request.method in _METHODS else "other"


def route() -> str:
    """The pattern, never the path, which has ids and whatever a client writes."""
    return "none" if request.url_rule is None else request.url_rule.rule
