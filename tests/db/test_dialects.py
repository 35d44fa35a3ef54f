"""Jobs whose lines are whole requests, each with its model and parameters: what runs, and what comes out."""

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from db import jobs
from db.audit import audit
from db.doorbell import WORK
from models.registry import Registry
from models.spec import EngineKind, ModelSpec, Task
from tests.ledger import Ledger, json_lines
from tests.pipeline import ended, running

CHAT = "/v1/chat/completions"
JSONL = {"type": "jsonl"}


def echo(name: str, task: Task, **fields: Any) -> ModelSpec:
    transform = fields.pop("transform", "none")
    options = {"transform": transform, "markers": True}
    return ModelSpec(name, task, Path("/nowhere"), EngineKind.ECHO, options=options, **fields)


SPECS = (
    echo("small", Task.GENERATION, default=True, max_output_tokens=512),
    echo("loud", Task.GENERATION, transform="upper"),
    echo("translator", Task.TRANSLATION, default=True),
    echo("vectors", Task.EMBEDDING),
)


@pytest.fixture(autouse=True)
def registry(ledger: Ledger) -> None:
    ledger.registry = Registry(SPECS)


def line(custom_id: str, body: dict[str, Any], url: str = CHAT) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def chat(custom_id: str, text: str, model: str = "small", **body: Any) -> dict[str, Any]:
    return line(custom_id, {"model": model, "messages": [{"role": "user", "content": text}], **body})


def submit(ledger: Ledger, *lines: Any, endpoint: str = CHAT, task: str = "generation", **fields: Any) -> str:
    job_id = ledger.submit(
        json_lines(*lines), JSONL, model=None, task=task, dialect="openai", endpoint=endpoint, **fields
    )
    assert ledger.ingest(job_id)
    return job_id


def run(ledger: Ledger, job_id: str) -> Any:
    with running(ledger, *SPECS):
        return ended(ledger, job_id)


def read(ledger: Ledger, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(found) for found in ledger.read(file_id).splitlines()]


def problems(ledger: Ledger, job_id: str) -> list[tuple[int, str]]:
    errors = ledger.job(job_id).errors
    return [] if errors is None else [(found["line"], found["code"]) for found in errors["data"]]


def answers(ledger: Ledger, file_id: str | None) -> list[tuple[str, str]]:
    found = read(ledger, file_id)
    return [(each["custom_id"], each["response"]["body"]["choices"][0]["message"]["content"]) for each in found]


def codes(ledger: Ledger, file_id: str | None) -> list[tuple[str, int, str, str | None]]:
    """custom_id, status, code and param of every error line that is a response."""
    found = [(each["custom_id"], each["response"]) for each in read(ledger, file_id)]
    return [
        (custom_id, answer["status_code"], answer["body"]["error"]["code"], answer["body"]["error"]["param"])
        for custom_id, answer in found
    ]


def test_several_models_in_one_file_answer_in_the_order_of_the_file(ledger: Ledger) -> None:
    texts = ["short", "a much longer text of many more words than the others have", "middling text", "short"]
    job_id = submit(ledger, *(chat(f"r-{n}", text, ("small", "loud")[n % 2]) for n, text in enumerate(texts)))
    assert ledger.rows("SELECT DISTINCT model FROM chunks ORDER BY 1") == [("loud",), ("small",)]
    assert sorted(ledger.bell.rings) == [(WORK, "loud"), (WORK, "small")]

    job = run(ledger, job_id)

    assert (job.status, job.model, job.succeeded) == ("completed", None, 4)
    assert answers(ledger, job.output_file_id) == [
        ("r-0", texts[0]),
        ("r-1", texts[1].upper()),
        ("r-2", texts[2]),
        ("r-3", texts[3].upper()),
    ]


def test_a_job_of_one_model_is_that_models_once_it_is_validated(ledger: Ledger) -> None:
    job_id = ledger.submit(
        json_lines(chat("a", "x", "loud"), chat("b", "y", "loud")),
        JSONL,
        model=None,
        task="generation",
        dialect="openai",
        endpoint=CHAT,
    )
    assert ledger.job(job_id).model is None

    ledger.ingest(job_id)

    assert ledger.job(job_id).model == "loud"


def test_what_is_wrong_with_lines_fails_the_batch_with_all_of_it(ledger: Ledger) -> None:
    job_id = submit(
        ledger,
        chat("a", "fine"),
        chat("b", "which?", "nobody"),
        line("c", {"model": "small", "messages": []}, "/v1/embeddings"),
        chat("a", "again"),
        [],
    )

    job = ledger.job(job_id)
    assert (job.status, job.total, job.error_file_id) == ("failed", 0, None)
    assert problems(ledger, job_id) == [
        (2, "model_not_found"),
        (3, "url_mismatch"),
        (4, "duplicate_custom_id"),
        (5, "invalid_json_line"),
    ]


