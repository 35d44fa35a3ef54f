"""OpenAI's lines and bodies: requests in, answers out that its own SDK takes for its own."""

import base64
import doctest
import importlib
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_type_hints

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse, EmbeddingCreateParams
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as CompletionParams

from db.inputs import MAX_LISTED, MAX_MESSAGES, MAX_TEXT, Input, Refused
from db.lines import LineWriter, ResultRow
from dialects.aliases import in_their_words
from dialects.fields import MAX_TEXTS
from dialects.openai.endpoints import Endpoint, task_of
from dialects.openai.failures import failure
from dialects.openai.lines import OpenAILines, read_line
from dialects.openai.requests import read_body
from dialects.openai.responses import body
from dialects.reading import reader
from dialects.writing import writers
from models.params import check as check_params
from models.spec import EngineKind, ModelSpec, Task

JOB = "job_0mgcxk2l9abcdefgh01234567"
REST = JOB.removeprefix("job_")
HI = [{"role": "user", "content": "Hi"}]
ALL = list(Endpoint)
SMALLEST: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"model": "m", "messages": HI},
    Endpoint.COMPLETIONS: {"model": "m", "prompt": "Once"},
    Endpoint.EMBEDDINGS: {"model": "m", "input": "Hi"},
    Endpoint.TRANSLATIONS: {"input": "Hi"},
    Endpoint.SUMMARIES: {"input": "Hi"},
}
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


def request(endpoint: Endpoint = Endpoint.CHAT, **fields: Any) -> dict[str, Any]:
    return SMALLEST[endpoint] | fields


def line(endpoint: Endpoint = Endpoint.CHAT, **keys: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": endpoint.value, "body": request(endpoint)} | keys


def refused(endpoint: Endpoint, value: object) -> list[tuple[str, str | None]]:
    with pytest.raises(Refused) as caught:
        read_body(endpoint, value)
    assert all(problem.message for problem in caught.value.problems)
    return [(problem.code, problem.param) for problem in caught.value.problems]


def refused_line(value: object, endpoint: Endpoint = Endpoint.CHAT) -> list[tuple[str, str | None]]:
    with pytest.raises(Refused) as caught:
        read_line(value, endpoint)
    return [(problem.code, problem.param) for problem in caught.value.problems]


# Lines


@pytest.mark.parametrize("endpoint", ALL)
def test_a_line_becomes_an_input_with_its_id_and_its_model(endpoint: Endpoint) -> None:
    found = read_line(line(endpoint), endpoint)

    assert found.custom_id == "a"
    assert found.model == SMALLEST[endpoint].get("model")
    assert not found.refusal


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(7, [("invalid_json_line", None)], id="a number"),
        pytest.param(None, [("invalid_json_line", None)], id="null"),
        pytest.param("text", [("invalid_json_line", None)], id="a string"),
        pytest.param([line()], [("invalid_json_line", None)], id="a list"),
        pytest.param(
            {},
            [("invalid_request", key) for key in ("custom_id", "method", "url", "body")],
            id="every key that is missing",
        ),
        pytest.param(line(extra=1), [("invalid_request", "extra")], id="unknown key"),
        pytest.param(line(custom_id=7), [("invalid_custom_id", "custom_id")], id="id is a number"),
        pytest.param(line(custom_id=None), [("invalid_custom_id", "custom_id")], id="id is null"),
        pytest.param(line(custom_id=""), [("invalid_custom_id", "custom_id")], id="id is empty"),
        pytest.param(line(custom_id="x" * 257), [("invalid_custom_id", "custom_id")], id="id is too long"),
        pytest.param(line(custom_id="a\0"), [("invalid_character", "custom_id")], id="id has a NUL"),
        pytest.param(line(method="GET"), [("invalid_request", "method")], id="method"),
        pytest.param(line(method="post"), [("invalid_request", "method")], id="method in small letters"),
        pytest.param(line(url="/v1/embeddings"), [("url_mismatch", "url")], id="url of another endpoint"),
        pytest.param(line(url="/v1/chat/completions/"), [("url_mismatch", "url")], id="url with a slash"),
        pytest.param(line(url=None), [("url_mismatch", "url")], id="url is null"),
        pytest.param(line(body=None), [("invalid_request", "body")], id="body is null"),
        pytest.param(line(body=[]), [("invalid_request", "body")], id="body is a list"),
        pytest.param(
            line(method="GET", url="x", body=1),
            [("invalid_request", "method"), ("url_mismatch", "url"), ("invalid_request", "body")],
            id="everything at once",
        ),
    ],
)
def test_what_is_wrong_with_the_line_refuses_the_line(value: object, expected: list[tuple[str, str]]) -> None:
    assert refused_line(value) == expected


def test_a_million_unknown_keys_are_a_few_problems() -> None:
    value = line() | {f"key{number}": 1 for number in range(10_000)}

    assert len(refused_line(value)) == MAX_LISTED
    assert len(refused(Endpoint.CHAT, value)) <= MAX_LISTED + 2


def test_what_is_wrong_inside_the_body_is_the_refusal_of_that_request_alone() -> None:
    found = read_line(line(body=request(n="two", tools=[{}])), Endpoint.CHAT)

    assert (found.custom_id, found.model, found.params) == ("a", "m", {})
    assert [problem.param for problem in found.refusal] == ["n", "tools"]
    assert found.refusal[1].message == "tools cannot be honoured"


# Chat


