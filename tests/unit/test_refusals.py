"""What the server refuses before the application hears of it is the client's fault, and says so in our shape."""

import json
import logging
import socket

import pytest
from gunicorn.http.errors import (
    InvalidHeader,
    InvalidRequestLine,
    LimitRequestHeaders,
    LimitRequestLine,
    UnsupportedTransferCoding,
)

from api.refusals import PlainErrors


class Worker(PlainErrors):
    """As much of gunicorn's worker as a refusal needs."""

    log = logging.getLogger("test")


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (UnsupportedTransferCoding("xchunked"), 400),
        (InvalidHeader("a\r\nb"), 400),
        (InvalidRequestLine("GET"), 400),
        (LimitRequestLine(9_000, 8_190), 414),
        (LimitRequestHeaders("too many"), 431),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_request_that_cannot_be_read_is_no_failure_of_the_server(fault: Exception, status: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Worker().handle_error(None, ours, None, fault)
        ours.shutdown(socket.SHUT_WR)
        head, _, content = theirs.recv(65_536).partition(b"\r\n\r\n")

    assert head.split(b" ")[1] == str(status).encode()
    error = json.loads(content)["error"]
    assert error["type"] == "invalid_request_error" and "cannot be read" in error["message"]
