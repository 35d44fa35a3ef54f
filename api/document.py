"""The OpenAPI document: what flask-openapi3 collected, made whole."""

import re
from collections.abc import Iterable
from typing import Any

from api.anthropic.answers import MessagesError, is_ours
from api.errors import MEANINGS, ErrorBody
from db.keys import Scope

SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, as `bushel keys create` prints it: `Authorization: Bearer bsh_…`. The role that an "
        "operation names is the scope that the key must have.",
    },
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same key, as Anthropic's clients send it.",
    },
}
DESCRIPTION = (
    "Bulk translation, summarization, generation and embeddings: hand in a file or a list of inputs, watch the job, "
    "read the results while it runs. Every answer carries `x-request-id`; every error has one shape, with a message, "
    "the parameter at fault and a code."
)
_REQUEST_ID = {
    "schema": {"type": "string"},
    "description": "The id of this request, also in the server's log; your own, if you send one.",
}


def finished(spec: dict[str, Any], guarded: Iterable[tuple[str, str, Scope]] = ()) -> dict[str, Any]:
    """Every operation guarded unless it says otherwise, texts without markup, and the header all answers have.

    `guarded`: method, rule and scope of what needs a key.
    """
    spec["security"] = [{"bearer": []}, {"x-api-key": []}]
    for method, rule, scope in guarded:
        path = re.sub(r"<(\w+)>", r"{\1}", rule)
        _guard(spec["paths"][path][method.lower()], path, scope)
    for path in spec["paths"].values():
        for operation in path.values():
            if "description" in operation:
                operation["description"] = re.sub(r"<br/>\s*", "\n", operation["description"]).strip()
            _drop_foreign_errors(operation["responses"])
            for response in operation["responses"].values():
                response["headers"] = {"x-request-id": _REQUEST_ID, **response.get("headers", {})}
    _scrub(spec["components"])
    for schema in spec["components"]["schemas"].values():
        _order_example(schema)
    return spec


def _guard(operation: dict[str, Any], path: str, scope: Scope) -> None:
    """Name the scope, and what any request with a key may be answered."""
    operation["security"] = [{"bearer": [scope.value]}, {"x-api-key": [scope.value]}]
    form = MessagesError if is_ours(path) else ErrorBody
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{form.__name__}"}}}
    for status in (403, 429):
        operation["responses"].setdefault(str(status), {"description": MEANINGS[status][2], "content": content})


def _drop_foreign_errors(responses: dict[str, Any]) -> None:
    """The library adds its own form of validation error where we document none, because none can be."""
    content = responses.get("400", {}).get("content", {})
    if content.get("application/json", {}).get("schema", {}).get("type") == "array":
        del responses["400"]


def _order_example(schema: dict[str, Any]) -> None:
    """Pydantic sorts examples by name; people read an object in the order it is written."""
    example = schema.get("example")
    if isinstance(example, dict):
        places = {name: place for place, name in enumerate(schema.get("properties", {}))}
        schema["example"] = dict(sorted(example.items(), key=lambda pair: places.get(pair[0], len(places))))


def _scrub(node: Any) -> None:
    """Definitions inside a schema were moved to the components already."""
    if isinstance(node, dict):
        node.pop("$defs", None)
        for value in node.values():
            _scrub(value)
    elif isinstance(node, list):
        for value in node:
            _scrub(value)