@pytest.mark.parametrize(
    ("fields", "params", "aliases"),
    [
        pytest.param({}, {}, {}, id="nothing: the model's defaults hold"),
        pytest.param({"max_tokens": 9}, {"max_new_tokens": 9}, {"max_new_tokens": "max_tokens"}, id="max_tokens"),
        pytest.param(
            {"max_completion_tokens": 9},
            {"max_new_tokens": 9},
            {"max_new_tokens": "max_completion_tokens"},
            id="max_completion_tokens",
        ),
        pytest.param({"max_new_tokens": 9}, {"max_new_tokens": 9}, {}, id="our own name"),
        pytest.param({"temperature": 0.5, "top_p": 0.9, "seed": 4}, {"temperature": 0.5, "top_p": 0.9, "seed": 4}, {}),
        pytest.param({"stop": "END"}, {"stop": ["END"]}, {}, id="one stop"),
        pytest.param({"stop": ["a", "b"]}, {"stop": ["a", "b"]}, {}, id="two stops"),
        pytest.param({"stop": []}, {"stop": []}, {}, id="no stop, whatever the batch's parameters say"),
        pytest.param({"n": 1}, {"n": 1}, {}, id="one choice"),
        pytest.param({"n": 2}, {"n": 2, "temperature": 1}, {}, id="choices differ by sampling"),
        pytest.param({"n": 2, "temperature": 0.2}, {"n": 2, "temperature": 0.2}, {}, id="at the given temperature"),
        pytest.param({"top_p": 0.9}, {"top_p": 0.9, "temperature": 1}, {}, id="a nucleus needs sampling"),
        pytest.param({"top_p": 1}, {"top_p": 1}, {}, id="the whole nucleus does not"),
        pytest.param({"top_k": 40}, {"top_k": 40, "temperature": 1}, {}, id="top_k, which is ours"),
        pytest.param({"top_p": 0.9, "temperature": 0}, {"temperature": 0}, {}, id="no nucleus without temperature"),
        pytest.param({"logprobs": True}, {"top_logprobs": 0}, {"top_logprobs": "logprobs"}, id="logprobs"),
        pytest.param({"logprobs": True, "top_logprobs": 3}, {"top_logprobs": 3}, {}, id="top_logprobs"),
        pytest.param({"top_logprobs": 3, "logprobs": True}, {"top_logprobs": 3}, {}, id="in any order"),
        pytest.param({"logprobs": False}, {"top_logprobs": None}, {}, id="no logprobs, whatever the batch says"),
        pytest.param({"top_logprobs": 0}, {}, {}, id="no top_logprobs"),
        pytest.param(
            {"response_format": {"type": "text"}}, {"json_schema": None}, {}, id="text, whatever the batch says"
        ),
        pytest.param(
            {"response_format": {"type": "json_object"}},
            {"json_schema": '{"type":"object"}'},
            {"json_schema": "response_format"},
            id="any JSON object",
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            {"json_schema": json.dumps(SCHEMA, separators=(",", ":"))},
            {"json_schema": "response_format"},
            id="a schema keeps the order of its keys",
        ),
        pytest.param({"repetition_penalty": 1.2, "num_beams": 4}, {"repetition_penalty": 1.2, "num_beams": 4}, {}),
    ],
)
def test_a_chat_asks_for(fields: dict[str, Any], params: dict[str, Any], aliases: dict[str, str]) -> None:
    found = read_body(Endpoint.CHAT, request(**fields))

    assert found.body["messages"] == HI
    assert (found.wanted({}), found.aliases) == (params, aliases)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k"},
        {"store": False, "stream": False, "service_tier": "auto"},
        {"service_tier": "default"},
        {"logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0},
        {"tools": [], "functions": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"modalities": ["text"], "verbosity": "medium", "reasoning_effort": "none"},
        {"prediction": {"type": "content", "content": "…"}, "prompt_cache_retention": "24h"},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_what_changes_no_output_is_accepted_and_leaves_no_trace(fields: dict[str, Any]) -> None:
    assert read_body(Endpoint.CHAT, request(**fields)) == read_body(Endpoint.CHAT, request())


def test_a_null_is_the_same_as_leaving_the_field_out() -> None:
    fields = (
        "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens metadata"
        " modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key"
        " prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed"
        " service_tier stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity"
        " web_search_options"
    )

    assert read_body(Endpoint.CHAT, request(**dict.fromkeys(fields.split()))) == read_body(Endpoint.CHAT, request())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"stream": True}, ("unsupported_parameter", "stream"), id="stream"),
        pytest.param({"stream_options": {}}, ("unsupported_parameter", "stream_options")),
        pytest.param({"store": True}, ("unsupported_parameter", "store")),
        pytest.param({"service_tier": "flex"}, ("unsupported_parameter", "service_tier")),
        pytest.param({"tools": [{"type": "function"}]}, ("unsupported_parameter", "tools")),
        pytest.param({"tool_choice": "required"}, ("unsupported_parameter", "tool_choice")),
        pytest.param({"functions": [{}]}, ("unsupported_parameter", "functions")),
        pytest.param({"logit_bias": {"7": 1}}, ("unsupported_parameter", "logit_bias")),
        pytest.param({"presence_penalty": 0.1}, ("unsupported_parameter", "presence_penalty")),
        pytest.param({"presence_penalty": False}, ("unsupported_parameter", "presence_penalty"), id="false is not 0"),
        pytest.param({"frequency_penalty": float("nan")}, ("unsupported_parameter", "frequency_penalty")),
        pytest.param({"modalities": ["text", "audio"]}, ("unsupported_parameter", "modalities")),
        pytest.param({"audio": {}}, ("unsupported_parameter", "audio")),
        pytest.param({"moderation": {}}, ("unsupported_parameter", "moderation")),
        pytest.param({"reasoning_effort": "high"}, ("unsupported_parameter", "reasoning_effort")),
        pytest.param({"verbosity": "low"}, ("unsupported_parameter", "verbosity")),
        pytest.param({"web_search_options": {}}, ("unsupported_parameter", "web_search_options")),
        pytest.param({"response_format": {"type": "xml"}}, ("unsupported_parameter", "response_format.type")),
        pytest.param({"response_format": "json"}, ("invalid_value", "response_format")),
        pytest.param(
            {"response_format": {"type": "json_schema"}},
            ("invalid_value", "response_format.json_schema"),
            id="no schema",
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            ("invalid_value", "response_format.json_schema.schema"),
            id="nothing in the schema",
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": "x" * 70_000}}}},
            ("invalid_value", "response_format.json_schema.schema"),
            id="a schema that is too large",
        ),
        pytest.param(
            {"response_format": {"type": "text", "strict": True}}, ("unknown_parameter", "response_format.strict")
        ),
        pytest.param({"temperatur": 1}, ("unknown_parameter", "temperatur"), id="a typing error"),
        pytest.param({"prompt": "x"}, ("unknown_parameter", "prompt"), id="a field of another endpoint"),
        pytest.param({"temperature": "hot"}, ("invalid_value", "temperature")),
        pytest.param({"temperature": 2.5}, ("invalid_value", "temperature"), id="temperature too high"),
        pytest.param({"temperature": True}, ("invalid_value", "temperature"), id="true is not 1"),
        pytest.param({"top_p": 1.5}, ("invalid_value", "top_p")),
        pytest.param({"n": 0}, ("invalid_value", "n"), id="no choices"),
        pytest.param({"n": 17}, ("invalid_value", "n"), id="too many choices"),
        pytest.param({"n": 2, "temperature": 0}, ("invalid_value", "n"), id="choices without sampling"),
        pytest.param({"seed": 1.5}, ("invalid_value", "seed")),
        pytest.param({"seed": 10**5000}, ("invalid_value", "seed"), id="a number too large to print"),
        pytest.param({"max_tokens": 0}, ("invalid_value", "max_tokens")),
        pytest.param({"max_completion_tokens": "9"}, ("invalid_value", "max_completion_tokens")),
        pytest.param(
            {"max_tokens": 9, "max_completion_tokens": 8}, ("invalid_value", "max_completion_tokens"), id="two limits"
        ),
        pytest.param({"stop": ["a"] * 5}, ("invalid_value", "stop"), id="five stops"),
        pytest.param({"stop": [""]}, ("invalid_value", "stop"), id="empty stop"),
        pytest.param({"stop": {"a": 1}}, ("invalid_value", "stop"), id="stop is an object"),
        pytest.param({"stop": "\ud800"}, ("invalid_character", "stop"), id="stop is half a character"),
        pytest.param({"top_logprobs": 2}, ("invalid_value", "top_logprobs"), id="top_logprobs alone"),
        pytest.param({"logprobs": 1}, ("invalid_value", "logprobs")),
        pytest.param({"logprobs": True, "top_logprobs": 21}, ("invalid_value", "top_logprobs"), id="top 21"),
        pytest.param({"user": 7}, ("invalid_value", "user")),
        pytest.param({"metadata": []}, ("invalid_value", "metadata")),
        pytest.param({"model": None}, ("missing_required_parameter", "model")),
        pytest.param({"model": ""}, ("invalid_value", "model"), id="empty model"),
        pytest.param({"model": "a\0b"}, ("invalid_character", "model"), id="model with a NUL"),
        pytest.param({"messages": None}, ("missing_required_parameter", "messages"), id="no messages"),
        pytest.param({"messages": []}, ("invalid_value", "messages"), id="empty messages"),
        pytest.param({"messages": "Hi"}, ("invalid_value", "messages"), id="messages is a string"),
        pytest.param({"messages": HI * (MAX_MESSAGES + 1)}, ("invalid_value", "messages"), id="too many messages"),
    ],
)
def test_what_cannot_be_honoured_names_the_parameter(fields: dict[str, Any], expected: tuple[str, str]) -> None:
    assert refused(Endpoint.CHAT, request(**fields)) == [expected]


