"""What no answer to a hostile request may be."""

import json
from collections.abc import Sequence
from typing import Any

from tests.hostile.requests import Attack
from tests.hostile.sending import Answer

# Refusals for want of room or of a database, which say when to come back.
ALLOWED_5XX = frozenset({503, 507})
TRACES = (b"Traceback (most recent call last)", b'File "/', b"sqlalchemy", b"psycopg", b"werkzeug", b"site-packages")


def faults(attack: Attack, answer: Answer, secrets: Sequence[bytes]) -> list[str]:
    """Everything that is wrong with the answer, in words; nothing if it is as it should be."""
    found = []
    if answer.hung:
        found.append("there was no answer in time")
    if answer.status == 0 and attack.is_http and not answer.hung:
        found.append("the connection was cut without an answer")
    if answer.status >= 500 and answer.status not in ALLOWED_5XX:
        found.append(f"the server failed: {answer.status}")
    if attack.only is not None and answer.status not in attack.only:
        found.append(f"the status is {answer.status}, and may only be {sorted(attack.only)}")
    if any(trace in answer.body for trace in TRACES):
        found.append("the body tells of the server's inside")
    if any(secret in answer.body or secret.decode() in str(answer.headers) for secret in secrets):
        found.append("the answer has something of another tenant")
    if "x-injected" in answer.headers or "set-cookie" in answer.headers:
        found.append("a header was injected")
    if answer.status >= 400 and attack.method != "HEAD":
        found += _shape(answer)
    return found


def _shape(answer: Answer) -> list[str]:
    """The documented error: ours and OpenAI's have a type, Anthropic's is an envelope; both say what to do."""
    try:
        content: Any = json.loads(answer.body)
        error = content["error"]
        message, type = error["message"], error["type"]
    except (ValueError, KeyError, TypeError):
        return [f"the error is not in the documented shape: {answer.body[:100]!r}"]
    if not (isinstance(type, str) and isinstance(message, str) and len(message) > 8):
        return [f"the error says too little: {message!r}"]
    if len(answer.body) > 200_000:
        return [f"the error has {len(answer.body):,} bytes"]
    if content.get("type") != "error" and "code" not in error:
        return ["the error has no code"]
    return []
