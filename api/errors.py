"""What goes wrong, as HTTP: one table, one shape, never a traceback.

APIError
├── InvalidRequest     400, with every problem that was found
├── Unauthorized       401
├── InsufficientScope  403
├── ForeignPage        403
├── RateLimited        429
├── TimedOut           504
└── OutOfRoom          507
"""

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from flask import Flask, Response, current_app, request
from gunicorn.http.errors import ParseException
from pydantic import BaseModel, Field
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge

from api.hub import TooManyStreams
from api.services import services
from api.tracing import request_id
from api.transfers import TooManyTransfers
from api.waiting import NoSeat
from api.wire import encoded
from db.admission import Overloaded
from db.cursors import UnknownCursor
from db.errors import Conflict, IllegalTransition, NotFound, QuotaExceeded
from db.jobs import KEY_REUSED
from db.outages import outage
from db.store import StoreFull
from db.uploads import BEING_COMPLETED
from models.registry import NoDefaultModel, NoSuchTier, UnknownModel

logger = logging.getLogger(__name__)

INVALID, RATE_LIMIT, SERVER = "invalid_request_error", "rate_limit_error", "server_error"
# From a status and our error body to the body that is sent.
Reshape = Callable[[int, dict[str, Any]], dict[str, Any]]
_LISTED = 5
RETRY_SECONDS = 2
# Jobs end in minutes; asking every second would not make them end sooner.
QUOTA_SECONDS = 60
# Streams are kept open for long; meanwhile one asks now and then.
STREAM_SECONDS = 30
# Nor does room come by itself.
ROOM_SECONDS = 60


class APIError(Exception):
    """A refusal that knows its HTTP meaning. `details` are listed in the body under `error.details`.

    `retry_after` seconds are what to wait before trying again; `should_retry` tells clients that try again
    by themselves whether that can help, where the status alone would tell them wrong.
    """

    status, type, code = 400, INVALID, "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        details: Sequence[Mapping[str, Any]] | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after, self.should_retry = retry_after, should_retry
        self.message, self.param, self.details = message, param, details
        self.code = code or type(self).code
        self.status = status or type(self).status


class InvalidRequest(APIError):
    """The request cannot be served as it is, today or later."""


