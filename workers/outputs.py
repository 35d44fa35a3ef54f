"""What is stored of an item that succeeded, made of what the engine gave for its prompts."""

import base64
from collections.abc import Sequence
from typing import Any

from workers.engines.base import Encoded, Generation, TokenLogprob

_FLOAT_BYTES = 4


def output_of(
    texts: Sequence[str], generations: Sequence[Generation], encoded: Sequence[Encoded], *, is_list: bool = False
) -> dict[str, Any]:
    """All outputs of one item, prompt by prompt and copy by copy.

    A single one stands by itself. Of several, or where the input was a list (`is_list`), each is one of the `choices`,
    and the item says of all of them together what it would say of one. Vectors are `embeddings`, in base64.
    """
    if generations[0].vector is not None:
        return _embeddings([generation.vector or b"" for generation in generations]) | _cut(encoded)
    choices = [_choice(*each) for each in zip(texts, generations, encoded, strict=True)]
    if len(choices) == 1 and not is_list:
        return choices[0]
    reasons = {choice["finish_reason"] for choice in choices}
    both = {"text": texts[0], "finish_reason": "length" if "length" in reasons else "stop", "choices": choices}
    return both | _cut(encoded)


def _choice(text: str, generation: Generation, encoded: Encoded) -> dict[str, Any]:
    output: dict[str, Any] = {"text": text, "finish_reason": generation.finish_reason}
    if generation.score is not None:
        output["score"] = round(generation.score, 4)
    if generation.logprobs is not None:
        output["logprobs"] = [
            _logprob(token) | {"top": [_logprob(other) for other in token.top]} for token in generation.logprobs
        ]
    return output | _cut([encoded])


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "bytes": list(token.bytes), "logprob": round(token.logprob, 6)}


def _embeddings(vectors: Sequence[bytes]) -> dict[str, Any]:
    """Of one model, so all as long as the first."""
    return {
        "embeddings": [base64.b64encode(vector).decode() for vector in vectors],
        "dimensions": len(vectors[0]) // _FLOAT_BYTES,
    }


def _cut(encoded: Sequence[Encoded]) -> dict[str, int]:
    """How many tokens of the inputs were left out; nothing if none were. Copies of a prompt count once."""
    dropped = sum(each.dropped for each in encoded if each.choice == 0 or len(encoded) == 1)
    return {"truncated_tokens": dropped} if dropped else {}