@pytest.mark.parametrize(
    ("endpoint", "documented"),
    [
        pytest.param(Endpoint.CHAT, ChatParams, id="chat"),
        pytest.param(Endpoint.COMPLETIONS, CompletionParams, id="completions"),
        pytest.param(Endpoint.EMBEDDINGS, EmbeddingCreateParams, id="embeddings"),
    ],
)
def test_every_field_that_the_sdk_documents_is_known(endpoint: Endpoint, documented: type) -> None:
    for name in get_type_hints(documented):
        for strange in ({"strange": 1}, "strange", [1], 0.5, True):
            try:
                read_body(endpoint, request(endpoint, **{name: strange}))
            except Refused as refused:
                assert {(each.param or "").split("[")[0].split(".")[0] for each in refused.problems} == {name}
                assert "unknown_parameter" not in {each.code for each in refused.problems if each.param == name}


def test_a_typing_error_is_answered_with_the_right_name() -> None:
    with pytest.raises(Refused) as caught:
        read_body(Endpoint.CHAT, request(max_token=9))

    assert caught.value.problems[0].hint == "did you mean max_tokens?"


def test_what_belongs_to_a_batch_is_sent_there() -> None:
    with pytest.raises(Refused) as caught:
        read_body(Endpoint.CHAT, request(bushel={"long_input": "truncate"}))

    assert caught.value.problems[0].hint == "it belongs to a whole batch, beside input_file_id"


