"""The `n` best of a beam search, through a job."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import LiveAPI
from tests.waiting import eventually


@pytest.fixture
def worked(stack: LiveAPI, key: str) -> Iterator[httpx.Client]:
    with stack.client(key) as client:
        yield client


def test_a_translation_has_the_best_of_its_search_as_choices(worked: httpx.Client) -> None:
    inputs = ["one two three", {"text": "four five", "params": {"n": 1}}, "one two three"]
    job = worked.post(
        "/v1/jobs", json={"task": "translation", "inputs": inputs, "params": {"num_beams": 4, "n": 2}}
    ).json()

    eventually(lambda: worked.get(f"/v1/jobs/{job['id']}").json()["status"] == "completed")

    answer = worked.get(f"/v1/jobs/{job['id']}/results")
    outputs = [httpx.Response(200, content=line).json()["output"] for line in answer.content.splitlines()]
    assert [[each["text"] for each in output.get("choices", [])] for output in outputs] == [
        ["one two three", "one two"], [], ["one two three", "one two"]
    ]  # fmt: skip
    assert [output["text"] for output in outputs] == ["one two three", "four five", "one two three"]
    usage = worked.get(f"/v1/jobs/{job['id']}").json()["usage"]
    # The search is one, and an equal input is not searched again.
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (5, 7, 12)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        pytest.param({"n": 2}, "set temperature above 0, or num_beams to 2 or more", id="greedy"),
        pytest.param({"n": 5, "num_beams": 4}, "set num_beams to 5 or more, or n to 4 or less", id="too few beams"),
    ],
)
def test_more_than_a_search_has_are_refused(client: httpx.Client, params: dict[str, int], said: str) -> None:
    answer = client.post("/v1/jobs", json={"task": "translation", "inputs": ["one"], "params": params})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "params.n")
    assert said in answer.json()["error"]["message"]
