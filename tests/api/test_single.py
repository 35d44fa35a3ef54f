"""One request at a time, through the real OpenAI client, the real queue and the echo engine."""

import threading
from contextlib import suppress

import httpx
import openai
import psycopg
import pytest
from sqlalchemy.engine import make_url

from api.config import APISettings
from api.waiting import seats
from db import owner
from tests.api.conftest import sdk
from tests.conftest import LiveAPI, served
from tests.ledger import Ledger
from tests.waiting import eventually
from tests.working import AnsweredDoorbell
from workers.reconcile import Reconciler

SAY = [{"role": "user", "content": "good morning"}]


def test_a_chat_is_answered_at_once(working_ai: openai.OpenAI) -> None:
    answer = working_ai.chat.completions.create(model="echo-chat", messages=SAY)

    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion"
    assert answer.choices[0].message.content == "good morning"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens == answer.usage.prompt_tokens * 2


def test_several_choices_and_a_limit_are_honoured(working_ai: openai.OpenAI) -> None:
    answer = working_ai.chat.completions.create(
        model="echo-chat", messages=SAY, n=3, temperature=0.5, seed=7, max_completion_tokens=1
    )

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"good"}
    assert {choice.finish_reason for choice in answer.choices} == {"length"}


def test_completions_take_several_prompts(working_ai: openai.OpenAI) -> None:
    answer = working_ai.completions.create(model="echo-chat", prompt=["one", "two"])

    assert [choice.text for choice in answer.choices] == ["one", "two"]


def test_embeddings_come_as_the_client_decodes_them(working_ai: openai.OpenAI) -> None:
    one = working_ai.embeddings.create(model="echo-vectors", input=["a", "b"])
    plain = working_ai.embeddings.create(model="echo-vectors", input="a", encoding_format="float")

    assert [each.index for each in one.data] == [0, 1]
    assert one.data[0].embedding == pytest.approx(plain.data[0].embedding)
    assert sum(x * x for x in plain.data[0].embedding) == pytest.approx(1)


@pytest.mark.parametrize(("path", "object"), [("translations", "translation"), ("summaries", "summary")])
def test_our_own_endpoints_use_the_default_model(stack: LiveAPI, key: str, path: str, object: str) -> None:
    with stack.client(key) as client:
        answer = client.post(f"/v1/{path}", json={"input": ["one", "two"]})

    assert answer.status_code == 200, answer.text
    assert answer.json()["object"] == object
    assert answer.json()["model"] in ("echo", "echo-short")
    assert [each["text"] for each in answer.json()["data"]] == ["one", "two"]


def test_a_request_leaves_nothing_in_any_list(working_ai: openai.OpenAI, stack: LiveAPI, key: str) -> None:
    working_ai.chat.completions.create(model="echo-chat", messages=SAY)

    assert working_ai.batches.list().data == []
    with stack.client(key) as client:
        assert client.get("/v1/jobs").json()["data"] == []


def test_a_request_leaves_no_row_and_no_byte_behind(
    working_ai: openai.OpenAI, ledger: Ledger, settings: APISettings
) -> None:
    def asked(model: str, text: str) -> None:
        with suppress(openai.InternalServerError):
            working_ai.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])

    asked("echo-chat", "good morning")
    asked("echo-odd", "[[fail]]")
    eventually(lambda: {job.status for job in ledger.rows("SELECT status FROM jobs")} == {"completed"})
    ledger.run("UPDATE jobs SET created_at = created_at - interval '2 h', completed_at = now() - interval '2 h'")
    Reconciler(ledger.sessions, ledger.store, ledger.bell).run()

    for table in ("jobs", "items", "results", "chunks", "files", "idempotency_keys", "deliveries"):
        assert ledger.rows(f"SELECT 1 FROM {table}") == [], table
    # But for the store's note of whose it is.
    assert [path.name for path in (settings.data / "files").rglob("*") if path.is_file()] == [owner.KEY]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        pytest.param({"model": "echo-chat"}, 400, "missing_required_parameter", "messages", id="nothing to answer"),
        pytest.param({"messages": SAY}, 400, "missing_required_parameter", "model", id="no model"),
        pytest.param({"model": "nobody", "messages": SAY}, 404, "model_not_found", "model", id="unknown model"),
        pytest.param(
            {"model": "echo", "messages": SAY}, 400, "task_mismatch", "model", id="a model for something else"
        ),
        pytest.param(
            {"model": "echo-chat", "messages": SAY, "stream": True}, 400, "unsupported_parameter", "stream", id="stream"
        ),
        pytest.param(
            {"model": "echo-chat", "messages": SAY, "tempature": 1}, 400, "unknown_parameter", "tempature", id="a typo"
        ),
        pytest.param(
            {"model": "echo-chat", "messages": SAY, "max_completion_tokens": 9999},
            *(400, "invalid_value", "max_completion_tokens"),
            id="more than the model writes",
        ),
        pytest.param(
            {"model": "echo-chat", "messages": SAY, "response_format": {"type": "json_object"}},
            *(400, "unsupported_parameter", "response_format"),
            id="what the engine cannot do",
        ),
    ],
)
def test_what_cannot_be_honoured_is_named_before_anything_runs(
    client: httpx.Client, ledger: Ledger, body: dict[str, object], status: int, code: str, param: str
) -> None:
    answer = client.post("/v1/chat/completions", json=body)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
    assert ledger.rows("SELECT 1 FROM jobs") == []


