"""Inputs as users send them: good lines, bad ones, equal ones, in several formats and for several models."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

KINDS = ("json", "json", "text", "batch")
_CHAT = "/v1/chat/completions"

# Two letters make twins likely; `!` is a line that cannot be read.
lines = st.lists(st.sampled_from(["a", "a", "b", "c", "!"]), min_size=1, max_size=7)


@dataclass(frozen=True)
class Shape:
    """`lines` is how many items it makes where bad ones are kept, `bad` how many of them are bad."""

    task: str
    format: dict[str, Any]
    data: bytes
    lines: int
    bad: int
    dialect: str = "bushel"
    endpoint: str | None = None


def of(kind: str, lines: list[str]) -> Shape:
    if kind == "text":
        return Shape("translation", {"type": "txt"}, "".join(f"{line}\n" for line in lines).encode(), len(lines), 0)
    write = _batch_line if kind == "batch" else _json_line
    written = ["{" if line == "!" else write(number, line) for number, line in enumerate(lines)]
    data, bad = "".join(f"{line}\n" for line in written).encode(), lines.count("!")
    if kind == "batch":
        return Shape("generation", {"type": "jsonl"}, data, len(lines), bad, "openai", _CHAT)
    return Shape("translation", {"type": "jsonl"}, data, len(lines), bad)


def _json_line(number: int, line: str) -> str:
    return json.dumps({"custom_id": f"id {number}", "text": line})


def _batch_line(number: int, line: str) -> str:
    body = {"model": "large" if line == "b" else "small", "messages": [{"role": "user", "content": line}]}
    return json.dumps({"custom_id": f"id {number}", "method": "POST", "url": _CHAT, "body": body})


def custom_ids(lines: list[str]) -> list[str]:
    """Of a file of results."""
    return [json.loads(line)["custom_id"] for line in lines]
