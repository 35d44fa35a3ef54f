"""The id under which a request is found again: in the answer's header, in errors and in the log."""

import re
import secrets
from typing import cast

from flask import Response, g, request

HEADER = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}\Z")


def begin() -> None:
    """Take the client's own id if it is a sane one, else a new one."""
    given = request.headers.get(HEADER, "")
    g.request_id = given if _SANE.match(given) else f"req_{secrets.token_hex(12)}"


def request_id() -> str:
    return cast("str", g.get("request_id", ""))


def stamp(response: Response) -> Response:
    response.headers[HEADER] = request_id()
    return response
