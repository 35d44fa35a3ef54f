"""Anthropic's requests in, and answers out that its own SDK takes for its own."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_type_hints

import pydantic
import pytest
from anthropic.types import Message
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from anthropic.types.messages import MessageBatchIndividualResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from db.inputs import MAX_LISTED, Refused
from db.lines import ResultRow
from dialects.anthropic.requests import read_line, read_params
from dialects.anthropic.responses import error, message, result_line
from dialects.reading import reader

JOB = "job_0mgcxk2l9abcdefgh01234567"
REST = JOB.removeprefix("job_")
HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


def params(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": HI} | fields


def refused(value: object) -> list[tuple[str, str | None]]:
    with pytest.raises(Refused) as caught:
        read_params(value)
    assert all(problem.message for problem in caught.value.problems)
    return [(problem.code, problem.param) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("fields", "ours", "aliases"),
    [
        pytest.param({}, {}, {}, id="nothing: the model's defaults hold"),
        pytest.param({"temperature": 0.5}, {"temperature": 0.5}, {}, id="temperature"),
        pytest.param({"temperature": 1}, {"temperature": 1}, {}, id="the highest temperature"),
        pytest.param({"top_k": 40}, {"top_k": 40, "temperature": 1}, {}, id="top_k needs sampling"),
        pytest.param({"top_p": 0.9}, {"top_p": 0.9, "temperature": 1}, {}, id="top_p needs sampling"),
        pytest.param({"top_k": 4, "top_p": 0.9, "temperature": 0}, {"temperature": 0}, {}, id="nothing to choose from"),
        pytest.param({"stop_sequences": ["a"]}, {"stop": ["a"]}, {"stop": "stop_sequences"}, id="stop_sequences"),
        pytest.param(
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {"json_schema": json.dumps(SCHEMA, separators=(",", ":"))},
            {"json_schema": "output_config.format"},
            id="a schema keeps the order of its keys",
        ),
        pytest.param({"seed": 4, "num_beams": 2}, {"seed": 4, "num_beams": 2}, {}, id="parameters of ours"),
    ],
)
def test_a_message_asks_for(fields: dict[str, Any], ours: dict[str, Any], aliases: dict[str, str]) -> None:
    found = read_params(params(**fields))

    assert (found.model, found.body["messages"]) == ("m", HI)
    assert found.wanted({}) == {"max_new_tokens": 9} | ours
    assert {"max_new_tokens": "max_tokens"}.items() <= found.aliases.items()
    assert aliases.items() <= found.aliases.items()


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"user_id": "u"}, "cache_control": {"type": "ephemeral"}},
        {"service_tier": "auto", "speed": "standard", "stream": False},
        {"service_tier": "standard_only"},
        {"tools": [], "tool_choice": {"type": "auto"}, "thinking": {"type": "disabled"}},
        {"system": "", "output_config": {"effort": None}},
        dict.fromkeys(("container", "diagnostics", "inference_geo", "output_config", "system", "top_k", "tools")),
    ],
    ids=lambda fields: " ".join(fields),
)
def test_what_changes_no_output_is_accepted_and_leaves_no_trace(fields: dict[str, Any]) -> None:
    assert read_params(params(**fields)) == read_params(params())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"stream": True}, ("unsupported_parameter", "stream"), id="stream"),
        pytest.param({"tools": [{"name": "x"}]}, ("unsupported_parameter", "tools")),
        pytest.param({"tool_choice": {"type": "any"}}, ("unsupported_parameter", "tool_choice")),
        pytest.param({"thinking": {"type": "adaptive"}}, ("unsupported_parameter", "thinking")),
        pytest.param({"output_config": {"effort": "high"}}, ("unsupported_parameter", "output_config.effort")),
        pytest.param({"output_config": 7}, ("invalid_value", "output_config"), id="output_config is a number"),
        pytest.param({"output_config": {"format": {}}}, ("invalid_value", "output_config.format"), id="empty format"),
        pytest.param(
            {"output_config": {"format": {"type": "json_schema"}}},
            ("invalid_value", "output_config.format.schema"),
            id="no schema",
        ),
        pytest.param(
            {"output_config": {"format": {"type": "json_schema", "schema": {}, "name": "x"}}},
            ("unknown_parameter", "output_config.format.name"),
            id="a name, as OpenAI has it",
        ),
        pytest.param({"service_tier": "priority"}, ("unsupported_parameter", "service_tier")),
        pytest.param({"speed": "fast"}, ("unsupported_parameter", "speed")),
        pytest.param({"container": "c"}, ("unsupported_parameter", "container")),
        pytest.param({"n": 2}, ("unknown_parameter", "n")),
        pytest.param({"max_tokens": 0}, ("invalid_value", "max_tokens")),
        pytest.param({"max_tokens": None}, ("missing_required_parameter", "max_tokens"), id="no max_tokens"),
        pytest.param({"model": None}, ("missing_required_parameter", "model"), id="no model"),
        pytest.param({"temperature": 1.1}, ("invalid_value", "temperature")),
        pytest.param({"top_k": -1}, ("invalid_value", "top_k")),
        pytest.param({"stop_sequences": [7]}, ("invalid_value", "stop_sequences")),
        pytest.param({"metadata": "u"}, ("invalid_value", "metadata")),
        pytest.param({"system": 7}, ("invalid_value", "system")),
        pytest.param({"system": [{"type": "image"}]}, ("unsupported_parameter", "system[0].type"), id="system image"),
        pytest.param({"system": "a\0"}, ("invalid_character", "system"), id="NUL in system"),
        pytest.param({"messages": []}, ("invalid_value", "messages"), id="no messages"),
        pytest.param(
            {"messages": [*HI, {"role": "assistant", "content": "The answer is"}]},
            ("unsupported_parameter", "messages"),
            id="prefill",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            ("unsupported_parameter", "messages[0].content[0].type"),
            id="image",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "citations": [{}]}]}]},
            ("unsupported_parameter", "messages[0].content[0].citations"),
            id="citations",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": "x", "name": "Ann"}]},
            ("unknown_parameter", "messages[0].name"),
            id="name",
        ),
        pytest.param(
            {"messages": [{"role": "developer", "content": "x"}]}, ("invalid_value", "messages[0].role"), id="developer"
        ),
    ],
)
def test_what_cannot_be_honoured_names_the_parameter(fields: dict[str, Any], expected: tuple[str, str]) -> None:
    assert refused(params(**fields)) == [expected]


def test_the_system_prompt_is_the_first_turn() -> None:
    blocks = [
        {"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "kind."},
    ]

    assert read_params(params(system="Be kind.")).body == read_params(params(system=blocks)).body
    assert read_params(params(system="Be kind.")).body["messages"] == [{"role": "system", "content": "Be kind."}, *HI]


def test_turns_of_one_role_are_put_together() -> None:
    given = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")]

    body = read_params(params(messages=[{"role": role, "content": text} for role, text in given])).body

    assert [(turn["role"], turn["content"]) for turn in body["messages"]] == [
        ("user", "a\n\nb"),
        ("assistant", "c\n\nd"),
        ("user", "e"),
    ]


@pytest.mark.parametrize("value", [None, 7, "x", [], True])
def test_params_that_are_no_object_are_the_refusal_of_that_request(value: object) -> None:
    found = read_line({"custom_id": "a", "params": value})

    assert found.custom_id == "a"
    assert [(problem.code, problem.param) for problem in found.refusal] == [("invalid_value", "params")]


def test_what_is_wrong_inside_the_params_is_the_refusal_of_that_request_alone() -> None:
    found = read_line({"custom_id": "a", "params": params(tools=[{}], temperature=7)})

    assert (found.custom_id, found.model, found.body) == ("a", "m", {})
    assert [problem.param for problem in found.refusal] == ["tools", "temperature"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("x", [("invalid_request", None)], id="a string"),
        pytest.param(
            {}, [("missing_required_parameter", "custom_id"), ("missing_required_parameter", "params")], id="nothing"
        ),
        pytest.param({"custom_id": "a", "params": {}, "x": 1}, [("unknown_parameter", "x")], id="one more key"),
        pytest.param({"custom_id": 7, "params": {}}, [("invalid_value", "custom_id")], id="a number"),
        pytest.param({"custom_id": None, "params": {}}, [("invalid_value", "custom_id")], id="null"),
        pytest.param({"custom_id": "", "params": {}}, [("invalid_value", "custom_id")], id="empty"),
        pytest.param({"custom_id": "a b", "params": {}}, [("invalid_value", "custom_id")], id="a space"),
        pytest.param({"custom_id": "a\n", "params": {}}, [("invalid_value", "custom_id")], id="a line break"),
        pytest.param({"custom_id": "a" * 65, "params": {}}, [("invalid_value", "custom_id")], id="too long"),
    ],
)
def test_what_is_wrong_with_an_entry_refuses_the_entry(value: object, expected: list[tuple[str, str]]) -> None:
    with pytest.raises(Refused) as caught:
        read_line(value)

    assert [(problem.code, problem.param) for problem in caught.value.problems] == expected


def test_a_million_unknown_keys_are_a_few_problems() -> None:
    assert len(refused({f"key{number}": 1 for number in range(10_000)})) <= MAX_LISTED + 3


def test_a_job_is_read_by_its_dialect() -> None:
    entry = {"custom_id": "a", "params": params()}

    assert reader("anthropic", "/v1/messages", "generation")(entry) == read_line(entry)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
blocks = st.lists(
    st.fixed_dictionaries({}, optional={"type": values | st.just("text"), "text": values | st.text()}), max_size=2
)
turns = st.fixed_dictionaries(
    {}, optional={"role": values | st.sampled_from(["user", "assistant"]), "content": values | st.text() | blocks}
)
configs = st.fixed_dictionaries(
    {}, optional={"format": st.fixed_dictionaries({"type": st.just("json_schema")}, optional={"schema": values})}
)
NAMES = ["model", "max_tokens", "messages", "system", "temperature", "top_k", "stop_sequences", "thinking", "tools"]
bodies = st.dictionaries(st.sampled_from(NAMES), values | st.lists(turns, max_size=3), max_size=6) | st.builds(
    params,
    system=values | blocks,
    messages=st.lists(turns, max_size=3),
    stop_sequences=st.just([]) | values,
    output_config=configs | values,
)


@given(
    values
    | bodies
    | st.fixed_dictionaries({}, optional={"custom_id": values | st.just("a"), "params": values | bodies})
    | st.builds(lambda params: {"custom_id": "a", "params": params}, bodies)
)
@settings(max_examples=600, deadline=None)
def test_any_value_is_an_input_or_refused(value: object) -> None:
    for read in (read_params, read_line):
        try:
            found = read(value)
        except Refused as refused:
            assert refused.problems
        else:
            assert bool(found.body) != bool(found.refusal)
            assert "\0" not in json.dumps(found.body, ensure_ascii=False)
            json.dumps([found.body, found.params], ensure_ascii=False, allow_nan=False).encode()


# Answers


DONE = ResultRow(
    index=7,
    seq=3,
    custom_id="a",
    line=8,
    status="succeeded",
    input=read_params(params()).body,
    output={"text": "Hallo", "finish_reason": "stop"},
    input_tokens=5,
    output_tokens=2,
    finished_at=1.7e9,
)


def strange(model: pydantic.BaseModel, where: str = "") -> Iterator[str]:
    """Keys that the SDK's class does not know."""
    yield from (f"{where}{key}" for key in model.model_extra or ())
    for name in type(model).model_fields:
        value = getattr(model, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, pydantic.BaseModel):
                yield from strange(each, f"{where}{name}.")