def test_what_is_wrong_with_a_request_is_its_own_answer(ledger: Ledger) -> None:
    job_id = submit(
        ledger,
        chat("good", "fine"),
        chat("tools", "call me", tools=[{"type": "function"}]),
        chat("long", "more", max_completion_tokens=600),
        chat("schema", "shape", response_format={"type": "json_object"}),
        chat("german", "Hallo", "translator"),
        line("none", {"messages": [{"role": "user", "content": "whose?"}]}),
    )
    assert ledger.job(job_id).errors is None

    job = run(ledger, job_id)

    assert (job.status, job.succeeded, job.failed, job.model) == ("completed", 1, 5, None)
    assert [custom_id for custom_id, _ in answers(ledger, job.output_file_id)] == ["good"]
    assert codes(ledger, job.error_file_id) == [
        ("tools", 400, "unsupported_parameter", "tools"),
        ("long", 400, "invalid_value", "max_completion_tokens"),
        ("schema", 400, "unsupported_parameter", "response_format"),
        ("german", 400, "task_mismatch", "model"),
        ("none", 400, "missing_required_parameter", "model"),
    ]
    message = read(ledger, job.error_file_id)[1]["response"]["body"]["error"]["message"]
    assert "max_completion_tokens is 600" in message and "max_new_tokens" not in message


def test_skipped_lines_stand_in_the_error_file_beside_refused_requests(ledger: Ledger) -> None:
    job_id = submit(ledger, chat("a", "x"), chat("b", "y", "nobody"), chat("c", "z", tools=[1]), on_error="skip")
    assert problems(ledger, job_id) == [(2, "model_not_found")]

    job = run(ledger, job_id)

    assert codes(ledger, job.error_file_id) == [
        ("b", 404, "model_not_found", "model"),
        ("c", 400, "unsupported_parameter", "tools"),
    ]


def test_a_batch_whose_lines_all_fail_has_no_output_file(ledger: Ledger) -> None:
    job_id = submit(ledger, *(chat(f"r-{n}", "x", tools=[1]) for n in range(3)))
    assert ledger.job(job_id).status == "finalizing"

    ledger.finalize(job_id)

    job = ledger.job(job_id)
    assert (job.status, job.failed, job.output_file_id) == ("completed", 3, None)
    assert len(read(ledger, job.error_file_id)) == 3


def test_a_batch_without_failures_has_no_error_file(ledger: Ledger) -> None:
    job = run(ledger, submit(ledger, chat("a", "x")))

    assert job.error_file_id is None and len(read(ledger, job.output_file_id)) == 1


@pytest.mark.parametrize(("end", "code"), [("expire", "batch_expired"), ("cancel", "batch_cancelled")])
def test_what_did_not_run_in_time_says_so_and_what_did_is_kept(ledger: Ledger, end: str, code: str) -> None:
    job_id = submit(ledger, chat("a", "x"), chat("b", "y", "loud"))
    ledger.recut(job_id, 1, "echo")
    claim = ledger.claim(job_id)
    assert claim is not None
    ledger.record(claim)
    if end == "expire":
        ledger.run("UPDATE jobs SET status = 'finalizing', finalizing_at = now() WHERE id = :job", job=job_id)
    else:
        with ledger.sessions.begin() as session:
            jobs.cancel(session, ledger.tenant, job_id)

    ledger.finalize(job_id)

    job = ledger.job(job_id)
    assert job.status == ("expired" if end == "expire" else "cancelled")
    assert answers(ledger, job.output_file_id) == [("a", "out")]
    [unfinished] = read(ledger, job.error_file_id)
    assert (unfinished["custom_id"], unfinished["response"]) == ("b", None)
    assert unfinished["error"]["code"] == code


def test_both_files_live_as_long_as_was_asked(ledger: Ledger) -> None:
    lifetime = timedelta(hours=2)
    job = run(ledger, submit(ledger, chat("a", "x"), chat("b", "y", tools=[1]), output_lifetime=lifetime))

    found = ledger.rows(
        "SELECT filename, expires_at - created_at AS lifetime FROM files WHERE purpose = 'batch_output' ORDER BY 1"
    )
    rest = job.id.removeprefix("job_")
    assert [tuple(row) for row in found] == [
        (f"batch_{rest}_errors.jsonl", lifetime),
        (f"batch_{rest}_output.jsonl", lifetime),
    ]


