"""JSON Schemas as parameters: from what a request holds to the text that is stored."""

import json

MAX_BYTES = 64 * 1024


class NotASchema(ValueError):
    """The value cannot be a JSON Schema that is stored; the message says what it must be."""


def canonical(value: object) -> str:
    """The schema as compact ASCII JSON, from an object or its text.

    The order of the keys stays: it is the order in which the properties are written. Only the outside is looked at;
    whether every keyword can be honoured is for the engine to say.

    >>> canonical({"type": "object"})
    '{"type":"object"}'
    >>> canonical('{"type": "object"}')
    '{"type":"object"}'
    """
    schema = _decoded(value) if isinstance(value, str) else value
    if not isinstance(schema, dict):
        raise NotASchema("it must be a JSON Schema: a JSON object, or its text")
    try:
        text = json.dumps(schema, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise NotASchema("it must be made of JSON values, not too deeply nested") from exc
    if len(text) > MAX_BYTES:
        raise NotASchema(f"it must have at most {MAX_BYTES:,} bytes, and has {len(text):,}")
    return text


def _decoded(text: str) -> object:
    # Measured first, so that nothing long is parsed.
    if len(text) > MAX_BYTES:
        raise NotASchema(f"it must have at most {MAX_BYTES:,} bytes")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise NotASchema("it must be a JSON Schema: a JSON object, or its text") from exc
