"""One message, answered while the client waits."""

from typing import Any, Literal, NoReturn

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field

from api import single
from api.anthropic.answers import PATH, documented
from api.anthropic.batches import DIALECT, ENDPOINT, tag
from api.errors import APIError
from api.wire import answer
from db.inputs import Input, Refused
from db.lines import ResultRow
from db.states import Outcome
from dialects.anthropic.requests import read_params
from dialects.anthropic.responses import message
from dialects.openai.failures import failure

bp = APIBlueprint("messages", __name__, url_prefix=PATH, abp_tags=[tag])


class MessageObject(BaseModel):
    """The answer of a model. There is one block of text in `content`."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens"]
    stop_sequence: str | None = Field(description="Always null: engines do not tell which one ended the text.")
    usage: dict[str, Any]


_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["model", "max_tokens", "messages"],
                "properties": {
                    "model": {"type": "string", "description": "A generation model from GET /v1/models."},
                    "max_tokens": {"type": "integer", "minimum": 1},
                    "messages": {"type": "array", "items": {"type": "object"}},
                    "system": {"description": "A string, or a list of text blocks."},
                    "temperature": {"type": "number", "minimum": 0, "maximum": 1},
                    "top_p": {"type": "number"},
                    "top_k": {"type": "integer"},
                    "stop_sequences": {"type": "array", "items": {"type": "string"}},
                },
                "example": {
                    "model": "a-chat-model",
                    "max_tokens": 64,
                    "messages": [{"role": "user", "content": "Name a colour."}],
                },
            }
        }
    },
}


@bp.post(
    "",
    operation_id="create_message",
    openapi_extensions={"requestBody": _BODY},
    responses={200: MessageObject, **documented(400, 401, 404, 413, 415, 429, 500, 503, 504)},
)
def create() -> Response:
    """Create a message

    Runs before all jobs, and waits for the answer. Not streamed.
    """
    job_id, row = single.run_one(DIALECT, ENDPOINT, _read(request.get_json()))
    if row.status != Outcome.SUCCEEDED:
        raise _failed(row)
    return answer(message(row, job_id))


@bp.post("/count_tokens", operation_id="count_message_tokens", responses=documented(401, 404, 503))
def count_tokens() -> NoReturn:
    """Count tokens (not offered)

    Every model counts differently, and only workers have models. The `usage` of an answer tells.
    """
    raise APIError(
        "tokens are not counted beforehand: only workers have the models that could; the `usage` of an answer tells",
        status=404,
        code="not_offered",
    )


def _read(body: object) -> Input:
    try:
        return read_params(body)
    except Refused as exc:
        raise single.refusal(exc.problems) from exc


def _failed(row: ResultRow) -> APIError:
    found = failure(row)
    return APIError(
        found.error["message"] or "the request failed",
        status=found.status,
        param=found.error["param"],
        code=found.error["code"],
    )
