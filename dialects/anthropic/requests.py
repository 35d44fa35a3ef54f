"""Requests to Anthropic's Messages API, alone and in a batch, as Inputs.

Consecutive turns of one role are put together with a blank line between them, as the API says they are. What a model
here cannot do - tools, thinking, pictures, going on with a turn of the assistant's - is refused by name.
"""

import re
from collections.abc import Mapping

from db.inputs import Input, Problem, Refused
from dialects.conversation import Turn, joined, turns
from dialects.fields import (
    Draft,
    Reader,
    checked_turn,
    default_to_sampling,
    missing,
    model,
    not_streamed,
    number,
    only,
    read,
    schema,
    shown,
    stops,
    unknown_keys,
    unsupported,
    unused,
    wrong,
)
from models.params import Number

_ROLES = {"user": "user", "assistant": "assistant", "system": "system"}
_OF_PART = frozenset({"cache_control"})
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_REQUIRED = ("model", "max_tokens", "messages")


def read_params(params: object) -> Input:
    """One request; raises Refused with everything that is wrong, under the names that the client wrote."""
    found = _read(params, None)
    if found.refusal:
        raise Refused(found.refusal)
    return found


def read_line(value: object) -> Input:
    """One entry of a batch. Raises Refused for its outer shape; what is wrong with `params` is its refusal."""
    if not isinstance(value, Mapping):
        message = f"the request is {shown(value)}, not an object"
        raise Refused([Problem("invalid_request", message, 'write {"custom_id": "a", "params": {…}}')])
    custom_id = value.get("custom_id")
    if len(value) == 2 and "params" in value and isinstance(custom_id, str) and _CUSTOM_ID.fullmatch(custom_id):
        return _read(value["params"], custom_id)
    raise Refused(_problems(value))


def _problems(value: Mapping[str, object]) -> list[Problem]:
    known = ("custom_id", "params")
    problems = unknown_keys(value, known)
    problems += [missing(key) for key in known if key not in value]
    custom_id = value.get("custom_id", "a")
    if not isinstance(custom_id, str) or not _CUSTOM_ID.fullmatch(custom_id):
        expected = "a string of 1 to 64 letters, digits, hyphens and underscores"
        problems.append(wrong("custom_id", custom_id, expected))
    return problems


def _read(params: object, custom_id: str | None) -> Input:
    if not isinstance(params, Mapping):
        return Input({}, custom_id, refusal=(wrong("params", params, "an object"),))
    draft = read(params, _FIELDS, _REQUIRED)
    if not draft.problems:
        _finish(draft)
    return draft.finished(custom_id)


def _finish(draft: Draft) -> None:
    given = draft.body["messages"]
    if given[-1]["role"] == "assistant":
        message = "the last message is the assistant's, and a model here cannot go on with it"
        draft.problems.append(unsupported("messages", message, "end with a message of the user's"))
    system = draft.request.pop("system", "")
    draft.body["messages"] = _merged([{"role": "system", "content": system}, *given] if system else given)
    default_to_sampling(draft)


def _messages(draft: Draft, name: str, value: object) -> None:
    draft.body = {"messages": turns(draft, name, value, _ROLES, (), _OF_PART)}


def _merged(apart: list[Turn]) -> list[Turn]:
    merged: list[Turn] = []
    for turn in apart:
        if merged and merged[-1]["role"] == turn["role"]:
            merged[-1]["content"] += f"\n\n{turn['content']}"
        else:
            merged.append(turn)
    return merged


def _system(draft: Draft, name: str, value: object) -> None:
    text = value if isinstance(value, str) else joined(draft, name, value, _OF_PART)
    draft.problems += checked_turn(text, name)
    # Kept aside until the messages are known.
    draft.request["system"] = text


def _thinking(draft: Draft, name: str, value: object) -> None:
    if not isinstance(value, Mapping) or value.get("type") != "disabled":
        draft.problems.append(unsupported(name, "models here do not think apart from their answer"))


def _tool_choice(draft: Draft, name: str, value: object) -> None:
    if not isinstance(value, Mapping) or value.get("type") not in ("auto", "none"):
        draft.problems.append(unsupported(name, "models here call no tools"))


def _output_config(draft: Draft, name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        draft.problems.append(wrong(name, value, "an object"))
        return
    for key, inner in value.items():
        if key == "format" and inner is not None:
            _format(draft, f"{name}.format", inner)
        elif inner is not None:
            draft.problems.append(unsupported(f"{name}.{key}", f"{name}.{key[:64]} cannot be honoured"))


def _format(draft: Draft, name: str, value: object) -> None:
    if not isinstance(value, Mapping) or value.get("type") != "json_schema":
        draft.problems.append(wrong(name, value, 'an object like {"type": "json_schema", "schema": {…}}'))
        return
    draft.problems += unknown_keys(value, ("type", "schema"), f"{name}.")
    schema(draft, name, value.get("schema"), f"{name}.schema")


_FIELDS: Mapping[str, Reader] = {
    "model": model,
    "messages": _messages,
    "max_tokens": number("max_new_tokens"),
    "system": _system,
    "temperature": number("temperature", Number(0, 1, is_int=False)),
    "top_p": number("top_p"),
    "top_k": number("top_k"),
    "stop_sequences": stops,
    "output_config": _output_config,
    "stream": not_streamed,
    "metadata": unused(dict),
    "cache_control": unused(dict),
    "service_tier": only("auto", "standard_only"),
    "speed": only("standard"),
    "thinking": _thinking,
    "tools": only([], hint="leave it out; models here call no tools"),
    "tool_choice": _tool_choice,
    "container": only(),
    "context_management": only(),
    "diagnostics": only(),
    "inference_geo": only(),
    "mcp_servers": only([]),
    "user_profile_id": only(),
    "workspace_id": only(),
    # Ours.
    "min_new_tokens": number("min_new_tokens"),
    "num_beams": number("num_beams"),
    "repetition_penalty": number("repetition_penalty"),
    "no_repeat_ngram_size": number("no_repeat_ngram_size"),
    "length_penalty": number("length_penalty"),
    "seed": number("seed"),
}
