"""What the server itself refuses, before the application hears of it, in the shape of all other errors."""

import http
import socket
from collections.abc import Callable
from typing import Any

from gunicorn.http.errors import (
    ConfigurationProblem,
    ExpectationFailed,
    ForbiddenProxyRequest,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.util import http_date

from api.errors import INVALID, SERVER, body
from api.headers import EVERYWHERE
from api.wire import encoded

NAME = "bushel"
# The first that fits; what else cannot be parsed is a 400.
_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    # What the application tried to send is not the client's fault.
    (InvalidResponseHeader, 500, "internal_error"),
    (InvalidResponseHeaderName, 500, "internal_error"),
    (LimitRequestLine, 414, "uri_too_long"),
    (LimitRequestHeaders, 431, "headers_too_large"),
    (ExpectationFailed, 417, "expectation_failed"),
    (ForbiddenProxyRequest, 403, "forbidden"),
    # RFC 9112 would have a 501, which tells a client that trying again may help, and an operator that we failed.
    (UnsupportedTransferCoding, 400, "unsupported_transfer_coding"),
    (ConfigurationProblem, 500, "internal_error"),
    (ParseException, 400, "invalid_request"),
)


def refusal(status: int, code: str, message: str, retry_after: int | None = None) -> bytes:
    """A whole HTTP answer that ends its connection."""
    content = encoded(body(message, INVALID if status < 500 else SERVER, code))
    headers = {
        "Server": NAME,
        "Date": http_date(),
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **({} if retry_after is None else {"Retry-After": str(retry_after)}),
        **EVERYWHERE,
    }
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + content


def nameless(app: Callable[..., Any]) -> Callable[..., Any]:
    """`app`, whose answers do not say by what they are served."""

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response.__self__.version = NAME  # type: ignore[attr-defined]
        return app(environ, start_response)

    return serve


class PlainErrors:
    """For a gunicorn worker, before its base: JSON in place of gunicorn's HTML pages, and no `Server: gunicorn`."""

    wsgi: Callable[..., Any]
    log: Any

    def load_wsgi(self) -> None:
        super().load_wsgi()  # type: ignore[misc]
        self.wsgi = nameless(self.wsgi)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer and forget. What the client sent is not repeated to it, and gets into the log in one line."""
        status, code = next(
            ((status, code) for kind, status, code in _STATUS if isinstance(exc, kind)), (500, "internal_error")
        )
        if status != 500:
            self.log.warning("a request was refused (%d): %s", status, type(exc).__name__)
            message = f"the request cannot be read: {_in_words(exc)}"
        else:
            self.log.error("a request failed in the server", exc_info=exc)
            message = "something went wrong on our side; the server's log tells more"
        try:
            client.sendall(refusal(status, code, message))
        except OSError as failed:
            self.log.debug("the refusal was not delivered: %s", failed)


def _in_words(exc: Exception) -> str:
    """`LimitRequestHeaders` -> `limit request headers`: gunicorn's sentences quote the request."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(exc).__name__).strip()
