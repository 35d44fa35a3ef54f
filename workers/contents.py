"""What makes two inputs equal. Pure."""

from typing import Any

import msgspec


def content(body: dict[str, Any]) -> str | bytes:
    """What is in an input, whatever form its answer is wanted in: the text itself, or all of it as bytes.

    No text is equal to bytes, and no list of texts to a list of messages.
    """
    if "text" in body:
        text: str = body["text"]
        return text
    return msgspec.json.encode(body["messages"] if "messages" in body else body["texts"], order="deterministic")