def arrived(value: dict[str, Any]) -> Any:
    """As it arrives: through JSON."""
    return json.loads(json.dumps(value, allow_nan=False))


def failed(code: str, message: str | None = "it is wrong") -> ResultRow:
    return replace(DONE, status="failed", output=None, error_code=code, error_message=message)


def test_a_message_is_the_sdks_to_the_letter() -> None:
    answer = arrived(message(DONE, JOB))

    assert answer == {
        "id": f"msg_{REST}_7",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hallo", "citations": None}],
        "container": None,
        "stop_details": None,
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "cache_creation": None,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "input_tokens": 5,
            "output_tokens": 2,
            "server_tool_use": None,
            "service_tier": "standard",
        },
    }
    assert not list(strange(Message.model_validate(answer, strict=True)))


def test_an_answer_made_for_an_equal_request_has_read_its_input_from_a_cache() -> None:
    twin = replace(DONE, input_tokens=0, output_tokens=0, reused_input_tokens=5, reused_output_tokens=2)

    usage = message(twin, JOB)["usage"]

    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (0, 5, 2)


def test_a_schema_that_the_model_cannot_be_held_to_is_named_as_the_client_named_it() -> None:
    asked = read_params(params(output_config={"format": {"type": "json_schema", "schema": SCHEMA}}))
    said = failed("invalid_value", "json_schema cannot be used: it is too large")

    answer = error(replace(said, input=asked.body, error_param="json_schema"), JOB)

    assert answer["error"]["message"] == "output_config.format cannot be used: it is too large"