def test_every_prompt_and_every_copy_is_a_choice_of_one_answer(ledger: Ledger) -> None:
    url = "/v1/completions"
    body = {"model": "small", "prompt": ["one two", "three"], "n": 2, "temperature": 1, "max_tokens": 8}
    job_id = submit(ledger, line("a", body, url), line("b", body | {"prompt": "alone", "n": 1}, url), endpoint=url)
    # Copies are work; what is asked for twice is read once.
    assert ledger.job(job_id).queued_tokens == sum(row.tokens for row in ledger.rows("SELECT tokens FROM chunks"))

    job = run(ledger, job_id)

    first, second = (found["response"]["body"] for found in read(ledger, job.output_file_id))
    assert [(choice["index"], choice["text"]) for choice in first["choices"]] == [
        (0, "one two"),
        (1, "one two"),
        (2, "three"),
        (3, "three"),
    ]
    assert (first["usage"]["prompt_tokens"], first["usage"]["completion_tokens"]) == (3, 6)
    assert [choice["text"] for choice in second["choices"]] == ["alone"]
    assert (job.input_tokens, job.output_tokens) == (4, 7)


def test_an_item_fails_as_a_whole_when_one_of_its_prompts_does(ledger: Ledger) -> None:
    url = "/v1/completions"
    job_id = submit(
        ledger,
        line("bad", {"model": "small", "prompt": ["fine", "[[fail]]", "fine too"]}, url),
        line("garbled", {"model": "small", "prompt": ["fine", "[[garbled]]"]}, url),
        line("good", {"model": "small", "prompt": ["fine", "fine too"]}, url),
        endpoint=url,
    )

    job = run(ledger, job_id)

    assert (job.succeeded, job.failed) == (1, 2)
    assert [found[:3] for found in codes(ledger, job.error_file_id)] == [
        ("bad", 500, "engine_error"),
        ("garbled", 400, "invalid_input"),
    ]


def test_vectors_come_back_as_they_were_made(ledger: Ledger) -> None:
    url = "/v1/embeddings"
    job_id = submit(
        ledger,
        line("a", {"model": "vectors", "input": ["x", "y"], "encoding_format": "base64"}, url),
        line("b", {"model": "vectors", "input": "x", "encoding_format": "float"}, url),
        line("c", {"model": "vectors", "input": "x", "encoding_format": "base64"}, url),
        endpoint=url,
        task="embedding",
    )
    # The form of the answer makes no other input.
    assert ledger.rows("SELECT idx, same_as FROM items ORDER BY idx") == [(0, None), (1, None), (2, 1)]

    job = run(ledger, job_id)

    found = [each["response"]["body"]["data"] for each in read(ledger, job.output_file_id)]
    assert [len(each) for each in found] == [2, 1, 1]
    assert len(base64.b64decode(found[0][0]["embedding"])) == 32 and len(found[1][0]["embedding"]) == 8
    assert found[0][0]["embedding"] == found[2][0]["embedding"] != found[0][1]["embedding"]


def test_equal_requests_to_one_model_are_computed_once(ledger: Ledger) -> None:
    job_id = submit(
        ledger, chat("a", "x"), chat("b", "x", user="me"), chat("c", "x", "loud"), chat("d", "x", temperature=1)
    )
    assert [row.same_as for row in ledger.rows("SELECT same_as FROM items ORDER BY idx")] == [None, 0, None, None]

    job = run(ledger, job_id)

    assert [text for _, text in answers(ledger, job.output_file_id)] == ["x", "x", "X", "x"]
    assert (job.input_tokens, job.output_tokens) == (3, 3)
    usage = [each["response"]["body"]["usage"] for each in read(ledger, job.output_file_id)]
    assert [each["total_tokens"] for each in usage] == [2, 2, 2, 2]
    assert [each["prompt_tokens_details"]["cached_tokens"] for each in usage] == [0, 1, 0, 0]
    with ledger.sessions() as session:
        assert audit(session, ledger.tenant, job_id).ok


def test_the_jobs_own_parameters_hold_where_a_line_says_nothing(ledger: Ledger) -> None:
    job_id = submit(
        ledger, chat("a", "one two three"), chat("b", "one two three", max_tokens=2), params={"max_new_tokens": 1}
    )

    job = run(ledger, job_id)

    assert [text for _, text in answers(ledger, job.output_file_id)] == ["one", "one two"]


