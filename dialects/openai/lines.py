"""Lines of OpenAI's batch files: requests in, answers and errors out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from db.inputs import Input, Problem, Refused, check_custom_id
from db.lines import ResultRow, json_line
from dialects.fields import shown, unknown_keys
from dialects.openai.failures import failure
from dialects.openai.requests import read_request
from dialects.openai.responses import Names, body

_KEYS = ("custom_id", "method", "url", "body")
_EXAMPLE = '{"custom_id": "a", "method": "POST", "url": "…", "body": {…}}'
_UNFINISHED = {
    "cancelled": {"code": "batch_cancelled", "message": "The batch was cancelled before this request was run."},
    "expired": {"code": "batch_expired", "message": "The batch's completion window ended before this request was run."},
}


def read_line(value: object, endpoint: str) -> Input:
    """One decoded line as an Input.

    Raises Refused for what is wrong with the line. What is wrong inside `body` is the request's own matter: it
    comes back as the Input's refusal.
    """
    if not isinstance(value, Mapping):
        message = f"the line is {shown(value)}, not an object"
        raise Refused([Problem("invalid_json_line", message, f"write {_EXAMPLE}")])
    custom_id, body = value.get("custom_id"), value.get("body")
    if (
        len(value) == 4
        and value.get("method") == "POST"
        and value.get("url") == endpoint
        and isinstance(body, Mapping)
        and not check_custom_id(custom_id)
    ):
        return read_request(endpoint, body, custom_id)
    raise Refused(_problems(value, endpoint))


def _problems(value: Mapping[str, Any], endpoint: str) -> list[Problem]:
    problems: list[Problem] = []
    problems += [replace(problem, code="invalid_request") for problem in unknown_keys(value, _KEYS)]
    problems += [
        Problem("invalid_request", f"the line has no {key}", f"write {_EXAMPLE}", param=key)
        for key in _KEYS
        if key not in value
    ]
    if "custom_id" in value:
        problems += check_custom_id(value["custom_id"])
    if "method" in value and value["method"] != "POST":
        message = f"method is {shown(value['method'])}"
        problems.append(Problem("invalid_request", message, "it must be POST", param="method"))
    if "url" in value and value["url"] != endpoint:
        message = f"url is {shown(value['url'])}, but the batch's endpoint is {endpoint}"
        problems.append(Problem("url_mismatch", message, f"write {endpoint}, or make another batch", param="url"))
    if "body" in value and not isinstance(value["body"], Mapping):
        message = f"body is {shown(value['body'])}"
        problems.append(Problem("invalid_request", message, "it must be an object", param="body"))
    return problems


class OpenAILines:
    """Output lines and error lines alike: which of them a row becomes follows from its outcome."""

    content_type, extension = "application/jsonl", "jsonl"

    def __init__(self, endpoint: str, job_id: str) -> None:
        self._endpoint = endpoint
        self._job_id = job_id
        self._names = Names(job_id)
        self._encode = msgspec.json.Encoder().encode

    def header(self) -> bytes:
        return b""

    def line(self, row: ResultRow) -> bytes:
        value: dict[str, Any] = {
            "id": self._names.of_line(row.index),
            "custom_id": row.custom_id,
            "response": None,
            "error": None,
        }
        if row.error_code is None and row.status in _UNFINISHED:
            value["error"] = _UNFINISHED[row.status]
        else:
            value["response"] = self._response(row)
        return json_line(self._encode(value))

    def _response(self, row: ResultRow) -> dict[str, Any]:
        if row.error_code is None:
            status, answer = 200, body(self._endpoint, row, self._job_id)
        else:
            failed = failure(row)
            status, answer = failed.status, {"error": failed.error}
        return {"status_code": status, "request_id": self._names.of_request(row.index), "body": answer}