def test_the_same_limit_under_both_names_is_no_contradiction() -> None:
    assert read_body(Endpoint.CHAT, request(max_tokens=9, max_completion_tokens=9)).params == {"max_new_tokens": 9}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param({"role": "system", "content": "x"}, {"role": "system", "content": "x"}, id="system"),
        pytest.param({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}, id="developer"),
        pytest.param({"role": "user", "content": ""}, {"role": "user", "content": ""}, id="empty"),
        pytest.param(
            {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "a b"},
            id="parts are joined as they stand",
        ),
        pytest.param(
            {
                "role": "assistant",
                "content": "x",
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": None,
            },
            {"role": "assistant", "content": "x"},
            id="an answer sent back as it came",
        ),
    ],
)
def test_a_message_may_be(message: dict[str, Any], expected: dict[str, str]) -> None:
    assert read_body(Endpoint.CHAT, request(messages=[message])).body["messages"] == [expected]


IMAGE = {"type": "image_url", "image_url": {"url": "https://…"}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("Hi", ("invalid_value", "messages[1]"), id="a string"),
        pytest.param({"content": "x"}, ("missing_required_parameter", "messages[1].role"), id="no role"),
        pytest.param({"role": "robot", "content": "x"}, ("invalid_value", "messages[1].role"), id="unknown role"),
        pytest.param({"role": ["user"], "content": "x"}, ("invalid_value", "messages[1].role"), id="role is a list"),
        pytest.param({"role": "tool", "content": "x"}, ("unsupported_parameter", "messages[1].role"), id="tool"),
        pytest.param({"role": "user"}, ("missing_required_parameter", "messages[1].content"), id="no content"),
        pytest.param({"role": "user", "content": 7}, ("invalid_value", "messages[1].content"), id="a number"),
        pytest.param({"role": "user", "content": "a\0"}, ("invalid_character", "messages[1].content"), id="NUL"),
        pytest.param(
            {"role": "user", "content": "x" * (MAX_TEXT + 1)}, ("text_too_long", "messages[1].content"), id="too long"
        ),
        pytest.param({"role": "user", "content": ["x"]}, ("invalid_value", "messages[1].content[0]"), id="bare part"),
        pytest.param(
            {"role": "user", "content": [IMAGE]}, ("unsupported_parameter", "messages[1].content[0].type"), id="image"
        ),
        pytest.param(
            {"role": "user", "content": [{"text": "x"}]},
            ("missing_required_parameter", "messages[1].content[0].type"),
            id="part without type",
        ),
        pytest.param(
            {"role": "user", "content": [{"type": "text"}]},
            ("invalid_value", "messages[1].content[0].text"),
            id="part without text",
        ),
        pytest.param(
            {"role": "user", "content": "x", "name": "Ann"}, ("unsupported_parameter", "messages[1].name"), id="name"
        ),
        pytest.param(
            {"role": "assistant", "content": "x", "tool_calls": [{}]},
            ("unsupported_parameter", "messages[1].tool_calls"),
            id="tool calls",
        ),
        pytest.param({"role": "user", "content": "x", "mood": 1}, ("unknown_parameter", "messages[1].mood"), id="mood"),
    ],
)
def test_a_message_may_not_be(message: object, expected: tuple[str, str]) -> None:
    assert refused(Endpoint.CHAT, request(messages=[*HI, message])) == [expected]


def test_every_problem_of_a_body_is_told_at_once() -> None:
    found = refused(Endpoint.CHAT, {"messages": [], "n": 0, "tools": [1], "mode": "m"})

    assert [param for _, param in found] == ["messages", "n", "tools", "mode", "model"]


@pytest.mark.parametrize("endpoint", ALL)
@pytest.mark.parametrize("value", [None, 7, "x", [], True])
def test_a_body_that_is_no_object_is_refused(endpoint: Endpoint, value: object) -> None:
    assert refused(endpoint, value) == [("invalid_value", "body")]


# The other endpoints


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        pytest.param({}, {"max_new_tokens": 16}, id="sixteen tokens, as documented"),
        pytest.param({"max_tokens": 99}, {"max_new_tokens": 99}, id="max_tokens"),
        pytest.param({"logprobs": 0}, {"top_logprobs": 0, "max_new_tokens": 16}, id="logprobs 0"),
        pytest.param({"logprobs": 5}, {"top_logprobs": 5, "max_new_tokens": 16}, id="logprobs 5"),
        pytest.param({"best_of": 1, "echo": False, "suffix": ""}, {"max_new_tokens": 16}, id="fields that ask nothing"),
        pytest.param({"n": 3, "best_of": 3}, {"n": 3, "temperature": 1, "max_new_tokens": 16}, id="best of all"),
    ],
)
def test_a_completion_asks_for(fields: dict[str, Any], params: dict[str, Any]) -> None:
    assert read_body(Endpoint.COMPLETIONS, request(Endpoint.COMPLETIONS, **fields)).wanted({}) == params


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"best_of": 3}, ("unsupported_parameter", "best_of")),
        pytest.param({"best_of": True}, ("unsupported_parameter", "best_of"), id="best_of true"),
        pytest.param({"echo": True}, ("unsupported_parameter", "echo")),
        pytest.param({"suffix": "end"}, ("unsupported_parameter", "suffix")),
        pytest.param({"logprobs": True}, ("invalid_value", "logprobs")),
        pytest.param({"prompt": [1, 2, 3]}, ("unsupported_parameter", "prompt"), id="tokens"),
        pytest.param({"prompt": [[1, 2, 3]]}, ("unsupported_parameter", "prompt"), id="lists of tokens"),
        pytest.param({"prompt": ["a"] * 200, "n": 16}, ("invalid_value", "n"), id="too many choices in all"),
    ],
)
def test_a_completion_refuses(fields: dict[str, Any], expected: tuple[str, str]) -> None:
    assert refused(Endpoint.COMPLETIONS, request(Endpoint.COMPLETIONS, **fields)) == [expected]