class Unauthorized(APIError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class InsufficientScope(APIError):
    """The key is good, and not for this."""

    status, type, code = 403, "permission_error", "insufficient_scope"


class ForeignPage(APIError):
    """A browser sent it, and no page of ours told it to."""

    status, type, code = 403, "permission_error", "foreign_page"


class RateLimited(APIError):
    status, type, code = 429, RATE_LIMIT, "rate_limit_exceeded"


class TimedOut(APIError):
    status, type, code = 504, SERVER, "request_timeout"


class OutOfRoom(APIError):
    status, type, code = 507, SERVER, "insufficient_storage"


class ErrorDetail(BaseModel):
    message: str = Field(description="A sentence for people: what is wrong and what to do.")
    type: str = Field(
        description="`invalid_request_error`, `authentication_error`, `permission_error`, `rate_limit_error` or "
        "`server_error`."
    )
    param: str | None = Field(description="The part of the request that is at fault, as a dotted path.")
    code: str | None = Field(description="A fixed word for programs.")
    details: list[dict[str, Any]] | None = Field(None, description="Every problem found, where there are several.")


class ErrorBody(BaseModel):
    """Every answer with a status of 400 or more has this body."""

    error: ErrorDetail


def body(
    message: str,
    type: str,
    code: str | None,
    param: str | None = None,
    details: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    error: dict[str, Any] = {"message": _encodable(message), "type": type, "param": param, "code": code}
    if details:
        error["details"] = list(details)
    return {"error": error}


def _encodable(text: str) -> str:
    """A message may quote what the client sent, and that may hold what UTF-8 cannot."""
    return text.encode(errors="backslashreplace").decode()


# status -> (type, code, what it means here); also the source of the error answers in the OpenAPI document.
MEANINGS: dict[int, tuple[str, str, str]] = {
    400: (INVALID, "invalid_request", "The request is malformed; the message lists every problem."),
    401: ("authentication_error", "invalid_api_key", "The API key is missing, unknown, expired or revoked."),
    403: (
        "permission_error",
        "insufficient_scope",
        "The API key lacks the scope that this needs; the message names it.",
    ),
    404: (INVALID, "not_found", "There is no such thing for this key."),
    405: (INVALID, "method_not_allowed", "The path does not take this method."),
    408: (INVALID, "request_timeout", "The request did not arrive in time."),
    409: (INVALID, "conflict", "What is asked contradicts the present state."),
    411: (INVALID, "length_required", "The request must say how long its body is."),
    413: (INVALID, "request_too_large", "The request is larger than the configured limit."),
    415: (INVALID, "unsupported_media_type", "The body has the wrong content type."),
    416: (INVALID, "range_not_satisfiable", "The range lies outside the file."),
    422: (INVALID, KEY_REUSED, "The Idempotency-Key was used for another request."),
    431: (INVALID, "headers_too_large", "The request headers are too large."),
    429: (RATE_LIMIT, "too_many_requests", "Too much at once; `retry-after` says in how many seconds to try again."),
    500: (SERVER, "internal_error", "A fault of the server; the log has it under the request id."),
    503: (SERVER, "unavailable", "The database, or this server, is busy or cannot be reached; try again."),
    504: (SERVER, "request_timeout", "There was no answer in time; the request was cancelled."),
    507: (SERVER, "insufficient_storage", "A disk of the service has no room."),
}


def documented(*statuses: int) -> dict[str | int, Any]:
    """The error answers of an operation, for the OpenAPI document."""
    return {status: _documented(status) for status in statuses}


def _documented(status: int) -> dict[str, Any]:
    type, code, meaning = MEANINGS[status]
    example = body(meaning, type, code)
    schema = {"$ref": "#/components/schemas/ErrorBody"}
    return {"description": meaning, "content": {"application/json": {"schema": schema, "example": example}}}


def install(app: Flask, reshaped: Reshape = lambda status, content: content) -> None:
    """Answer every exception; `reshaped` gives the body another form where a dialect has its own."""
    app.register_error_handler(Exception, partial(answered, reshaped))


def answered(reshaped: Reshape, exc: Exception) -> Response:
    """The one place where exceptions become HTTP."""
    status, content = _meaning(exc)
    content = reshaped(status, content)
    response = Response(encoded(content), status, content_type="application/json")
    if isinstance(exc, HTTPException):
        _keep_headers(exc, response)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="bushel"'
    _advise(exc, status, response)
    if status >= 500:
        _log(exc, status)
    return response


def _advise(exc: Exception, status: int, response: Response) -> None:
    """Say when to try again, and whether at all: the OpenAI clients retry 409, 429 and all of 5xx by themselves."""
    retry_after: float | None = {429: RETRY_SECONDS, 503: RETRY_SECONDS, 507: ROOM_SECONDS}.get(status)
    should_retry: bool | None = False if status in (409, 507) else None
    if (trouble := outage(exc)) is not None:
        retry_after = trouble.retry_after
    if isinstance(exc, TooManyStreams):
        retry_after = STREAM_SECONDS
    if isinstance(exc, Overloaded):
        retry_after, should_retry = exc.retry_after, False
    if isinstance(exc, QuotaExceeded):
        retry_after, should_retry = QUOTA_SECONDS if exc.ends_by_itself else None, False
    if isinstance(exc, Conflict) and exc.code == BEING_COMPLETED:
        retry_after, should_retry = RETRY_SECONDS, True
    if isinstance(exc, APIError):
        retry_after = retry_after if exc.retry_after is None else exc.retry_after
        should_retry = should_retry if exc.should_retry is None else exc.should_retry
    if retry_after is not None:
        response.headers["Retry-After"] = str(scattered(retry_after))
    if should_retry is not None:
        response.headers["x-should-retry"] = "true" if should_retry else "false"


def scattered(seconds: float) -> int:
    """Whole seconds, as RFC 9110 has them: never less, and up to half or three more, so that not all come at once."""
    return math.ceil(seconds + random.uniform(0, max(3.0, seconds / 2)))


def _meaning(exc: Exception) -> tuple[int, dict[str, Any]]:
    match exc:
        case APIError():
            return exc.status, body(exc.message, exc.type, exc.code, exc.param, exc.details)
        case NotFound():
            return 404, body(str(exc), INVALID, f"{exc.noun.replace(' ', '_')}_not_found")
        case UnknownModel():
            return 404, body(str(exc), INVALID, "model_not_found", "model")
        case NoDefaultModel():
            return 404, body(str(exc), INVALID, "model_not_found", "model")
        case NoSuchTier():
            return 400, body(str(exc), INVALID, "tier_not_found", "tier")
        case UnknownCursor():
            return 400, body(str(exc), INVALID, "unknown_cursor", "after")
        case Conflict():
            return (422 if exc.code == KEY_REUSED else 409), body(str(exc), INVALID, exc.code)
        case QuotaExceeded():
            return 429, body(str(exc), RATE_LIMIT, "quota_exceeded", details=[_quota(exc)])
        case NoSeat():
            return 429, body(str(exc), RATE_LIMIT, "too_many_requests")
        case TooManyStreams():
            return 429, body(str(exc), RATE_LIMIT, "too_many_streams")
        case TooManyTransfers():
            return 503, body(str(exc), SERVER, "too_many_transfers")
        case IllegalTransition():
            return 409, body(str(exc), INVALID, "illegal_transition")
        case StoreFull():
            return 507, body(str(exc), SERVER, "insufficient_storage")
        case ClientDisconnected() if isinstance(exc.__context__, TimeoutError):
            return 408, body("the request stopped arriving; send it again", INVALID, "request_timeout")
        case ClientDisconnected():
            return 400, body("the request ended before it was complete", INVALID, "incomplete_request")
        case ParseException():
            # The server reads a body without a length only as it is asked for, and then finds it malformed.
            return 400, body(f"the request is malformed: {exc}", INVALID, "invalid_request")
        case RequestEntityTooLarge():
            return 413, _too_large()
        case HTTPException():
            return _http(exc)
        case Overloaded():
            return 429, body(str(exc), RATE_LIMIT, "service_overloaded")
        case _ if (trouble := outage(exc)) is not None:
            return 507 if trouble.is_full else 503, body(trouble.message, SERVER, trouble.code)
        case _:
            return 500, body(
                f"something went wrong on our side; the server's log tells more under request id {request_id()}",
                SERVER,
                "internal_error",
            )


def _quota(exc: QuotaExceeded) -> dict[str, Any]:
    return {"quota": exc.quota, "used": exc.used, "wanted": exc.wanted, "limit": exc.limit}


def _http(exc: HTTPException) -> tuple[int, dict[str, Any]]:
    status = exc.code or 500
    type, code, _ = MEANINGS.get(status, (INVALID if status < 500 else SERVER, exc.name.lower().replace(" ", "_"), ""))
    if status == 404:
        message = f"there is no {request.path}{_meant()}; the API is described at /docs"
        return 404, body(message, type, "route_not_found")
    if status == 405:
        allowed = ", ".join(sorted(set(getattr(exc, "valid_methods", None) or ()) - {"OPTIONS"}))
        return 405, body(f"{request.path} does not take {request.method}; it takes {allowed}", type, code)
    return status, body(exc.description or exc.name, type, code)


def _meant() -> str:
    """Where the route is, if only a client's base URL has a `/v1` too few or too many."""
    path = request.path.removeprefix("/v1") if request.path.startswith("/v1/v1/") else f"/v1{request.path}"
    routes = current_app.create_url_adapter(request)
    if routes is None or not routes.test(path, method=request.method):
        return ""
    return f", but {path}: the base_url of OpenAI's client ends with /v1, that of Anthropic's does not"


def _too_large() -> dict[str, Any]:
    limit = request.max_content_length or services().settings.max_request_bytes
    return body(f"the request is larger than the {limit:,} bytes accepted here", INVALID, "request_too_large")


def _keep_headers(exc: HTTPException, response: Response) -> None:
    for name, value in exc.get_headers(request.environ):
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value


def _log(exc: Exception, status: int) -> None:
    fields = {"action": "request_failed", "request_id": request_id(), "status": status, "path": request.path}
    if status == 500:
        # The edge of the request: the only place that knows both the traceback and the request.
        logger.error("%s %s failed", request.method, request.path, exc_info=exc, extra=fields)
    else:
        logger.warning("%s %s: %s", request.method, request.path, type(exc).__name__, extra=fields)


def summary(problems: Sequence[str], total: int | None = None) -> str:
    """The first problems in one sentence each, and how many more there are."""
    total = len(problems) if total is None else total
    shown = "; ".join(problems[:_LISTED])
    return shown if total <= _LISTED else f"{shown}; and {total - _LISTED:,} more"