def test_every_field_that_the_sdk_documents_is_known() -> None:
    for name in get_type_hints(MessageCreateParamsNonStreaming):
        for strange in ({"strange": 1}, "strange", [1], 0.5, True):
            try:
                read_params(params(**{name: strange}))
            except Refused as refused:
                assert {(each.param or "").split("[")[0].split(".")[0] for each in refused.problems} == {name}
                assert "unknown_parameter" not in {each.code for each in refused.problems if each.param == name}


def test_an_answer_at_its_limit_says_so() -> None:
    cut = replace(DONE, output={"text": "Hal", "finish_reason": "length"})

    assert message(cut, JOB)["stop_reason"] == "max_tokens"


def test_an_input_that_was_cut_says_so() -> None:
    cut = replace(DONE, output={"text": "Hal", "finish_reason": "stop", "truncated_tokens": 4})

    assert message(cut, JOB)["bushel"] == {"truncated_tokens": 4}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        pytest.param(DONE, "succeeded", id="succeeded"),
        pytest.param(failed("invalid_value"), "errored", id="errored"),
        pytest.param(replace(DONE, status="cancelled", output=None), "canceled", id="canceled"),
        pytest.param(replace(DONE, status="expired", output=None), "expired", id="expired"),
    ],
)
def test_every_outcome_is_a_result_of_the_sdks(row: ResultRow, kind: str) -> None:
    parsed = MessageBatchIndividualResponse.model_validate(arrived(result_line(row, JOB)), strict=True)

    assert (parsed.custom_id, parsed.result.type) == ("a", kind)
    assert not list(strange(parsed))