LISTS = [
    (Endpoint.COMPLETIONS, "prompt"),
    (Endpoint.EMBEDDINGS, "input"),
    (Endpoint.TRANSLATIONS, "input"),
    (Endpoint.SUMMARIES, "input"),
]


@pytest.mark.parametrize(("endpoint", "field"), LISTS)
def test_a_list_of_texts_is_one_item_with_several_outputs(endpoint: Endpoint, field: str) -> None:
    several = read_body(endpoint, request(endpoint, **{field: ["a", "b"]})).body
    single = read_body(endpoint, request(endpoint, **{field: ["a"]})).body

    assert (several["texts"], several["request"]["listed"]) == (["a", "b"], True)
    assert (single["text"], single["request"]["listed"]) == ("a", True)


@pytest.mark.parametrize(("endpoint", "field"), LISTS)
@pytest.mark.parametrize(
    ("value", "code", "place"),
    [
        pytest.param([], "invalid_value", "", id="an empty list"),
        pytest.param(["a"] * (MAX_TEXTS + 1), "invalid_value", "", id="a list that is too long"),
        pytest.param({"a": 1}, "invalid_value", "", id="an object"),
        pytest.param("", "empty_text", "", id="an empty text"),
        pytest.param(["a", " "], "empty_text", "[1]", id="an empty text in a list"),
        pytest.param(["a", 7], "invalid_value", "[1]", id="a number in a list"),
        pytest.param(["a", "b\0"], "invalid_character", "[1]", id="a NUL"),
        pytest.param("x" * (MAX_TEXT + 1), "text_too_long", "", id="a text that is too long"),
    ],
)
def test_texts_that_cannot_be_taken_name_their_place(
    endpoint: Endpoint, field: str, value: object, code: str, place: str
) -> None:
    assert refused(endpoint, request(endpoint, **{field: value})) == [(code, field + place)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"dimensions": 256}, ("unsupported_parameter", "dimensions")),
        pytest.param({"encoding_format": "int8"}, ("invalid_value", "encoding_format")),
        pytest.param({"temperature": 0}, ("unknown_parameter", "temperature")),
        pytest.param({"model": None}, ("missing_required_parameter", "model")),
    ],
)
def test_an_embedding_refuses(fields: dict[str, Any], expected: tuple[str, str]) -> None:
    assert refused(Endpoint.EMBEDDINGS, request(Endpoint.EMBEDDINGS, **fields)) == [expected]


def test_how_vectors_are_written_does_not_change_what_is_computed() -> None:
    floats, packed = (
        read_body(Endpoint.EMBEDDINGS, request(Endpoint.EMBEDDINGS, encoding_format=form))
        for form in ("float", "base64")
    )

    assert floats.params == packed.params == {}
    assert floats.body | packed.body == packed.body


@pytest.mark.parametrize("endpoint", [Endpoint.TRANSLATIONS, Endpoint.SUMMARIES])
def test_our_endpoints_take_our_parameters_and_need_no_model(endpoint: Endpoint) -> None:
    found = read_body(endpoint, {"input": "Hi", "num_beams": 4, "max_tokens": 50, "length_penalty": 1.2})

    assert found.model is None
    assert found.params == {"num_beams": 4, "max_new_tokens": 50, "length_penalty": 1.2}


def test_only_translations_have_languages() -> None:
    languages = {"source_lang": "en", "target_lang": "de"}

    assert read_body(Endpoint.TRANSLATIONS, {"input": "Hi"} | languages).params == languages
    assert refused(Endpoint.TRANSLATIONS, {"input": "Hi", "source_lang": 1}) == [("invalid_value", "source_lang")]
    assert refused(Endpoint.SUMMARIES, {"input": "Hi"} | languages) == [
        ("unknown_parameter", "source_lang"),
        ("unknown_parameter", "target_lang"),
    ]


def test_every_endpoint_has_its_task_and_other_paths_have_none() -> None:
    assert [task_of(endpoint) for endpoint in ALL] == [
        "generation",
        "generation",
        "embedding",
        "translation",
        "summarization",
    ]
    with pytest.raises(ValueError, match="responses"):
        task_of("/v1/responses")


def test_what_the_registry_finds_wrong_is_told_in_the_clients_words() -> None:
    spec = ModelSpec("m", Task.GENERATION, "hub/m", EngineKind.TRANSFORMERS, max_output_tokens=512)
    read = read_body(Endpoint.CHAT, request(max_completion_tokens=900))

    problem = in_their_words(check_params(read.params, spec)[1][0], read.aliases)

    assert problem.param == "max_completion_tokens"
    assert problem.message == "max_completion_tokens is 900, but model m writes at most 512 tokens"


@pytest.mark.parametrize(
    "module",
    ["dialects.aliases", "dialects.fields", "dialects.openai.endpoints", "dialects.openai.responses", "db.ids"],
)
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(module))

    assert outcome.attempted > 0
    assert outcome.failed == 0


