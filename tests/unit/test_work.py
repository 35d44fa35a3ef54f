"""From stored inputs to prompts and from generations to results; an item of several prompts is one item throughout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from db.chunks import Claim, ClaimedItem
from db.recording import NewResult
from db.states import Outcome
from models.spec import EngineKind, ModelSpec, Task
from workers.engines.base import BadParam, Encoded, Engine, Generation, Limits, Params, Prompt, TokenLogprob
from workers.engines.echo import EchoEngine
from workers.isolation import Fault
from workers.outputs import output_of
from workers.work import Work, encode, results_of

CHAT = ModelSpec("m", Task.GENERATION, Path("/nowhere"), EngineKind.ECHO, max_input_tokens=4, options={"markers": True})


def work(*inputs: Any, engine: Engine | None = None, long_input: str = "error", **params: Any) -> Work:
    """A chunk of these inputs; a number stands for a twin of the item with that index."""
    claim = Claim(1, 1, "job", "m", params, long_input, len(inputs), 1, 0)
    items = [
        ClaimedItem(idx, {}, input) if isinstance(input, int) else ClaimedItem(idx, input, None)
        for idx, input in enumerate(inputs)
    ]
    made = Work(claim, engine or EchoEngine(CHAT), Params(), items)
    encode(made)
    return made


def generated(made: Work, *places: int) -> list[NewResult]:
    """Results once the prompts at these places (default: all) are generated."""
    for at in places or range(len(made.encoded)):
        made.outputs.generations[at] = Generation(at, made.encoded[at].tokens, "stop")
    return sorted(results_of(made), key=lambda result: result.idx)


def choices(result: NewResult) -> list[str]:
    assert result.output is not None
    return [choice["text"] for choice in result.output["choices"]]


def test_texts_and_copies_are_choices_prompt_by_prompt() -> None:
    made = work({"texts": ["a", "b c"]}, n=2)
    assert [(each.tokens, each.choice) for each in made.encoded] == [
        (("a",), 0),
        (("a",), 1),
        (("b", " c"), 0),
        (("b", " c"), 1),
    ]

    [result] = generated(made)

    assert choices(result) == ["a", "a", "b c", "b c"]
    assert (result.input_tokens, result.output_tokens) == (3, 6)
    assert (made.consumed, made.produced) == (6, 6)


def test_the_best_of_a_search_are_choices_of_one_prompt() -> None:
    made = work({"texts": ["1 2 3 4 5", "b"]}, {"text": "c"}, long_input="truncate", n=2, num_beams=4)
    assert [(each.tokens, each.choice) for each in made.encoded] == [
        (("1", " 2", " 3", " 4"), 0), (("b",), 0), (("c",), 0)
    ]  # fmt: skip

    for at, encoded in enumerate(made.encoded):
        second = Generation(at, ("x",), "length", -2.5)
        made.outputs.generations[at] = Generation(at, encoded.tokens, "stop", -0.5, others=(second,))
    first, last = sorted(results_of(made), key=lambda result: result.idx)

    assert choices(first) == ["1 2 3 4", "x", "b", "x"]
    assert last.output == {
        "text": "c",
        "finish_reason": "length",
        "choices": [
            {"text": "c", "finish_reason": "stop", "score": -0.5},
            {"text": "x", "finish_reason": "length", "score": -2.5},
        ],
    }
    assert first.output is not None and first.output["truncated_tokens"] == 1
    assert [choice.get("truncated_tokens") for choice in first.output["choices"]] == [1, 1, None, None]
    assert (first.input_tokens, first.output_tokens) == (5, 7)
    assert (made.consumed, made.produced) == (6, 9)


def test_an_item_fails_when_one_of_its_best_cannot_be_decoded() -> None:
    class Picky(EchoEngine):
        def decode(self, generations: Sequence[Generation], params: Params) -> list[str]:
            if any(each.tokens == ("bad",) for each in generations):
                raise ValueError("cannot be read")
            return super().decode(generations, params)

    made = work({"text": "a"}, {"text": "b"}, engine=Picky(CHAT), n=2, num_beams=2)
    for at, other in enumerate(("bad", "good")):
        made.outputs.generations[at] = Generation(at, ("x",), "stop", others=(Generation(at, (other,), "stop"),))

    results = sorted(results_of(made), key=lambda result: result.idx)

    assert [result.error_code for result in results] == ["engine_error", None]
    assert choices(results[1]) == ["x", "good"]


def test_a_single_prompt_is_no_list_of_choices() -> None:
    [result] = generated(work({"text": "a"}))

    assert result.output == {"text": "a", "finish_reason": "stop"}


def test_an_item_is_left_open_while_a_prompt_of_it_is_missing() -> None:
    made = work({"texts": ["a", "b"]}, {"text": "c"}, 0, 1)

    results = generated(made, 0, 2)

    assert [(result.idx, result.outcome) for result in results] == [(1, Outcome.SUCCEEDED), (3, Outcome.SUCCEEDED)]


def test_an_item_fails_at_once_with_a_prompt_of_it_and_so_does_its_twin() -> None:
    made = work({"texts": ["a", "b"]}, 0, {"text": "c"})
    made.outputs.faults[1] = Fault("engine_error", "told to")

    results = generated(made, 2)

    assert [(result.idx, result.error_code) for result in results] == [
        (0, "engine_error"),
        (1, "engine_error"),
        (2, None),
    ]


def test_one_prompt_that_is_too_long_refuses_its_item_alone() -> None:
    made = work({"texts": ["a", "one two three four five"]}, {"text": "b"})

    results = generated(made)

    assert [(result.idx, result.error_code) for result in results] == [(0, "input_too_long"), (1, None)]
    assert "has 5 tokens, the model takes 4; shorten it or submit" in str(results[0].error_message)


def test_where_input_and_output_share_their_room_both_are_told() -> None:
    engine = EchoEngine(CHAT)
    engine._limits = Limits(4, 3, shared_context=True)

    [result] = generated(work({"text": "one two three four five"}, engine=engine))

    assert "the model takes 4 beside the 3 that the output may have" in str(result.error_message)


def test_what_was_cut_is_told_of_each_choice_and_of_all_together_once() -> None:
    made = work({"texts": ["1 2 3 4 5", "1 2 3 4 5 6"]}, long_input="truncate", n=2)

    [result] = generated(made)

    assert result.output is not None and result.output["truncated_tokens"] == 3
    assert [choice["truncated_tokens"] for choice in result.output["choices"]] == [1, 1, 2, 2]


def test_the_prompts_of_an_item_are_generated_in_one_slice() -> None:
    many = {"texts": ["one two three four"] * 300}
    made = work({"text": "a"}, many, many)

    slices = made.slices(None)

    assert sorted(map(len, slices)) == [1, 300, 300]
    assert sorted(at for places in slices for at in places) == list(range(601))


class Picky(EchoEngine):
    """Refuses a parameter, as an engine does that only knows once it is loaded."""

    calls = 0

    def encode(self, prompts: Sequence[Prompt], params: Params) -> list[Encoded]:
        self.calls += 1
        raise BadParam("json_schema", "this schema cannot be enforced")


def test_a_parameter_the_engine_refuses_is_a_fault_of_every_item_found_once() -> None:
    engine = Picky(CHAT)
    made = work({"text": "a"}, {"text": "b"}, 0, engine=engine)

    results = generated(made)

    assert engine.calls == 1 and made.encoded == []
    assert {(result.error_code, result.error_param) for result in results} == {("invalid_value", "json_schema")}
    assert len(results) == 3


def test_twins_cost_nothing() -> None:
    first, twin = generated(work({"text": "a b"}, 0))

    assert (first.input_tokens, twin.input_tokens, twin.output_tokens) == (2, 0, 0)
    assert first.output is not None and "reused" not in first.output
    assert twin.output == first.output | {"reused": {"input_tokens": 2, "output_tokens": 2}}


def test_one_output_that_was_cut_makes_the_item_one_that_was() -> None:
    generations = [Generation(0, ("a",), "stop"), Generation(1, ("b",), "length")]

    output = output_of(["a", "b"], generations, [Encoded(("x",)), Encoded(("y",))])

    assert output["finish_reason"] == "length"
    assert [choice["finish_reason"] for choice in output["choices"]] == ["stop", "length"]


def test_odds_are_stored_token_by_token() -> None:
    other = TokenLogprob("b", b"b", -1.5)
    token = TokenLogprob("é", "é".encode(), -0.25, (other,))

    output = output_of(["é"], [Generation(0, (1,), "stop", -0.25, (token,))], [Encoded((1,))])

    assert output["logprobs"] == [
        {
            "token": "é",
            "bytes": [195, 169],
            "logprob": -0.25,
            "top": [{"token": "b", "bytes": [98], "logprob": -1.5}],
        }
    ]


def test_an_item_that_asks_for_more_odds_than_memory_holds_is_refused_alone() -> None:
    """One request could else take gigabytes of a worker, and of whoever reads its result."""
    params = Params(max_new_tokens=4_096, top_logprobs=20)
    items = [ClaimedItem(0, {"texts": ["a"] * 30}, None), ClaimedItem(1, {"texts": ["a"]}, None)]
    made = Work(Claim(1, 1, "job", "m", {"n": 16}, "error", 2, 1, 0), EchoEngine(CHAT), params, items)
    encode(made)

    refused, served = generated(made)

    assert (refused.outcome, refused.error_code, refused.error_param) == (
        Outcome.FAILED,
        "too_many_logprobs",
        "top_logprobs",
    )
    assert "480 outputs of up to 1,024 tokens" in str(refused.error_message)
    assert served.outcome is Outcome.SUCCEEDED and len(made.encoded) == 16


@pytest.mark.parametrize("is_list", [False, True])
def test_vectors_are_stored_as_the_bytes_they_are(is_list: bool) -> None:
    generations = [Generation(0, (), "stop", vector=b"\0" * 8), Generation(1, (), "stop", vector=b"\1" * 8)]

    output = output_of(["", ""], generations, [Encoded((1,), dropped=2), Encoded((1,))], is_list=is_list)

    assert output == {"embeddings": ["AAAAAAAAAAA=", "AQEBAQEBAQE="], "dimensions": 2, "truncated_tokens": 2}
