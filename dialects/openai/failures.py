"""Failed items as OpenAI's errors: a status, and the object inside the envelope."""

from dataclasses import dataclass

from db.lines import ResultRow
from dialects.aliases import param_and_message

# Ours, not the request's: sending it again may help.
_SERVER: dict[str, int] = {"worker_crashed": 500, "engine_error": 500, "internal_error": 500, "model_unavailable": 503}
_UNFINISHED = {"cancelled": "batch_cancelled", "expired": "batch_expired"}


@dataclass(frozen=True, slots=True)
class Failure:
    """`error` has the keys message, type, param and code."""

    status: int
    error: dict[str, str | None]


def failure(row: ResultRow) -> Failure:
    """What to answer for an item that did not succeed, in a file or at once."""
    if row.error_code is None:
        message = (row.error or {}).get("message")
        return _failure(503, "server_error", message, None, _UNFINISHED[row.status])
    code, (param, message) = row.error_code, param_and_message(row)
    if code in _SERVER:
        return _failure(_SERVER[code], "server_error", message, param, code)
    if code == "model_not_found":
        return _failure(404, "invalid_request_error", message, param or "model", code)
    if code == "input_too_long":
        param = param or ("messages" if "messages" in row.input else None)
        return _failure(400, "invalid_request_error", message, param, "context_length_exceeded")
    return _failure(400, "invalid_request_error", message, param, code)


def _failure(status: int, type: str, message: str | None, param: str | None, code: str) -> Failure:
    return Failure(status, {"message": message or code, "type": type, "param": param, "code": code})