# Anything at all


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
FIELDS = [
    "model",
    "messages",
    "prompt",
    "input",
    "stop",
    "n",
    "best_of",
    "logprobs",
    "top_logprobs",
    "response_format",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "stream",
    "tools",
    "source_lang",
    "encoding_format",
    "dimensions",
    "metadata",
    "logit_bias",
]
parts = st.fixed_dictionaries({}, optional={"type": values | st.just("text"), "text": values | st.text()})
turns = st.fixed_dictionaries(
    {}, optional={"role": values | st.sampled_from(["user", "system"]), "content": values | st.lists(parts, max_size=2)}
)
formats = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "json_object", "json_schema"]),
        "json_schema": values | st.fixed_dictionaries({"schema": values}),
    },
)
bodies = st.dictionaries(
    st.sampled_from(FIELDS), values | st.lists(turns, max_size=3) | formats, max_size=8
) | st.builds(request, st.sampled_from(ALL), temperature=values, n=values, stop=values, response_format=formats)


@given(st.sampled_from(ALL), values | bodies)
@settings(max_examples=400, deadline=None)
def test_any_body_is_an_input_or_refused(endpoint: Endpoint, value: object) -> None:
    try:
        found = read_body(endpoint, value)
    except Refused as refused:
        assert refused.problems
    else:
        assert ("messages" in found.body) + ("text" in found.body) + ("texts" in found.body) == 1
        assert "request" in found.body and not found.refusal
        # What is stored must fit PostgreSQL.
        assert "\0" not in json.dumps(found.body, ensure_ascii=False)
        json.dumps([found.body, found.params], ensure_ascii=False, allow_nan=False).encode()


@given(
    st.sampled_from(ALL),
    values
    | st.fixed_dictionaries(
        {},
        optional={
            "custom_id": values | st.just("a"),
            "method": values | st.just("POST"),
            "url": values | st.sampled_from(ALL).map(str),
            "body": bodies,
            "other": values,
        },
    ),
)
@settings(max_examples=400, deadline=None)
def test_any_line_is_an_input_or_refused(endpoint: Endpoint, value: object) -> None:
    try:
        found = read_line(value, endpoint)
    except Refused as refused:
        assert refused.problems
    else:
        assert isinstance(found, Input) and found.custom_id
        assert bool(found.body) != bool(found.refusal)


# Answers


def row(endpoint: Endpoint, output: dict[str, Any], **fields: Any) -> ResultRow:
    read = read_body(endpoint, request(endpoint, **fields))
    return ResultRow(
        7, 3, "a", 8, "succeeded", read.body, output=output, input_tokens=5, output_tokens=2, finished_at=1.7e9 + 0.5
    )


def strange(model: pydantic.BaseModel, where: str = "") -> Iterator[str]:
    """Keys that the SDK's class does not know."""
    yield from (f"{where}{key}" for key in model.model_extra or ())
    for name in type(model).model_fields:
        value = getattr(model, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, pydantic.BaseModel):
                yield from strange(each, f"{where}{name}.")


def sent(endpoint: Endpoint, row: ResultRow) -> Any:
    """The body as it arrives: through JSON."""
    return json.loads(json.dumps(body(endpoint, row, JOB), allow_nan=False))


HALLO = {"text": "Hallo", "finish_reason": "stop", "score": -0.5}
LOGPROBS = [
    {
        "token": "Ha",
        "bytes": [72, 97],
        "logprob": -0.1,
        "top": [
            {"token": "Ha", "bytes": [72, 97], "logprob": -0.1},
            {"token": "Hi", "bytes": [72, 105], "logprob": -3.0},
        ],
    },
    {"token": "llo", "bytes": [108, 108, 111], "logprob": None, "top": []},
]
CHOICES = {
    "text": "a",
    "finish_reason": "length",
    "choices": [{"text": "a", "finish_reason": "stop"}, {"text": "b", "finish_reason": "length"}],
}


def test_a_chat_answer_is_the_sdks_to_the_letter() -> None:
    answer = sent(Endpoint.CHAT, row(Endpoint.CHAT, HALLO))

    assert answer == {
        "id": f"chatcmpl-{REST}-7",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hallo", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens": 2,
            "total_tokens": 7,
        },
        "system_fingerprint": None,
    }
    assert not list(strange(ChatCompletion.model_validate(answer, strict=True)))


def test_an_answer_made_for_an_equal_request_says_what_it_took_as_cached() -> None:
    twin = replace(
        row(Endpoint.CHAT, HALLO), input_tokens=0, output_tokens=0, reused_input_tokens=5, reused_output_tokens=2
    )

    usage = sent(Endpoint.CHAT, twin)["usage"]

    assert usage.pop("prompt_tokens_details") == {"cached_tokens": 5}
    assert usage == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert sent(Endpoint.EMBEDDINGS, replace(twin, output=EMBEDDED))["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_several_choices_are_numbered() -> None:
    parsed = ChatCompletion.model_validate(sent(Endpoint.CHAT, row(Endpoint.CHAT, CHOICES, n=2)), strict=True)

    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in parsed.choices] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]


def test_logprobs_of_a_chat_are_the_sdks() -> None:
    output = HALLO | {"logprobs": LOGPROBS}

    parsed = ChatCompletion.model_validate(
        sent(Endpoint.CHAT, row(Endpoint.CHAT, output, logprobs=True, top_logprobs=2)), strict=True
    )

    content = parsed.choices[0].logprobs.content
    assert [(each.token, each.logprob, bytes(each.bytes)) for each in content] == [
        ("Ha", -0.1, b"Ha"),
        ("llo", -9999.0, b"llo"),
    ]
    assert [top.token for top in content[0].top_logprobs] == ["Ha", "Hi"]
    assert not list(strange(parsed))


