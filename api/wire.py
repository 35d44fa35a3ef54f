"""JSON out: encoding, times as Unix seconds, and the list object."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from flask import Response
from pydantic import BaseModel

Row = TypeVar("Row")
_encoder = msgspec.json.Encoder()


def encoded(value: object) -> bytes:
    return _encoder.encode(value)


def answer(value: BaseModel | Mapping[str, Any], status: int = 200, **headers: str) -> Response:
    """A JSON response. Every key is there, with null where there is nothing to say."""
    content = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
    response = Response(encoded(content), status, content_type="application/json")
    for name, text in headers.items():
        response.headers[name] = text
    return response


def unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def listed(rows: Sequence[Row], has_more: bool, shown: Callable[[Row], BaseModel]) -> Response:
    """The list object of the OpenAI API."""
    data = [shown(row).model_dump(mode="json", by_alias=True) for row in rows]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return answer({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})
