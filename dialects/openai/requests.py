"""Bodies of requests to OpenAI's endpoints, and to ours in their manner, as Inputs.

Every documented field is in a table below: honoured, accepted because it says nothing about the output, or refused
by name. Our own decoding parameters are accepted beside OpenAI's. Two defaults are theirs: `max_tokens` of a
completion is 16, and `temperature` is 1 where a request asks for what needs sampling (`n`, `top_p`); otherwise the
model's own defaults hold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from db.inputs import Input, Problem, Refused
from dialects.conversation import turns
from dialects.fields import (
    MAX_TEXTS,
    Draft,
    Reader,
    default_to_sampling,
    language,
    model,
    not_streamed,
    number,
    only,
    read,
    same,
    schema,
    shown,
    stops,
    texts,
    unknown_keys,
    unsupported,
    unused,
    wrong,
)
from dialects.openai.endpoints import Endpoint

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# The assistant's own answer may be sent back as it came, with all that it has not.
_OF_TURN = frozenset({"name", "refusal", "audio", "annotations", "tool_calls", "function_call", "tool_call_id"})
# Where a prompt's cached beginning ends; it changes what OpenAI charges.
_OF_PART = frozenset({"prompt_cache_breakpoint"})
_DEFAULT_COMPLETION_TOKENS = 16


def read_body(endpoint: str, body: object) -> Input:
    """Raises Refused with everything that is wrong, under the names that the client wrote."""
    if not isinstance(body, Mapping):
        raise Refused([wrong("body", body, "an object")])
    found = read_request(endpoint, body)
    if found.refusal:
        raise Refused(found.refusal)
    return found


def read_request(endpoint: str, body: Mapping[str, object], custom_id: str | None = None) -> Input:
    """The same, with what is wrong as the Input's refusal."""
    shape = _SHAPES[endpoint]
    draft = read(body, shape.readers, shape.required)
    # What goes with what is only worth saying when each of them is right by itself.
    if not draft.problems:
        shape.finish(draft, body)
    return draft.finished(custom_id)


def _messages(draft: Draft, name: str, value: object) -> None:
    draft.body = {"messages": turns(draft, name, value, _ROLES, _OF_TURN, _OF_PART)}


def _chat_logprobs(draft: Draft, name: str, value: object) -> None:
    if not isinstance(value, bool):
        draft.problems.append(wrong(name, value, "true or false"))
    else:
        draft.request["logprobs"] = value


def _completion_logprobs(draft: Draft, name: str, value: object) -> None:
    draft.request["logprobs"] = True
    _TOP_LOGPROBS(draft, name, value)


_TOP_LOGPROBS = number("top_logprobs")