def test_logprobs_that_only_the_batch_asked_for_are_told_unless_the_request_refuses_them() -> None:
    output = HALLO | {"logprobs": LOGPROBS}

    [told] = sent(Endpoint.CHAT, row(Endpoint.CHAT, output))["choices"]
    [refused] = sent(Endpoint.CHAT, row(Endpoint.CHAT, output, logprobs=False))["choices"]
    [none] = sent(Endpoint.CHAT, row(Endpoint.CHAT, HALLO))["choices"]

    assert len(told["logprobs"]["content"]) == 2
    assert refused["logprobs"] is None and none["logprobs"] is None


def test_a_completion_answer_is_the_sdks_to_the_letter() -> None:
    answer = sent(Endpoint.COMPLETIONS, row(Endpoint.COMPLETIONS, HALLO))

    assert answer["id"] == f"cmpl-{REST}-7"
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": "Hallo", "logprobs": None, "finish_reason": "stop"}]
    assert not list(strange(Completion.model_validate(answer, strict=True)))


def test_logprobs_of_a_completion_are_columns() -> None:
    answer = sent(Endpoint.COMPLETIONS, row(Endpoint.COMPLETIONS, HALLO | {"logprobs": LOGPROBS}, logprobs=2))

    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["Ha", "llo"],
        "token_logprobs": [-0.1, -9999.0],
        "top_logprobs": [{"Ha": -0.1, "Hi": -3.0}, {"llo": -9999.0}],
        "text_offset": [0, 2],
    }
    assert not list(strange(Completion.model_validate(answer, strict=True)))


VECTOR = struct.pack("<3f", 0.5, -0.25, 1.0)
EMBEDDED = {"embeddings": [base64.b64encode(VECTOR).decode()] * 2, "dimensions": 3}


def test_an_embedding_answer_is_the_sdks_to_the_letter() -> None:
    answer = sent(Endpoint.EMBEDDINGS, row(Endpoint.EMBEDDINGS, EMBEDDED, input=["a", "b"]))

    assert answer == {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": [0.5, -0.25, 1.0]} for index in (0, 1)],
        "model": "m",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    assert not list(strange(CreateEmbeddingResponse.model_validate(answer, strict=True)))


def test_an_embedding_in_base64_is_the_bytes_of_the_floats() -> None:
    answer = sent(Endpoint.EMBEDDINGS, row(Endpoint.EMBEDDINGS, EMBEDDED, encoding_format="base64"))

    assert base64.b64decode(answer["data"][0]["embedding"]) == VECTOR


@pytest.mark.parametrize(
    ("endpoint", "prefix", "kind"),
    [(Endpoint.TRANSLATIONS, "trans_", "translation"), (Endpoint.SUMMARIES, "summ_", "summary")],
)
def test_our_answers_are_as_documented(endpoint: Endpoint, prefix: str, kind: str) -> None:
    output = CHOICES | {"choices": [HALLO, {"text": "b", "finish_reason": "length", "truncated_tokens": 4}]}

    assert sent(endpoint, row(endpoint, output, input=["a", "b"], model="m")) == {
        "id": f"{prefix}{REST}_7",
        "object": kind,
        "created": 1_700_000_000,
        "model": "m",
        "data": [
            {"index": 0, "text": "Hallo", "finish_reason": "stop", "score": -0.5},
            {"index": 1, "text": "b", "finish_reason": "length", "truncated_tokens": 4},
        ],
        "usage": {
            "input_tokens": 5,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 2,
            "total_tokens": 7,
        },
    }
    assert sent(endpoint, row(endpoint, HALLO))["data"] == [{"index": 0} | HALLO]


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
def test_an_input_that_was_cut_says_so(endpoint: Endpoint) -> None:
    assert sent(endpoint, row(endpoint, HALLO | {"truncated_tokens": 4}))["bushel"] == {"truncated_tokens": 4}


choice = st.fixed_dictionaries(
    {"text": st.text(), "finish_reason": st.sampled_from(["stop", "length"])},
    optional={"score": st.floats(-100, 0), "truncated_tokens": st.integers(0, 9), "logprobs": st.just(LOGPROBS)},
)
outputs = choice | st.tuples(choice, st.lists(choice, min_size=2, max_size=4)).map(
    lambda pair: pair[0] | {"choices": pair[1]}
)


@given(outputs, st.booleans(), st.integers(0, 2**31), st.floats(0, 4e9))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_generation_is_valid_for_the_sdk(output: dict[str, Any], told: bool, index: int, finished: float) -> None:
    asked: dict[str, Any] = {"logprobs": True} if told else {}
    chat = replace(row(Endpoint.CHAT, output, **asked), index=index, finished_at=finished)
    completion = replace(row(Endpoint.COMPLETIONS, output, **{"logprobs": 1} if told else {}), index=index)

    parsed = [
        ChatCompletion.model_validate(sent(Endpoint.CHAT, chat), strict=True),
        Completion.model_validate(sent(Endpoint.COMPLETIONS, completion), strict=True),
    ]

    assert {key for each in parsed for key in strange(each)} <= {"bushel"}
    assert all(len(each.choices) == len(output.get("choices", [output])) for each in parsed)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2)))
@settings(max_examples=50, deadline=None)
def test_vectors_come_back_as_the_same_floats(vectors: list[list[float]]) -> None:
    packed = [base64.b64encode(struct.pack("<2f", *vector)).decode() for vector in vectors]

    answer = sent(Endpoint.EMBEDDINGS, row(Endpoint.EMBEDDINGS, {"embeddings": packed, "dimensions": 2}))

    parsed = CreateEmbeddingResponse.model_validate(answer, strict=True)
    assert [each.embedding for each in parsed.data] == vectors


# Failures and lines


def failed(code: str, message: str | None = "it is wrong", param: str | None = None) -> ResultRow:
    done = row(Endpoint.CHAT, HALLO)
    return replace(done, status="failed", output=None, error_code=code, error_message=message, error_param=param)


