"""Bodies of successful answers, in OpenAI's shapes and in those of our own endpoints.

What the shapes have no place for is in an object `bushel` of its own, and only when there is something to
say: `truncated_tokens`, how many tokens of the input were left out because the job asked for it.
"""

import hashlib
import struct
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from db.ids import renamed
from db.lines import ResultRow
from dialects.openai.endpoints import Endpoint

# OpenAI's own word for "very unlikely": JSON knows no infinity.
_UNLIKELY = -9999.0


class Names:
    """What the parts of one job's answers are called; the same each time they are asked for."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._line = renamed(job_id, "batch_req_")

    def of_line(self, index: int) -> str:
        """
        >>> Names("job_0abc").of_line(7)
        'batch_req_0abc_7'
        """
        return f"{self._line}_{index}"

    def of_request(self, index: int) -> str:
        return hashlib.blake2b(f"{self._job_id}/{index}".encode(), digest_size=16).hexdigest()


def body(endpoint: str, row: ResultRow, job_id: str) -> dict[str, Any]:
    """The body that answers the request of a row that succeeded."""
    return _BODIES[endpoint](row, job_id)


def _chat(row: ResultRow, job_id: str) -> dict[str, Any]:
    output = row.output or {}
    tells = _tells_logprobs(row)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": choice["text"], "refusal": None},
            "logprobs": {"content": _tokens(choice), "refusal": None} if tells else None,
            "finish_reason": choice["finish_reason"],
        }
        for index, choice in enumerate(output.get("choices") or (output,))
    ]
    return _generation("chat.completion", renamed(job_id, "chatcmpl-"), row, choices)


def _completion(row: ResultRow, job_id: str) -> dict[str, Any]:
    output = row.output or {}
    tells = _tells_logprobs(row)
    choices = [
        {
            "index": index,
            "text": choice["text"],
            "logprobs": _columns(choice) if tells else None,
            "finish_reason": choice["finish_reason"],
        }
        for index, choice in enumerate(output.get("choices") or (output,))
    ]
    return _generation("text_completion", renamed(job_id, "cmpl-"), row, choices)


def _tells_logprobs(row: ResultRow) -> bool:
    """Whether the request asked for them, or the batch did for requests that say nothing of it."""
    output = row.output or {}
    first = (output.get("choices") or [output])[0]
    return bool(row.input["request"].get("logprobs", "logprobs" in first))


def _generation(kind: str, name: str, row: ResultRow, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"{name}-{row.index}",
        "object": kind,
        "created": int(row.finished_at or 0),
        "model": row.input["request"].get("model"),
        "choices": choices,
        "usage": _usage(row, "prompt_tokens", "completion_tokens"),
        "system_fingerprint": None,
        **_beside(row),
    }


def _usage(row: ResultRow, read: str, written: str) -> dict[str, Any]:
    """What the answer took, or took when it was computed for an equal request of the same batch: then it is cached."""
    consumed = row.input_tokens + row.reused_input_tokens
    produced = row.output_tokens + row.reused_output_tokens
    return {
        read: consumed,
        f"{read}_details": {"cached_tokens": row.reused_input_tokens},
        written: produced,
        "total_tokens": consumed + produced,
    }


def _beside(row: ResultRow) -> dict[str, Any]:
    dropped = (row.output or {}).get("truncated_tokens")
    return {"bushel": {"truncated_tokens": dropped}} if dropped else {}


def _tokens(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_token(each) | {"top_logprobs": [_token(top) for top in each["top"]]} for each in _logprobs(choice)]


def _token(each: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": each["token"], "logprob": _odds(each), "bytes": each["bytes"]}


def _columns(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The older shape: columns in place of objects. The chosen token is always among the likely ones."""
    offsets, offset = [], 0
    tokens = _logprobs(choice)
    for each in tokens:
        offsets.append(offset)
        offset += len(each["token"])
    return {
        "tokens": [each["token"] for each in tokens],
        "token_logprobs": [_odds(each) for each in tokens],
        "top_logprobs": [_likely(each) for each in tokens],
        "text_offset": offsets,
    }


def _likely(each: Mapping[str, Any]) -> dict[str, float]:
    # Different tokens may have the same text (halves of a character); the likelier one comes first and stays.
    likely: dict[str, float] = {}
    for token in (*each["top"], each):
        likely.setdefault(token["token"], _odds(token))
    return likely


def _logprobs(choice: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return choice.get("logprobs") or ()


def _odds(token: Mapping[str, Any]) -> float:
    return _UNLIKELY if token["logprob"] is None else max(token["logprob"], _UNLIKELY)


def _embeddings(row: ResultRow, job_id: str) -> dict[str, Any]:
    packed = (row.output or {})["embeddings"]
    consumed = row.input_tokens + row.reused_input_tokens
    request = row.input["request"]
    shaped = packed if request.get("encoding_format") == "base64" else map(_floats, packed)
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(shaped)],
        "model": request.get("model"),
        "usage": {"prompt_tokens": consumed, "total_tokens": consumed},
        **_beside(row),
    }


def _floats(packed: str) -> tuple[float, ...]:
    """32-bit floats, little-endian, in base64."""
    raw = b64decode(packed)
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def _translation(row: ResultRow, job_id: str) -> dict[str, Any]:
    return _ours("translation", renamed(job_id, "trans_"), row)


def _summary(row: ResultRow, job_id: str) -> dict[str, Any]:
    return _ours("summary", renamed(job_id, "summ_"), row)


def _ours(kind: str, name: str, row: ResultRow) -> dict[str, Any]:
    output = row.output or {}
    return {
        "id": f"{name}_{row.index}",
        "object": kind,
        "created": int(row.finished_at or 0),
        "model": row.input["request"].get("model"),
        "data": [
            {"index": index, **{key: choice[key] for key in _TOLD if key in choice}}
            for index, choice in enumerate(output.get("choices") or (output,))
        ],
        "usage": _usage(row, "input_tokens", "output_tokens"),
    }


_TOLD = ("text", "finish_reason", "score", "truncated_tokens")
_BODIES: Mapping[str, Callable[[ResultRow, str], dict[str, Any]]] = {
    Endpoint.CHAT: _chat,
    Endpoint.COMPLETIONS: _completion,
    Endpoint.EMBEDDINGS: _embeddings,
    Endpoint.TRANSLATIONS: _translation,
    Endpoint.SUMMARIES: _summary,
}
