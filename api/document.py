"""The OpenAPI document: what flask-openapi3 collected, made whole."""

import re
from typing import Any

SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, as `bushel keys create` prints it: `Authorization: Bearer bsh_…`.",
    }
}
DESCRIPTION = (
    "Bulk translation, summarization and generation: hand in a file or a list of inputs, watch the job, read the "
    "results while it runs. Every answer carries `x-request-id`; every error has one shape, with a message, the "
    "parameter at fault and a code."
)
_REQUEST_ID = {
    "schema": {"type": "string"},
    "description": "The id of this request, also in the server's log; your own, if you send one.",
}


def finished(spec: dict[str, Any]) -> dict[str, Any]:
    """Every operation guarded unless it says otherwise, texts without markup, and the header all answers have."""
    spec["security"] = [{"bearer": []}]
    for path in spec["paths"].values():
        for operation in path.values():
            if "description" in operation:
                operation["description"] = re.sub(r"<br/>\s*", "\n", operation["description"]).strip()
            # The library documents its own validation errors under a status we do not use.
            for response in operation["responses"].values():
                response["headers"] = {"x-request-id": _REQUEST_ID, **response.get("headers", {})}
    _scrub(spec["components"])
    return spec


def _scrub(node: Any) -> None:
    """Definitions inside a schema were moved to the components already."""
    if isinstance(node, dict):
        node.pop("$defs", None)
        for value in node.values():
            _scrub(value)
    elif isinstance(node, list):
        for value in node:
            _scrub(value)