def test_a_message_of_a_batch_names_its_tier() -> None:
    assert result_line(DONE, JOB)["result"]["message"]["usage"]["service_tier"] == "batch"


@pytest.mark.parametrize(
    ("code", "type"),
    [
        ("invalid_value", "invalid_request_error"),
        ("input_too_long", "invalid_request_error"),
        ("model_not_found", "not_found_error"),
        ("model_unavailable", "overloaded_error"),
        ("worker_crashed", "api_error"),
        ("engine_error", "api_error"),
        ("internal_error", "api_error"),
    ],
)
def test_an_error_has_the_type_its_code_calls_for(code: str, type: str) -> None:
    assert error(failed(code), JOB) == {
        "type": "error",
        "error": {"type": type, "message": "it is wrong"},
        "request_id": f"req_{REST}_7",
    }
    assert error(failed(code, None), JOB)["error"]["message"] == code


@given(st.text(), st.sampled_from(["stop", "length"]), st.integers(0, 2**31), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_every_message_is_valid_for_the_sdk(text: str, reason: str, index: int, tokens: int) -> None:
    row = replace(DONE, output={"text": text, "finish_reason": reason}, index=index, output_tokens=tokens)

    parsed = MessageBatchIndividualResponse.model_validate(arrived(result_line(row, JOB)), strict=True)

    assert parsed.result.type == "succeeded"
    assert parsed.result.message.content[0].type == "text"
    assert parsed.result.message.content[0].text == text