@pytest.mark.parametrize(
    ("row", "status", "type", "code", "param"),
    [
        pytest.param(failed("worker_crashed"), 500, "server_error", "worker_crashed", None),
        pytest.param(failed("engine_error"), 500, "server_error", "engine_error", None),
        pytest.param(failed("internal_error"), 500, "server_error", "internal_error", None),
        pytest.param(failed("model_unavailable"), 503, "server_error", "model_unavailable", None),
        pytest.param(
            failed("input_too_long"), 400, "invalid_request_error", "context_length_exceeded", "messages", id="too long"
        ),
        pytest.param(failed("model_not_found"), 404, "invalid_request_error", "model_not_found", "model"),
        pytest.param(
            failed("unsupported_parameter", param="n"), 400, "invalid_request_error", "unsupported_parameter", "n"
        ),
        pytest.param(
            replace(row(Endpoint.CHAT, HALLO), status="expired"),
            503,
            "server_error",
            "batch_expired",
            None,
            id="expired",
        ),
    ],
)
def test_a_failure_has_the_status_its_code_calls_for(
    row: ResultRow, status: int, type: str, code: str, param: str | None
) -> None:
    found = failure(row)

    assert found.status == status
    assert found.error.keys() == {"message", "type", "param", "code"}
    assert (found.error["type"], found.error["code"], found.error["param"]) == (type, code, param)
    assert found.error["message"]


def test_a_schema_that_the_model_cannot_be_held_to_is_named_as_the_client_named_it() -> None:
    asked = row(Endpoint.CHAT, HALLO, response_format={"type": "json_object"})
    found = failure(
        replace(
            asked,
            status="failed",
            output=None,
            error_code="invalid_value",
            error_message="json_schema cannot be used: it is too large",
            error_param="json_schema",
        )
    )

    assert found.error["param"] == "response_format"
    assert found.error["message"] == "response_format cannot be used: it is too large"
    many = replace(failed("too_many_logprobs", param="top_logprobs"), input=completion(logprobs=5).body)
    assert failure(many).error["param"] == "logprobs"


def completion(**fields: Any) -> Input:
    return read_body(Endpoint.COMPLETIONS, request(Endpoint.COMPLETIONS, **fields))


def written(row: ResultRow) -> dict[str, Any]:
    content = OpenAILines(Endpoint.CHAT, JOB).line(row)
    assert content.endswith(b"}\n") and content.count(b"\n") == 1
    # By this the OpenAI client, and many a script, tell lines apart.
    assert len(content.decode().splitlines()) == 1
    value: dict[str, Any] = json.loads(content)
    assert list(value) == ["id", "custom_id", "response", "error"]
    assert (value["id"], value["custom_id"]) == (f"batch_req_{REST}_7", "a")
    return value


def test_an_output_line_has_its_four_keys_and_the_answer() -> None:
    done = row(Endpoint.CHAT, HALLO)

    value = written(done)

    assert value["error"] is None
    assert value["response"].keys() == {"status_code", "request_id", "body"}
    assert value["response"]["status_code"] == 200
    assert len(bytes.fromhex(value["response"]["request_id"])) == 16
    assert value["response"]["body"] == sent(Endpoint.CHAT, done)


def test_a_line_is_one_line_to_everybody() -> None:
    said = "a\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029z"

    value = written(row(Endpoint.CHAT, HALLO | {"text": said}))

    assert value["response"]["body"]["choices"][0]["message"]["content"] == said


def test_a_failed_request_is_a_response_and_not_an_error() -> None:
    value = written(failed("unsupported_parameter", "tools cannot be honoured", "tools"))

    assert value["error"] is None
    assert value["response"]["status_code"] == 400
    assert value["response"]["body"] == {
        "error": {
            "message": "tools cannot be honoured",
            "type": "invalid_request_error",
            "param": "tools",
            "code": "unsupported_parameter",
        }
    }


@pytest.mark.parametrize(("status", "code"), [("cancelled", "batch_cancelled"), ("expired", "batch_expired")])
def test_a_request_that_never_ran_is_an_error_and_no_response(status: str, code: str) -> None:
    value = written(replace(row(Endpoint.CHAT, HALLO), status=status, output=None, finished_at=None))

    assert value["response"] is None
    assert value["error"].keys() == {"code", "message"}
    assert value["error"]["code"] == code


def test_lines_are_the_same_each_time_and_differ_by_item() -> None:
    done = row(Endpoint.CHAT, HALLO)
    first, again, other = written(done), written(done), OpenAILines(Endpoint.CHAT, JOB).line(replace(done, index=8))

    assert first == again
    assert json.loads(other)["response"]["request_id"] != first["response"]["request_id"]


# By dialect


def test_a_job_is_read_by_its_dialect() -> None:
    openai = reader("openai", Endpoint.CHAT, "generation")
    bushel = reader("bushel", None, "translation")

    assert openai(line()) == read_line(line(), Endpoint.CHAT)
    assert bushel({"text": "Hi", "custom_id": "a"}) == Input({"text": "Hi"}, "a")
    with pytest.raises(Refused, match="an input line must be"):
        bushel(7)


def test_only_openai_has_result_files_of_its_own() -> None:
    pair = writers("openai", Endpoint.CHAT, JOB)
    assert pair is not None

    output: LineWriter = pair[0]
    assert (output.header(), output.extension, output.content_type) == (b"", "jsonl", "application/jsonl")
    assert writers("anthropic", "/v1/messages", JOB) is None
    assert writers("bushel", None, JOB) is None
