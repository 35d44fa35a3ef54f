"""Submitting jobs over HTTP: what is accepted, what is refused in which words, what a repetition gets."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest

from db.doorbell import INGEST
from db.jobs import inputs_key
from tests.api.submitting import JOB, problems, run, submit, upload
from tests.conftest import LiveAPI
from tests.ledger import Ledger


def test_a_submitted_job_is_accepted_located_and_rung_for(client: httpx.Client, api: LiveAPI) -> None:
    answer = submit(client, metadata={"team": "a"}, priority=7, completion_window="24h")

    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert client.get(answer.headers["location"]).json() == job
    assert (job["object"], job["status"], job["model"], job["priority"]) == ("job", "validating", "echo", 7)
    assert (job["metadata"], job["completion_window"]) == ({"team": "a"}, "24h")
    assert job["expires_at"] - job["created_at"] == 86400
    assert api.bell.rings == [(INGEST, job["id"])]


def test_a_job_says_all_its_keys_with_null_where_there_is_nothing(client: httpx.Client) -> None:
    job = submit(client).json()

    assert job["counts"] == dict.fromkeys(
        ("total", "queued", "running", "succeeded", "failed", "cancelled", "expired"), 0
    )
    assert job["usage"] == {
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
        "same_items": 0,
        "cached_items": 0,
        "saved_input_tokens": 0,
        "saved_output_tokens": 0,
        "device_seconds": 0,
        "joules": None,
    }
    for name in (
        "tier",
        "errors",
        "estimate",
        "parent_id",
        "endpoint",
        "input_file_id",
        "output_file_id",
        "error_file_id",
        "report_file_id",
        "scores",
        "expires_at",
        "eta_seconds",
    ):
        assert job[name] is None
    assert job["notices"] == {"truncated_inputs": 0, "cut_outputs": 0}
    assert len(job) == 45


def test_inline_inputs_are_spooled_as_lines_for_ingest(client: httpx.Client, ledger: Ledger) -> None:
    inputs = ["one", {"custom_id": "b", "text": "two\nlines", "params": {"num_beams": 2}}]
    job = submit(client, inputs=inputs).json()

    with ledger.store.open(inputs_key(job["id"])) as spooled:
        lines = [msgspec.json.decode(line) for line in spooled]

    assert lines == [{"text": "one"}, {"custom_id": "b", "text": "two\nlines", "params": {"num_beams": 2}}]
    assert ledger.ingest(job["id"])
    assert client.get(f"/v1/jobs/{job['id']}").json()["counts"]["queued"] == 2


def test_chat_messages_are_for_generation(client: httpx.Client, ledger: Ledger) -> None:
    chat = [{"messages": [{"role": "user", "content": "Hi"}]}]

    accepted = submit(client, task="generation", inputs=chat)
    refused = submit(client, inputs=chat)

    assert (accepted.status_code, accepted.json()["model"]) == (202, "echo-chat")
    assert ledger.ingest(accepted.json()["id"])
    assert problems(refused) == {"inputs.0.messages": "invalid_input"}


def test_all_problems_of_inline_inputs_are_reported_at_once(client: httpx.Client, ledger: Ledger) -> None:
    inputs = [
        "fine",
        "",
        7,
        {"text": "a", "custom_id": "x"},
        {"text": "b", "custom_id": "x"},
        {"txt": "c"},
        {"text": "d", "params": {"num_beams": 0}},
        {"text": "e", "custom_id": "input-1"},
    ]

    answer = submit(client, inputs=inputs)

    assert problems(answer) == {
        "inputs.1.text": "empty_text",
        "inputs.2": "invalid_input",
        "inputs.4.custom_id": "duplicate_custom_id",
        "inputs.5.txt": "unknown_field",
        "inputs.5.text": "missing_text",
        "inputs.6.params.num_beams": "invalid_params",
        "inputs.7.custom_id": "duplicate_custom_id",
    }
    assert answer.json()["error"]["code"] == "invalid_inputs"
    assert "inputs.1.text: the text is empty" in answer.json()["error"]["message"]
    assert not list(ledger.folder.glob("inputs/*"))


def test_the_list_of_problems_is_capped_and_counted(client: httpx.Client) -> None:
    error = submit(client, inputs=[""] * 250).json()["error"]

    assert len(error["details"]) == 100
    assert "and 245 more" in error["message"]


def test_with_skip_bad_inputs_fail_alone(client: httpx.Client, ledger: Ledger) -> None:
    job = submit(client, inputs=["fine", "", {"text": 5}], on_error="skip").json()

    run(ledger, job["id"])
    ledger.finalize(job["id"])

    shown = client.get(f"/v1/jobs/{job['id']}").json()
    assert shown["status"] == "completed"
    assert (shown["counts"]["succeeded"], shown["counts"]["failed"]) == (1, 2)
    assert shown["errors"]["total"] == 2


@pytest.mark.parametrize(
    ("name", "format", "stored"),
    [
        ("a.txt", None, {"type": "txt"}),
        ("a.JSONL.gz", None, {"type": "jsonl"}),
        (
            "a.tsv",
            None,
            {"type": "csv", "text_column": "text", "id_column": None, "delimiter": "\t", "has_header": True},
        ),
        ("noname", "txt", {"type": "txt"}),
        ("a.csv", {"type": "jsonl", "text_column": "q"}, {"type": "jsonl", "text_column": "q"}),
        (
            "a.csv",
            {"type": "csv", "has_header": False, "id_column": "2"},
            {"type": "csv", "text_column": "1", "id_column": "2", "delimiter": ",", "has_header": False},
        ),
    ],
)
def test_the_format_is_what_is_said_or_what_the_name_tells(
    client: httpx.Client, name: str, format: Any, stored: dict[str, Any]
) -> None:
    body = {"task": "translation", "input_file_id": upload(client, name=name), "format": format}

    assert client.post("/v1/jobs", json=body).json()["format"] == stored


def test_a_name_that_tells_no_format_asks_for_one(client: httpx.Client) -> None:
    error = client.post(
        "/v1/jobs", json={"task": "translation", "input_file_id": upload(client, name="data.bin")}
    ).json()["error"]

    assert (error["code"], error["param"]) == ("missing_format", "format")


@pytest.mark.parametrize(
    ("changes", "status", "code", "param", "said"),
    [
        pytest.param({"task": None}, 400, "invalid_value", "task", "must be", id="no task"),
        pytest.param({"task": "poetry"}, 400, "invalid_value", "task", "'translation', 'summarization'", id="task"),
        pytest.param({"tsak": "x"}, 400, "unknown_field", "tsak", "did you mean `task`?", id="typo"),
        pytest.param({"inputs": None}, 400, "invalid_value", None, "exactly one of", id="no source"),
        pytest.param({"input_file_id": "file-1"}, 400, "invalid_value", None, "exactly one of", id="two sources"),
        pytest.param({"inputs": []}, 400, "empty_inputs", "inputs", "0 entries", id="no inputs"),
        pytest.param({"inputs": ["a"] * 10_001}, 400, "too_many_inputs", "inputs", "10,001", id="too many inputs"),
        pytest.param({"inputs": "a"}, 400, "invalid_value", "inputs", "must be a list", id="inputs no list"),
        pytest.param({"format": "txt"}, 400, "invalid_value", None, "`format`", id="format of inline inputs"),
        pytest.param({"priority": 101}, 400, "invalid_value", "priority", "must be 100 or less", id="priority"),
        pytest.param({"priority": "5"}, 400, "invalid_value", "priority", "whole number", id="priority as text"),
        pytest.param({"dry_run": "yes"}, 400, "invalid_value", "dry_run", "true or false", id="flag as text"),
        pytest.param({"completion_window": "soon"}, 400, "invalid_value", "completion_window", "24h", id="window"),
        pytest.param({"completion_window": "366d"}, 400, "invalid_value", "completion_window", "365", id="long window"),
        pytest.param({"metadata": {"a": 1}}, 400, "invalid_value", "metadata.a", "a string", id="metadata number"),
        pytest.param({"metadata": {"k" * 65: "v"}}, 400, "invalid_value", "metadata", "64", id="metadata key"),
        pytest.param({"metadata": {"k": "v" * 513}}, 400, "invalid_value", "metadata", "512", id="metadata value"),
        pytest.param({"metadata": {"k": "a\0b"}}, 400, "invalid_value", "metadata", "NUL", id="metadata NUL"),
        pytest.param(
            {"metadata": {str(n): "v" for n in range(17)}},
            400,
            "invalid_value",
            "metadata",
            "16 entries",
            id="17 pairs",
        ),
        pytest.param({"params": {"beams": 2}}, 400, "invalid_params", "params.beams", "num_beams", id="parameter"),
        pytest.param({"params": {"num_beams": 99}}, 400, "invalid_params", "params.num_beams", "16", id="beams"),
        pytest.param({"params": []}, 400, "invalid_value", "params", "an object", id="params no object"),
        pytest.param({"model": "ecco"}, 404, "model_not_found", "model", "did you mean echo", id="unknown model"),
        pytest.param(
            {"model": "echo-chat"}, 400, "task_mismatch", "model", "echo, echo-many", id="model of other task"
        ),
        pytest.param({"task": "summarization"}, 404, "model_not_found", "model", "summarization", id="no default"),
        pytest.param({"model": "a\0"}, 404, "model_not_found", "model", "there is no model", id="model with NUL"),
    ],
)
def test_a_bad_job_is_refused_in_plain_words(
    client: httpx.Client, api: LiveAPI, changes: dict[str, Any], status: int, code: str, param: str | None, said: str
) -> None:
    answer = submit(client, **changes)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert said in error["message"]
    assert api.bell.rings == []
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("format", "said"),
    [
        ({"type": "xml"}, "format.type"),
        ({"type": "csv", "delimiter": ";;"}, "1 character"),
        ({"type": "csv", "delimiter": '"'}, "cannot be one"),
        ({"type": "txt", "text_column": "a"}, "nothing but text"),
        ({"type": "jsonl", "has_header": True}, "is for csv"),
        ({"type": "jsonl", "csv_formulas": "keep"}, "is for csv"),
        ({"type": "csv", "csv_formulas": "run"}, "must be 'escape', 'keep' or 'round_trip'"),
        ({"type": "csv", "has_header": False, "text_column": "a"}, "a number from 1"),
        ({"type": "csv", "colour": "red"}, "unknown"),
        (7, "an object"),
    ],
)
def test_a_bad_format_is_refused(client: httpx.Client, format: Any, said: str) -> None:
    body = {"task": "translation", "input_file_id": upload(client), "format": format}

    answer = client.post("/v1/jobs", json=body)

    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_an_unknown_input_file_is_not_found(client: httpx.Client) -> None:
    for file_id in ("file-0mgcxk2l9h4t8v2c6y0q1w5r3", "nonsense", "file-\0"):
        answer = client.post("/v1/jobs", json={"task": "translation", "input_file_id": file_id, "format": "txt"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")


def test_a_language_may_be_left_to_the_inputs_but_not_missing(client: httpx.Client) -> None:
    languages = {"source_lang": "en", "target_lang": "de"}
    mixed = [{"text": "a", "params": languages}, {"text": "b", "params": {**languages, "target_lang": "fr"}}]

    assert submit(client, model="echo-many", inputs=mixed).status_code == 202
    assert submit(client, model="echo-many", params=languages).status_code == 202
    # Said once, of the job, however many inputs lack it.
    assert problems(submit(client, model="echo-many", inputs=["a", "b"])) == {
        "params.source_lang": "invalid_params",
        "params.target_lang": "invalid_params",
    }
    partly = [{"text": "a", "params": {**languages, "target_lang": "xx"}}, {"text": "b", "params": languages}]
    assert problems(submit(client, model="echo-many", inputs=partly)) == {
        "inputs.0.params.target_lang": "invalid_params"
    }
    file = {"inputs": None, "input_file_id": upload(client), "format": "txt"}
    assert problems(submit(client, model="echo-many", **file)) == {
        "params.source_lang": "invalid_params",
        "params.target_lang": "invalid_params",
    }


class TestIdempotency:
    HEADERS = {"Idempotency-Key": "order-1"}  # noqa: RUF012 - a constant

    def post(self, client: httpx.Client, **changes: Any) -> httpx.Response:
        return client.post("/v1/jobs", json={**JOB, **changes}, headers=self.HEADERS)

    def test_the_same_request_again_returns_the_job_it_made(self, client: httpx.Client, api: LiveAPI) -> None:
        first, again = self.post(client), self.post(client)

        assert first.status_code == again.status_code == 202
        assert first.json()["id"] == again.json()["id"]
        assert again.headers["location"] == first.headers["location"]
        assert len(api.bell.rings) == 1

    def test_the_same_request_in_another_spelling_is_the_same(self, client: httpx.Client) -> None:
        first = self.post(client)
        body = b'{ "inputs": ["one", {"text": "two", "custom_id": "b"}],\n "task": "translation" }'

        again = client.post(
            "/v1/jobs", content=body, headers={**self.HEADERS, "Content-Type": "application/json; charset=utf-8"}
        )

        assert again.json()["id"] == first.json()["id"]

    def test_another_request_under_the_same_key_is_refused(self, client: httpx.Client) -> None:
        self.post(client)

        answer = self.post(client, priority=1)

        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reused")

    def test_a_refused_request_uses_no_key_up(self, client: httpx.Client) -> None:
        assert self.post(client, priority=1000).status_code == 400
        assert self.post(client).status_code == 202

    def test_keys_of_tenants_do_not_meet(self, client: httpx.Client, stranger: httpx.Client) -> None:
        mine, theirs = self.post(client), self.post(stranger, priority=3)

        assert mine.status_code == theirs.status_code == 202
        assert mine.json()["id"] != theirs.json()["id"]

    def test_many_at_once_make_one_job_and_one_spool(self, client: httpx.Client, ledger: Ledger) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: self.post(client), range(32)))

        assert {answer.status_code for answer in answers} == {202}
        [job_id] = {answer.json()["id"] for answer in answers}
        assert len(client.get("/v1/jobs").json()["data"]) == 1
        assert [path.name for path in ledger.folder.glob("inputs/*")] == [job_id]

    def test_different_requests_racing_for_one_key_make_one_job(self, client: httpx.Client) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: self.post(client, priority=number), range(8)))

        assert sorted(answer.status_code for answer in answers) == [202, *[422] * 7]

    @pytest.mark.parametrize("name", [b"", b"a b", b"x" * 256, "ä".encode()])
    def test_a_key_must_be_visible_ascii(self, client: httpx.Client, name: bytes) -> None:
        answer = client.post("/v1/jobs", json=JOB, headers={b"Idempotency-Key": name})

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
