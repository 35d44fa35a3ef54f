"""The request as Bushel reads it: JSON, strictly."""

from typing import Any

import msgspec
from flask import Request, request

from api.errors import InvalidRequest


class BushelRequest(Request):
    """JSON bodies are read by msgspec, which refuses NaN, numbers out of range and nesting without end."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """The decoded body; InvalidRequest, with the place, if it is not JSON - `silent` or not."""
        # Only the value is kept for a second call; the bytes are as large again.
        if not hasattr(self, "_value"):
            self._value = self._decoded(force)
        return self._value

    def _decoded(self, force: bool) -> Any:
        if not self.is_json and not force:
            given = self.mimetype or "none"
            raise InvalidRequest(
                f"the body must be JSON, with Content-Type: application/json (not {given})",
                status=415,
                code="unsupported_media_type",
            )
        data = self.get_data(cache=False)
        if self.content_length is None:
            # Of a body without a length, werkzeug silently returns what fits the limit; asking for more is what tells.
            self.stream.read(1)
        try:
            return msgspec.json.decode(data)
        except RecursionError as exc:
            raise InvalidRequest("the JSON is nested too deeply", code="invalid_json") from exc
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise InvalidRequest(f"the body is not valid JSON: {_placed(data, exc)}", code="invalid_json") from exc


def has_body() -> bool:
    """Whether anything was sent beside the headers. A POST without a body need not say that it has none."""
    return bool(request.content_length) or bool(request.headers.get("Transfer-Encoding"))


def _placed(data: bytes, exc: Exception) -> str:
    message, _, tail = str(exc).partition(" (byte ")
    if not data.strip():
        return "it is empty"
    if not tail.rstrip(")").isdigit():
        return message
    before = data[: int(tail.rstrip(")"))]
    line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
    return f"{message} (line {line}, column {column})"
