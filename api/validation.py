"""Pydantic's findings in plain words, all of them at once."""

import difflib
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from api.errors import InvalidRequest, summary
from api.requests import has_body
from api.strict import Strict

Body = TypeVar("Body", bound=BaseModel)

_PLAIN: Mapping[str, str] = {
    "missing": "is required",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_unicode": "has characters that are not valid Unicode",
}


def refuse(exc: ValidationError) -> NoReturn:
    """Turn a ValidationError into InvalidRequest; flask-openapi3 calls it for every part of a request."""
    found = [_problem(error) for error in exc.errors(include_url=False)]
    raise InvalidRequest(
        summary([problem["message"] for problem in found]),
        param=found[0]["param"],
        code=found[0]["code"] if len(found) == 1 else "invalid_request",
        details=found if len(found) > 1 else None,
    ) from exc


def optional_body(model: type[Body]) -> Body:
    """The body, which may be missing: then it says nothing, and every field is as it is by default."""
    value = request.get_json() if has_body() else {}
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        refuse(exc)


def optional(model: type[BaseModel]) -> dict[str, Any]:
    """A body that may be missing, for the OpenAPI document."""
    return {"required": False, "content": {"application/json": {"schema": model.model_json_schema()}}}


def _problem(error: ErrorDetails) -> dict[str, Any]:
    path = ".".join(str(part) for part in error["loc"] if part != "__root__") or None
    shown = f"`{path}`" if path else "the body"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), Strict.known, n=1)
        hint = f"; did you mean `{near[0]}`?" if near and near[0] != error["loc"][-1] else " here" if near else ""
        return {"param": path, "code": "unknown_field", "message": f"{shown} is unknown{hint}"}
    code = "missing_field" if error["type"] == "missing" else "invalid_value"
    return {"param": path, "code": code, "message": f"{shown} {_words(error)}"}


def _words(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "literal_error" | "enum":
            return f"must be {context['expected']}"
        case "greater_than_equal":
            return f"must be {context['ge']} or more"
        case "less_than_equal":
            return f"must be {context['le']} or less"
        case "string_too_short" | "string_too_long" | "too_short" | "too_long":
            return _length(error["type"], context)
        case type if type in _PLAIN:
            return _PLAIN[type]
        case _:
            return error["msg"][0].lower() + error["msg"][1:]


def _length(type: str, context: Mapping[str, Any]) -> str:
    unit = "character" if type.startswith("string") else "entry"
    count = context["min_length"] if type.endswith("short") else context["max_length"]
    units = unit if count == 1 else "entries" if unit == "entry" else f"{unit}s"
    return f"must have {count} {units} or {'more' if type.endswith('short') else 'less'}"
