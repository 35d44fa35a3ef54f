"""Answers of the Messages API, and the lines of a message batch's results.

A model here stops by itself, at its limit, or at one of the request's `stop_sequences`; the engines do not tell
the first from the last, so that `stop_reason` is `end_turn` for both and `stop_sequence` is always null.
"""

from typing import Any

from db.ids import renamed
from db.lines import ResultRow
from dialects.aliases import param_and_message

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
_ERROR_TYPES = {
    "model_not_found": "not_found_error",
    "model_unavailable": "overloaded_error",
    "worker_crashed": "api_error",
    "engine_error": "api_error",
    "internal_error": "api_error",
}
_UNFINISHED = {"cancelled": "canceled", "expired": "expired"}


def message(row: ResultRow, job_id: str, tier: str = "standard") -> dict[str, Any]:
    """The message that answers the request of a row that succeeded.

    An answer that was computed for an equal request of the same batch has its input counted as read from a cache.
    An input that was cut because the batch asked for it says so in an object of its own, `bushel`.
    """
    output = row.output or {}
    answer: dict[str, Any] = {
        "id": f"{renamed(job_id, 'msg_')}_{row.index}",
        "type": "message",
        "role": "assistant",
        "model": row.input["request"].get("model"),
        "content": [{"type": "text", "text": row.text, "citations": None}],
        "container": None,
        "stop_details": None,
        "stop_reason": _STOP_REASONS[output["finish_reason"]],
        "stop_sequence": None,
        "usage": {
            "cache_creation": None,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": row.reused_input_tokens,
            "input_tokens": row.input_tokens,
            "output_tokens": row.output_tokens + row.reused_output_tokens,
            "server_tool_use": None,
            "service_tier": tier,
        },
    }
    if dropped := output.get("truncated_tokens"):
        answer["bushel"] = {"truncated_tokens": dropped}
    return answer


def result_line(row: ResultRow, job_id: str) -> dict[str, Any]:
    """What the results of a batch say about one request."""
    return {"custom_id": row.custom_id, "result": _result(row, job_id)}


def _result(row: ResultRow, job_id: str) -> dict[str, Any]:
    if row.error_code is not None:
        return {"type": "errored", "error": error(row, job_id)}
    if row.status in _UNFINISHED:
        return {"type": _UNFINISHED[row.status]}
    return {"type": "succeeded", "message": message(row, job_id, "batch")}


def error(row: ResultRow, job_id: str) -> dict[str, Any]:
    """The envelope for an item that failed. It has no place for the parameter's name; the message tells it."""
    code = row.error_code or ""
    return {
        "type": "error",
        "error": {
            "type": _ERROR_TYPES.get(code, "invalid_request_error"),
            "message": param_and_message(row)[1] or code,
        },
        "request_id": f"{renamed(job_id, 'req_')}_{row.index}",
    }
