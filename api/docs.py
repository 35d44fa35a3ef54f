"""The API as a page to read: made from the OpenAPI document on the server, without scripts or foreign parts."""

import json
import re
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, render_template
from markupsafe import Markup, escape

from api.wire import answer

_QUOTED = re.compile(r"`([^`]+)`")
METHODS = ("get", "post", "put", "patch", "delete")


def blueprint(document: Callable[[], dict[str, Any]]) -> Blueprint:
    bp = Blueprint("documentation", __name__, template_folder="templates")

    def openapi_document() -> Response:
        return answer(document())

    def docs() -> Response:
        return Response(render_template("docs.html", **_page(document())), mimetype="text/html")

    bp.add_app_template_filter(with_code, "with_code")
    bp.record(lambda state: state.app.add_url_rule("/openapi.json", "openapi_document", openapi_document))
    bp.record(lambda state: state.app.add_url_rule("/docs", "docs", docs))
    return bp


def with_code(text: str) -> Markup:
    """Escaped text whose `quoted` parts are set as code.

    >>> with_code("a `<b>` c")
    Markup('a <code>&lt;b&gt;</code> c')
    """
    return Markup(_QUOTED.sub(r"<code>\1</code>", str(escape(text))))


def _page(spec: dict[str, Any]) -> dict[str, Any]:
    operations = [
        _operation(path, method, item[method], spec)
        for path, item in spec["paths"].items()
        for method in METHODS
        if method in item
    ]
    groups = [
        {"name": tag["name"], "description": tag.get("description", ""), "operations": mine}
        for tag in spec["tags"]
        if (mine := [operation for operation in operations if operation["tag"] == tag["name"]])
    ]
    return {"info": spec["info"], "groups": groups, "schemas": _schemas(spec)}


def _operation(path: str, method: str, operation: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    body_type, media = _first(_content(operation.get("requestBody", {})))
    schema = _resolved(media.get("schema", {}), spec)
    return {
        "id": operation["operationId"],
        "tag": operation["tags"][0],
        "method": method.upper(),
        "path": path,
        "summary": operation.get("summary", ""),
        "description": operation.get("description", ""),
        "parameters": [_parameter(each) for each in operation.get("parameters", [])],
        "body_type": body_type,
        "fields": _fields(schema, spec),
        "example": _pretty(schema.get("example")),
        "responses": [_response(status, each, spec) for status, each in sorted(operation["responses"].items())],
    }


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": parameter["name"],
        "where": parameter["in"],
        "required": parameter.get("required", False),
        "type": _type(parameter.get("schema", {})),
        "default": _default(parameter.get("schema", {})),
        "description": parameter.get("description", ""),
    }


def _response(status: str, response: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    types = _content(response)
    _, media = _first(types)
    schema = media.get("schema", {})
    # Errors are shown once; what a success looks like is what one wants to see.
    example = media.get("example") or _resolved(schema, spec).get("example") if status < "400" else None
    return {
        "status": status,
        "description": response.get("description", ""),
        "types": [name for name in types if name != "application/json"],
        "schema": schema.get("$ref", "").rpartition("/")[2],
        "example": _pretty(example),
    }


def _schemas(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "description": schema.get("description", ""), "fields": _fields(schema, spec)}
        for name, schema in sorted(spec["components"]["schemas"].items())
        if schema.get("properties")
    ]


def _fields(schema: dict[str, Any], spec: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "type": _type(field),
            "required": name in required,
            "default": _default(field),
            "description": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _default(schema: dict[str, Any]) -> str:
    return "" if schema.get("default") is None else json.dumps(schema["default"])


def _content(part: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = part.get("content", {})
    return content


def _first(content: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    for type, media in content.items():
        return type, media
    return None, {}


def _resolved(schema: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = spec["components"]["schemas"].get(name, schema)
    return found


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words.

    >>> _type({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
    'list of string, or null'
    """
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if options := schema.get("anyOf"):
        return ", or ".join(dict.fromkeys(_type(option) for option in options))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def _pretty(example: Any) -> str:
    if example is None or isinstance(example, str):
        return example or ""
    return json.dumps(example, indent=2, ensure_ascii=False)
