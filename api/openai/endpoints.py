"""The endpoints of a batch's lines, for one request at a time: for trying what is then sent by the file."""

from typing import Any

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.errors import documented
from api.openai.bodies import BODIES
from api.single import refusal, run_one
from api.wire import answer
from db.inputs import Refused
from db.states import Outcome
from dialects.openai import responses
from dialects.openai.endpoints import Endpoint
from dialects.openai.failures import failure
from dialects.openai.requests import read_body

tag = Tag(
    name="single requests",
    description="One request, answered at once: it goes before all batches, and waits for a worker up to a limit.",
)
bp = APIBlueprint("endpoints", __name__, abp_tags=[tag])

DIALECT = "openai"
_ERRORS = documented(400, 401, 404, 413, 415, 429, 500, 503, 504)


def _body(endpoint: Endpoint) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": BODIES[endpoint]}}}}


def _answer(example: dict[str, Any]) -> dict[str | int, Any]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {200: {"description": "The answer.", "content": content}, **_ERRORS}


_CACHED = {"cached_tokens": 0}
_USAGE = {"prompt_tokens": 9, "prompt_tokens_details": _CACHED, "completion_tokens": 4, "total_tokens": 13}
_OUR_USAGE = {"input_tokens": 9, "input_tokens_details": _CACHED, "output_tokens": 4, "total_tokens": 13}
_CHOICE = {
    "index": 0,
    "message": {"role": "assistant", "content": "Guten Morgen!", "refusal": None},
    "logprobs": None,
    "finish_reason": "stop",
}
_OF_A_MODEL = {"created": 1_790_000_000, "model": "a-model"}


@bp.post(
    Endpoint.CHAT.value,
    operation_id="create_chat_completion",
    openapi_extensions=_body(Endpoint.CHAT),
    responses=_answer(
        {"id": "chatcmpl-…", "object": "chat.completion", **_OF_A_MODEL, "choices": [_CHOICE], "usage": _USAGE}
    ),
)
def chat() -> Response:
    """Answer a chat

    A field that cannot be honoured is an error that names it.
    """
    return _served(Endpoint.CHAT)


@bp.post(
    Endpoint.COMPLETIONS.value,
    operation_id="create_completion",
    openapi_extensions=_body(Endpoint.COMPLETIONS),
    responses=_answer(
        {
            "id": "cmpl-…",
            "object": "text_completion",
            **_OF_A_MODEL,
            "choices": [{"index": 0, "text": " and so on", "logprobs": None, "finish_reason": "length"}],
            "usage": _USAGE,
        }
    ),
)
def completions() -> Response:
    """Go on with a text"""
    return _served(Endpoint.COMPLETIONS)


@bp.post(
    Endpoint.EMBEDDINGS.value,
    operation_id="create_embedding",
    openapi_extensions=_body(Endpoint.EMBEDDINGS),
    responses=_answer(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}],
            "model": "a-model",
            "usage": {"prompt_tokens": 9, "total_tokens": 9},
        }
    ),
)
def embeddings() -> Response:
    """Make vectors of texts"""
    return _served(Endpoint.EMBEDDINGS)


@bp.post(
    Endpoint.TRANSLATIONS.value,
    operation_id="create_translation",
    openapi_extensions=_body(Endpoint.TRANSLATIONS),
    responses=_answer(
        {
            "id": "trans_…",
            "object": "translation",
            **_OF_A_MODEL,
            "data": [{"index": 0, "text": "Guten Morgen!", "finish_reason": "stop"}],
            "usage": _OUR_USAGE,
        }
    ),
)
def translations() -> Response:
    """Translate texts

    Bushel's own endpoint: OpenAI has none for text.
    """
    return _served(Endpoint.TRANSLATIONS)


@bp.post(
    Endpoint.SUMMARIES.value,
    operation_id="create_summary",
    openapi_extensions=_body(Endpoint.SUMMARIES),
    responses=_answer(
        {
            "id": "summ_…",
            "object": "summary",
            **_OF_A_MODEL,
            "data": [{"index": 0, "text": "It was late.", "finish_reason": "stop"}],
            "usage": _OUR_USAGE,
        }
    ),
)
def summaries() -> Response:
    """Summarize texts

    Bushel's own endpoint.
    """
    return _served(Endpoint.SUMMARIES)


def _served(endpoint: Endpoint) -> Response:
    try:
        read = read_body(endpoint, request.get_json())
    except Refused as exc:
        raise refusal(exc.problems) from exc
    job_id, row = run_one(DIALECT, endpoint, read)
    if row.status == Outcome.SUCCEEDED:
        return answer(responses.body(endpoint, row, job_id))
    failed = failure(row)
    # It was run and failed; the clients' own second try of a 5xx would only fail again.
    return answer({"error": failed.error}, failed.status, **{"x-should-retry": "false"})