def test_all_problems_of_a_request_are_told_at_once(client: httpx.Client) -> None:
    body = {"model": "echo-chat", "messages": SAY, "top_p": 7, "tools": [{"type": "function"}]}

    error = client.post("/v1/chat/completions", json=body).json()["error"]

    assert {each["param"] for each in error["details"]} == {"top_p", "tools"}


def test_a_request_that_fails_while_it_runs_is_an_error(working_ai: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        working_ai.chat.completions.create(model="echo-odd", messages=[{"role": "user", "content": "[[fail]]"}])

    assert failed.value.status_code == 500
    assert failed.value.response.headers["x-should-retry"] == "false"
    assert failed.value.request_id


def test_a_request_without_an_answer_is_cancelled_and_says_what_it_waited_for(
    settings: APISettings, key: str, ledger: Ledger
) -> None:
    with (
        served(settings.model_copy(update={"sync_wait_seconds": 0.2}), AnsweredDoorbell()) as api,
        sdk(api, key, max_retries=2) as ai,
        pytest.raises(openai.InternalServerError) as late,
    ):
        ai.chat.completions.create(model="echo-chat", messages=SAY)

    assert (late.value.status_code, late.value.code, late.value.type) == (504, "request_timeout", "server_error")
    assert "no worker is running" in str(late.value) and "batch" in str(late.value)
    [job] = ledger.rows("SELECT id, status FROM jobs")
    assert job.status == "cancelling"
    assert ledger.finalize(job.id)
    assert ledger.job(job.id).status == "cancelled"
    assert (ledger.job(job.id).output_file_id, ledger.job(job.id).error_file_id) == (None, None)


def test_only_so_many_requests_wait_at_once(settings: APISettings, key: str, ledger: Ledger) -> None:
    bell = AnsweredDoorbell()
    few = settings.model_copy(update={"sync_requests": 1, "sync_wait_seconds": 10})
    body = {"model": "echo-chat", "messages": SAY}
    with served(few, bell) as api, sdk(api, key) as ai, api.client(key) as client, api.client(key) as first:
        waiting = threading.Thread(target=lambda: first.post("/v1/chat/completions", json=body))
        waiting.start()
        [job] = eventually(lambda: ledger.rows("SELECT id FROM jobs"))

        with pytest.raises(openai.RateLimitError) as busy:
            ai.chat.completions.create(model="echo-chat", messages=SAY)

        assert client.get("/v1/jobs").status_code == 200
        assert client.post(f"/v1/jobs/{job.id}/cancel").status_code == 200
        assert ledger.finalize(job.id)
        waiting.join()

    assert busy.value.code == "too_many_requests"
    assert 2 <= int(busy.value.response.headers["retry-after"]) <= 5
    assert "x-should-retry" not in busy.value.response.headers


def test_a_cancelled_request_is_answered(settings: APISettings, key: str, ledger: Ledger) -> None:
    answers: list[httpx.Response] = []
    with served(settings, AnsweredDoorbell()) as api, api.client(key) as client:
        waiting = threading.Thread(
            target=lambda: answers.append(
                client.post("/v1/chat/completions", json={"model": "echo-chat", "messages": SAY})
            )
        )
        waiting.start()
        [job] = eventually(lambda: ledger.rows("SELECT id FROM jobs"))
        with api.client(key) as other:
            assert other.post(f"/v1/jobs/{job.id}/cancel").status_code == 200
        assert ledger.finalize(job.id)
        waiting.join()

    assert answers[0].status_code == 503
    assert answers[0].json()["error"]["code"] == "batch_cancelled"


def test_a_ledger_that_is_away_for_a_moment_costs_a_waiting_request_nothing(
    settings: APISettings,
    key: str,
    ledger: Ledger,
    postgres: str,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = make_url(database_url).database
    answers: list[httpx.Response] = []
    body = {"model": "echo-chat", "messages": SAY}
    with served(settings, AnsweredDoorbell()) as api, api.client(key) as client:
        waiting = threading.Thread(target=lambda: answers.append(client.post("/v1/chat/completions", json=body)))
        waiting.start()
        [job] = eventually(lambda: ledger.rows("SELECT id FROM jobs"))
        with psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True) as server:
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            eventually(lambda: "cannot look" in caplog.text or answers)
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        claim = ledger.claim(job.id, model="echo-chat")
        assert claim is not None
        ledger.record(claim)
        waiting.join()

    assert answers[0].status_code == 200
    assert answers[0].json()["choices"][0]["message"]["content"] == "out"


def test_a_process_of_one_thread_still_serves_single_requests() -> None:
    assert (seats(8, 16), seats(8, 4), seats(8, 1)) == (8, 3, 1)
