"""What every answer of the Anthropic API has: its error envelope, and its own name for the request id."""

from typing import Any, Literal

from flask import Response, request
from pydantic import BaseModel, Field

from api.anthropic import wire
from api.tracing import request_id

PATH = "/v1/messages"
HEADER = "request-id"


class MessagesErrorDetail(BaseModel):
    type: str = Field(description="`invalid_request_error`, `not_found_error`, `overloaded_error` …")
    message: str = Field(description="A sentence for people: what is wrong and what to do.")
    details: dict[str, Any] | None = Field(
        None, description="`error_code` is a fixed word for programs, `param` the part of the request at fault."
    )


class MessagesError(BaseModel):
    """Every answer of the Anthropic API with a status of 400 or more has this body."""

    type: Literal["error"]
    error: MessagesErrorDetail
    request_id: str | None


def is_ours(path: str) -> bool:
    return path == PATH or path.startswith(f"{PATH}/")


def reshaped(status: int, content: dict[str, Any]) -> dict[str, Any]:
    """The error body that the other dialects share, in Anthropic's form where its API is asked."""
    if not is_ours(request.path):
        return content
    error = content["error"]
    details = {"error_code": error["code"], "param": error["param"], "problems": error.get("details")}
    said = {name: value for name, value in details.items() if value is not None}
    return wire.envelope(status, error["message"], said, request_id())


def stamp(response: Response) -> Response:
    if is_ours(request.path):
        response.headers[HEADER] = request_id()
    return response


def documented(*statuses: int) -> dict[str | int, Any]:
    """The error answers of an operation, for the OpenAPI document."""
    return dict.fromkeys(statuses, MessagesError)