def test_the_jobs_own_parameters_go_before_what_the_api_would_fill_in(ledger: Ledger) -> None:
    url, twenty = "/v1/completions", " ".join(map(str, range(20)))
    lines = [
        line("a", {"model": "small", "prompt": twenty}, url),
        line("b", {"model": "small", "prompt": twenty, "max_tokens": 2}, url),
        line("c", {"model": "small", "prompt": "x", "top_p": 0.5}, url),
        line("d", {"model": "small", "prompt": twenty, "stop": [" 4"]}, url),
        line("e", {"model": "small", "prompt": "y 17 z", "stop": []}, url),
    ]
    params = {"max_new_tokens": 18, "temperature": 0.3, "stop": [" 17"]}
    job_id = submit(ledger, *lines, endpoint=url, params=params)
    found = ledger.rows("SELECT params FROM chunks")

    job = run(ledger, job_id)

    texts = [each["response"]["body"]["choices"][0]["text"] for each in read(ledger, job.output_file_id)]
    assert [len(text.split()) for text in texts] == [17, 2, 1, 4, 3]
    assert {row.params["temperature"] for row in found} == {0.3}


def test_without_a_word_from_anybody_the_apis_own_defaults_hold(ledger: Ledger) -> None:
    url, twenty = "/v1/completions", " ".join(map(str, range(20)))
    lines = [
        line("a", {"model": "small", "prompt": twenty}, url),
        line("b", {"model": "small", "prompt": "x", "n": 2}, url),
    ]
    job_id = submit(ledger, *lines, endpoint=url)
    found = ledger.rows("SELECT params FROM chunks")

    job = run(ledger, job_id)

    first = read(ledger, job.output_file_id)[0]
    assert len(first["response"]["body"]["choices"][0]["text"].split()) == 16
    assert {row.params.get("temperature") for row in found} == {None, 1}


def test_a_line_may_leave_the_model_to_the_task(ledger: Ledger) -> None:
    url = "/v1/translations"
    job_id = submit(ledger, line("a", {"input": "hello"}, url), endpoint=url, task="translation")

    job = run(ledger, job_id)

    assert job.model == "translator"
    [answer] = read(ledger, job.output_file_id)
    assert answer["response"]["body"]["data"][0]["text"] == "hello"
    assert answer["response"]["body"]["model"] == "translator"


def test_a_dry_run_counts_refused_requests_as_invalid(ledger: Ledger) -> None:
    job_id = submit(ledger, chat("a", "x"), chat("b", "y", tools=[1]), dry_run=True)

    ledger.finalize(job_id)

    job = ledger.job(job_id)
    assert (job.status, job.errors) == ("completed", None)
    assert (job.estimate["items"], job.estimate["invalid_items"]) == (1, 1)


def test_a_batch_of_messages_writes_no_files_and_fails_request_by_request(ledger: Ledger) -> None:
    def request(custom_id: str, model: str, **params: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "hello"}]
        return {"custom_id": custom_id, "params": {"model": model, "max_tokens": 5, "messages": messages, **params}}

    lines = [request("a", "small"), request("b", "nobody"), request("c", "small", max_tokens=0)]
    job_id = ledger.submit(
        json_lines(*lines), JSONL, model=None, task="generation", dialect="anthropic", endpoint="/v1/messages"
    )
    ledger.ingest(job_id)
    assert ledger.job(job_id).errors is None

    job = run(ledger, job_id)

    assert (job.status, job.succeeded, job.failed, job.model) == ("completed", 1, 2, "small")
    assert (job.output_file_id, job.error_file_id) == (None, None)
    found = ledger.rows("SELECT error_code, error_param FROM results WHERE outcome = 'failed' ORDER BY idx")
    assert [tuple(row) for row in found] == [("model_not_found", "model"), ("invalid_value", "max_tokens")]


def test_what_a_model_says_is_stored_whatever_it_is(ledger: Ledger) -> None:
    url = "/v1/completions"
    job_id = submit(ledger, line("a", {"model": "small", "prompt": ["x", "y"]}, url), endpoint=url)
    claim = ledger.claim(job_id, model="small")
    assert claim is not None
    choices = [{"text": "a\0b", "finish_reason": "stop"}, {"text": "\ud800", "finish_reason": "stop"}]

    ledger.record(claim, output={"text": "a\0b", "finish_reason": "stop", "choices": choices})

    [row] = ledger.rows("SELECT output FROM results")
    assert [choice["text"] for choice in row.output["choices"]] == ["a\ufffdb", "?"]
    with ledger.sessions() as session:
        assert audit(session, ledger.tenant, job_id).ok