def _response_format(draft: Draft, name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        draft.problems.append(wrong(name, value, 'an object like {"type": "json_object"}'))
        return
    kind = value.get("type")
    reader = _FORMATS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        hint = f"it must be one of {', '.join(_FORMATS)}"
        message = f"{name}.type is {shown(kind)}"
        draft.problems.append(Problem("unsupported_parameter", message, hint, param=f"{name}.type"))
        return
    draft.problems += unknown_keys(value, ("type", "json_schema"), f"{name}.")
    reader(draft, name, value.get("json_schema"))


def _any_text(draft: Draft, name: str, value: object) -> None:
    # Said, and not left to the batch's own parameters.
    draft.params["json_schema"] = None


def _any_object(draft: Draft, name: str, value: object) -> None:
    schema(draft, name, {"type": "object"}, name)


def _by_schema(draft: Draft, name: str, value: object) -> None:
    where = f"{name}.json_schema"
    if not isinstance(value, Mapping):
        draft.problems.append(wrong(where, value, "an object with name and schema"))
        return
    draft.problems += unknown_keys(value, ("name", "description", "schema", "strict"), f"{where}.")
    schema(draft, name, value.get("schema"), f"{where}.schema")


_FORMATS: Mapping[str, Reader] = {
    "text": _any_text,
    "json_object": _any_object,
    "json_schema": _by_schema,
}


def _finish_chat(draft: Draft, body: Mapping[str, object]) -> None:
    params = draft.params
    if draft.request.get("logprobs"):
        if "top_logprobs" not in params:
            params["top_logprobs"] = 0
            draft.aliases["top_logprobs"] = "logprobs"
    elif params.pop("top_logprobs", 0):
        message = "top_logprobs tells nothing without logprobs"
        draft.problems.append(Problem("invalid_value", message, "set logprobs to true", param="top_logprobs"))
    elif "logprobs" in draft.request:
        params["top_logprobs"] = None
    _finish_sampled(draft, body)


def _finish_completion(draft: Draft, body: Mapping[str, object]) -> None:
    if "max_new_tokens" not in draft.params:
        draft.fallbacks["max_new_tokens"] = _DEFAULT_COMPLETION_TOKENS
        draft.aliases["max_new_tokens"] = "max_tokens"
    best_of = body.get("best_of")
    if best_of is not None and not same(best_of, draft.params.get("n", 1)):
        hint = "leave it out; every choice that is made is given back"
        draft.problems.append(unsupported("best_of", f"best_of {shown(best_of)} cannot be honoured", hint))
    _finish_sampled(draft, body)


def _finish_sampled(draft: Draft, body: Mapping[str, object]) -> None:
    params = draft.params
    n = params.get("n", 1)
    if n > 1 and params.get("temperature") == 0:
        message, hint = "with temperature 0 every choice would be the same", "raise temperature or leave n out"
        draft.problems.append(Problem("invalid_value", message, hint, param="n"))
    elif n * len(draft.body.get("texts", "1")) > MAX_TEXTS:
        message = f"{len(draft.body['texts']):,} prompts with n {n} are more than {MAX_TEXTS:,} choices"
        draft.problems.append(Problem("invalid_value", message, "send several requests", param="n"))
    default_to_sampling(draft)


def _encoding_format(draft: Draft, name: str, value: object) -> None:
    if value not in ("float", "base64"):
        draft.problems.append(wrong(name, value, "float or base64"))
    elif value == "base64":
        draft.request["encoding_format"] = value


def _finish_nothing(draft: Draft, body: Mapping[str, object]) -> None:
    """These endpoints have no fields that depend on each other."""


_NOT_STREAMED: Mapping[str, Reader] = {
    "stream": not_streamed,
    "stream_options": only(hint="leave it out; nothing is streamed"),
    "user": unused(str),
    "metadata": unused(dict),
}
# Ours by name, whatever OpenAI has beside them.
_DECODING: Mapping[str, Reader] = {
    name: number(name)
    for name in (
        "max_new_tokens",
        "min_new_tokens",
        "num_beams",
        "temperature",
        "top_p",
        "top_k",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "length_penalty",
        "seed",
    )
} | {"max_tokens": number("max_new_tokens"), "stop": stops}
_GENERATION: Mapping[str, Reader] = {
    **_NOT_STREAMED,
    **_DECODING,
    "model": model,
    "n": number("n"),
    "frequency_penalty": only(0, hint="leave it out; repetition_penalty is honoured"),
    "presence_penalty": only(0, hint="leave it out; repetition_penalty is honoured"),
    "logit_bias": only({}),
    "service_tier": only("auto", "default"),
    "store": only(False, hint="leave it out; results are kept with their batch"),
    "safety_identifier": unused(str),
    "prompt_cache_key": unused(str),
    "prompt_cache_retention": unused(str),
    "prompt_cache_options": unused(dict),
}
_NO_TOOLS = "leave it out; models here call no tools"
_CHAT: Mapping[str, Reader] = {
    **_GENERATION,
    "messages": _messages,
    "max_completion_tokens": number("max_new_tokens"),
    "logprobs": _chat_logprobs,
    "top_logprobs": _TOP_LOGPROBS,
    "response_format": _response_format,
    "tools": only([], hint=_NO_TOOLS),
    "tool_choice": only("none", "auto", hint=_NO_TOOLS),
    "functions": only([], hint=_NO_TOOLS),
    "function_call": only("none", "auto", hint=_NO_TOOLS),
    "parallel_tool_calls": unused(bool),
    "modalities": only(["text"]),
    "audio": only(),
    "moderation": only(),
    # It makes an answer come sooner where it is right; it does not change the answer.
    "prediction": unused(dict),
    "reasoning_effort": only("none"),
    "verbosity": only("medium"),
    "web_search_options": only(),
}
_COMPLETION: Mapping[str, Reader] = {
    **_GENERATION,
    "prompt": texts,
    "logprobs": _completion_logprobs,
    "echo": only(False),
    "suffix": only(""),
    # Looked at once `n` is known.
    "best_of": lambda draft, name, value: None,
}
_EMBEDDING: Mapping[str, Reader] = {
    **_NOT_STREAMED,
    "model": model,
    "input": texts,
    "encoding_format": _encoding_format,
    "dimensions": only(hint="leave it out; vectors have the dimensions of their model"),
}
_SUMMARY: Mapping[str, Reader] = {**_NOT_STREAMED, **_DECODING, "model": model, "input": texts}
_TRANSLATION: Mapping[str, Reader] = {**_SUMMARY, "source_lang": language, "target_lang": language}


@dataclass(frozen=True, slots=True)
class _Shape:
    """What an endpoint's body is made of; `finish` looks at fields that depend on each other."""

    readers: Mapping[str, Reader]
    required: tuple[str, ...]
    finish: Callable[[Draft, Mapping[str, Any]], None] = _finish_nothing


_SHAPES: Mapping[str, _Shape] = {
    Endpoint.CHAT: _Shape(_CHAT, ("model", "messages"), _finish_chat),
    Endpoint.COMPLETIONS: _Shape(_COMPLETION, ("model", "prompt"), _finish_completion),
    Endpoint.EMBEDDINGS: _Shape(_EMBEDDING, ("model", "input")),
    Endpoint.TRANSLATIONS: _Shape(_TRANSLATION, ("input",)),
    Endpoint.SUMMARIES: _Shape(_SUMMARY, ("input",)),
}
