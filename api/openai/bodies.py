"""The bodies of single requests, which are those of a batch's lines too, as JSON Schemas for the API's document.

What is accepted is decided in `dialects.openai.requests`; fields that ask for nothing are accepted there, and not
listed here.
"""

from collections.abc import Mapping
from typing import Any

from dialects.openai.endpoints import Endpoint
from models.params import NUMBERS

Schema = dict[str, Any]


def _number(name: str, description: str = "") -> Schema:
    rule = NUMBERS[name]
    lowest = "exclusiveMinimum" if rule.is_open else "minimum"
    schema: Schema = {"type": "integer" if rule.is_int else "number", lowest: rule.low, "maximum": rule.high}
    return schema | ({"description": description} if description else {})


def _object(required: list[str], example: Mapping[str, Any], **properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
        "example": example,
    }


_MODEL: Schema = {"type": "string", "description": "A name from `GET /v1/models`."}
_DEFAULT_MODEL: Schema = {"type": "string", "description": "A name from `GET /v1/models`; default: the task's default."}
_TEXTS: Schema = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2048}]
}
_STOP: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 4}]}
_STREAM: Schema = {"type": "boolean", "const": False, "description": "Single requests are not streamed."}
_DECODING: dict[str, Schema] = {
    "max_tokens": _number("max_new_tokens", "Most tokens to write."),
    "temperature": _number("temperature"),
    "top_p": _number("top_p"),
    "seed": _number("seed"),
    "stop": _STOP,
    "top_k": _number("top_k", "Bushel's own, as are the next ones up to `length_penalty`."),
    "num_beams": _number("num_beams"),
    "min_new_tokens": _number("min_new_tokens"),
    "repetition_penalty": _number("repetition_penalty"),
    "no_repeat_ngram_size": _number("no_repeat_ngram_size"),
    "length_penalty": _number("length_penalty"),
    "stream": _STREAM,
    "user": {"type": "string", "description": "Taken in and not looked at."},
}
_CONTENT: Schema = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "text"],
                "properties": {"type": {"type": "string", "const": "text"}, "text": {"type": "string"}},
            },
        },
    ]
}
_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"type": "string", "enum": ["system", "developer", "user", "assistant"]},
            "content": _CONTENT,
        },
    },
}

BODIES: Mapping[Endpoint, Schema] = {
    Endpoint.CHAT: _object(
        ["model", "messages"],
        {"model": "a-chat-model", "messages": [{"role": "user", "content": "Say good morning in German."}]},
        model=_MODEL,
        messages=_MESSAGES,
        max_completion_tokens=_number("max_new_tokens", "Most tokens to write."),
        n=_number("n", "How many choices; more than one needs a temperature above 0."),
        logprobs={"type": "boolean"},
        top_logprobs=_number("top_logprobs"),
        response_format={
            "type": "object",
            "description": "`text`, `json_object`, or `json_schema` with a schema that the answer is made to satisfy.",
            "required": ["type"],
            "properties": {
                "type": {"type": "string", "enum": ["text", "json_object", "json_schema"]},
                "json_schema": {"type": "object"},
            },
        },
        **_DECODING,
    ),
    Endpoint.COMPLETIONS: _object(
        ["model", "prompt"],
        {"model": "a-chat-model", "prompt": "Once upon a time", "max_tokens": 50},
        model=_MODEL,
        prompt=_TEXTS,
        n=_number("n"),
        logprobs=_number("top_logprobs"),
        **_DECODING,
    ),
    Endpoint.EMBEDDINGS: _object(
        ["model", "input"],
        {"model": "an-encoder", "input": ["The train is late.", "Where is the library?"]},
        model=_MODEL,
        input=_TEXTS,
        encoding_format={"type": "string", "enum": ["float", "base64"], "default": "float"},
        user={"type": "string"},
    ),
    Endpoint.TRANSLATIONS: _object(
        ["input"],
        {"input": ["The train is late."], "target_lang": "de"},
        model=_DEFAULT_MODEL,
        input=_TEXTS,
        source_lang={"type": "string"},
        target_lang={"type": "string"},
        **_DECODING,
    ),
    Endpoint.SUMMARIES: _object(
        ["input"],
        {"input": "A long text …", "max_tokens": 60},
        model=_DEFAULT_MODEL,
        input=_TEXTS,
        **_DECODING,
    ),
}
