"""The Anthropic dialect as its real SDK sees it."""

import asyncio
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from anthropic.types import Message
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse, MessageBatchRequestCounts

from api.anthropic.wire import message_batch
from api.config import APISettings
from db import chunks, jobs
from db.children import REQUESTS
from db.chunks import Candidate
from db.doorbell import FINALIZE, INGEST, RecordingDoorbell
from db.ids import renamed
from db.jobs import NewJob, inputs_key
from db.recording import NewResult, record
from db.states import Outcome
from models.registry import load
from tests.conftest import LiveAPI, served
from tests.ledger import Ledger
from tests.waiting import eventually

MESSAGES: Any = [{"role": "user", "content": "Hello"}]


class Losing(httpx2.BaseTransport):
    """Delivers every request, and loses the first answers."""

    def __init__(self, answers: int) -> None:
        self.left, self.sent = answers, 0
        self._inner = httpx2.HTTPTransport(verify=False, trust_env=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent += 1
        response = self._inner.handle_request(request)
        if self.left:
            self.left -= 1
            response.read()
            raise httpx2.ReadError("lost on the way", request=request)
        return response

    def close(self) -> None:
        self._inner.close()


def sdk(api: LiveAPI, key: str, **said: Any) -> anthropic.Anthropic:
    # Plain HTTP; without this every client reads the system's certificates, which takes as long as a test.
    said.setdefault("http_client", anthropic.DefaultHttpxClient(trust_env=False, verify=False))
    return anthropic.Anthropic(base_url=api.url, api_key=key, **{"max_retries": 0, **said})


@pytest.fixture
def claude(api: LiveAPI, key: str) -> Iterator[anthropic.Anthropic]:
    """The SDK at an API without a worker: nothing happens to a batch but what the test does."""
    with sdk(api, key) as client:
        yield client


@pytest.fixture
def working_claude(stack: LiveAPI, key: str) -> Iterator[anthropic.Anthropic]:
    with sdk(stack, key) as client:
        yield client


@pytest.fixture
def ledger(ledger: Ledger, settings: Any) -> Ledger:
    ledger.registry = load([settings.registry])
    return ledger


def entry(custom_id: str, **params: Any) -> Any:
    return {
        "custom_id": custom_id,
        "params": {"model": "echo-chat", "max_tokens": 32, "messages": MESSAGES, **params},
    }


def job_of(batch: MessageBatch | str) -> str:
    return renamed(batch if isinstance(batch, str) else batch.id, jobs.PREFIX)


def ended(client: anthropic.Anthropic, batch_id: str) -> MessageBatch:
    def look() -> MessageBatch | None:
        batch = client.messages.batches.retrieve(batch_id)
        return batch if batch.processing_status == "ended" else None

    found = eventually(look, 20)
    assert found is not None
    return found


def run_one(ledger: Ledger, job_id: str) -> None:
    """Run the next chunk of the job, whatever it holds."""
    with ledger.sessions.begin() as session:
        claim = chunks.claim(session, Candidate(job_id, "echo-chat"), "worker", 600)
        assert claim is not None
        done = [
            NewResult(item.idx, Outcome.SUCCEEDED, {"text": "Hi", "finish_reason": "stop"}, output_tokens=1)
            for item in chunks.items_of(session, claim.chunk_id)
        ]
        record(session, claim.chunk_id, claim.attempt, done)


def results(client: anthropic.Anthropic, batch_id: str) -> dict[str, Any]:
    return {line.custom_id: line.result for line in client.messages.batches.results(batch_id)}


def test_a_batch_is_created_polled_and_its_results_are_read(working_claude: anthropic.Anthropic) -> None:
    requests = [
        entry("plain"),
        entry("system", system="Be brief.", messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]),
        entry("short", max_tokens=1, messages=[{"role": "user", "content": "one two three"}]),
        entry("nobody", model="nonesuch"),
        entry("translator", model="echo"),
        entry("tools", tools=[{"name": "f", "input_schema": {"type": "object"}}]),
        entry("empty", messages=[]),
    ]

    batch = working_claude.messages.batches.create(requests=requests)
    assert batch.processing_status == "in_progress"
    assert batch.request_counts.processing == 7
    done = ended(working_claude, batch.id)
    found = results(working_claude, batch.id)

    counts = done.request_counts
    assert (counts.succeeded, counts.errored, counts.processing, counts.canceled, counts.expired) == (3, 4, 0, 0, 0)
    assert list(found) == [request["custom_id"] for request in requests]
    assert found["plain"].message.content[0].text == "Hello"
    assert (found["plain"].message.model, found["plain"].message.stop_reason) == ("echo-chat", "end_turn")
    assert found["short"].message.stop_reason == "max_tokens"
    assert {name: found[name].error.error.type for name in ("nobody", "translator", "tools", "empty")} == {
        "nobody": "not_found_error",
        "translator": "invalid_request_error",
        "tools": "invalid_request_error",
        "empty": "invalid_request_error",
    }
    assert "tools" in found["tools"].error.error.message
    assert "nonesuch" in found["nobody"].error.error.message


def test_what_was_cancelled_is_canceled_and_what_is_done_stays(
    claude: anthropic.Anthropic, ledger: Ledger, api: LiveAPI
) -> None:
    # Of different parameters, so that each gets a chunk of its own.
    batch = claude.messages.batches.create(requests=[entry("a"), entry("b", seed=1, temperature=1)])
    assert api.bell.rings == [(INGEST, job_of(batch))]
    assert ledger.ingest(job_of(batch))
    run_one(ledger, job_of(batch))

    first = claude.messages.batches.cancel(batch.id)
    second = claude.messages.batches.cancel(batch.id)
    assert ledger.finalize(job_of(batch))
    third = claude.messages.batches.cancel(batch.id)

    assert (first.processing_status, second.processing_status, third.processing_status) == (
        "canceling",
        "canceling",
        "ended",
    )
    assert first.cancel_initiated_at == third.cancel_initiated_at is not None
    assert (first.ended_at, first.results_url) == (None, None)
    assert (FINALIZE, job_of(batch)) in api.bell.rings
    assert third.request_counts == MessageBatchRequestCounts(
        processing=0, succeeded=1, errored=0, canceled=1, expired=0
    )
    assert sorted(result.type for result in results(claude, batch.id).values()) == ["canceled", "succeeded"]


def test_what_was_not_done_in_time_is_expired(claude: anthropic.Anthropic, ledger: Ledger) -> None:
    batch = claude.messages.batches.create(requests=[entry("a"), entry("b", seed=1, temperature=1)])
    assert batch.expires_at - batch.created_at == timedelta(hours=24)
    assert ledger.ingest(job_of(batch))
    run_one(ledger, job_of(batch))
    ledger.run("UPDATE jobs SET status = 'finalizing', finalizing_at = now() WHERE id = :job", job=job_of(batch))
    assert claude.messages.batches.retrieve(batch.id).processing_status == "in_progress"
    assert ledger.finalize(job_of(batch))

    done = claude.messages.batches.retrieve(batch.id)

    assert (done.request_counts.succeeded, done.request_counts.expired) == (1, 1)
    assert done.ended_at is not None and done.cancel_initiated_at is None
    assert sorted(result.type for result in results(claude, batch.id).values()) == ["expired", "succeeded"]


def test_a_batch_cancelled_before_it_was_read_still_answers_every_request(
    claude: anthropic.Anthropic, ledger: Ledger
) -> None:
    batch = claude.messages.batches.create(requests=[entry(name) for name in "abc"])
    claude.messages.batches.cancel(batch.id)
    assert ledger.finalize(job_of(batch))

    done = claude.messages.batches.retrieve(batch.id)

    assert (done.request_counts.canceled, done.request_counts.processing) == (3, 0)
    assert [(name, result.type) for name, result in results(claude, batch.id).items()] == [
        ("a", "canceled"),
        ("b", "canceled"),
        ("c", "canceled"),
    ]


def test_a_batch_that_failed_on_our_side_answers_every_request_with_an_error(
    claude: anthropic.Anthropic, ledger: Ledger
) -> None:
    batch = claude.messages.batches.create(requests=[entry("a"), entry("b")])
    ledger.run("UPDATE jobs SET status = 'failed', failed_at = now() WHERE id = :job", job=job_of(batch))

    found = results(claude, batch.id)

    assert claude.messages.batches.retrieve(batch.id).request_counts.errored == 2
    assert [(result.type, result.error.error.type) for result in found.values()] == [("errored", "api_error")] * 2


class TestList:
    @pytest.fixture
    def made(self, claude: anthropic.Anthropic, ledger: Ledger) -> list[str]:
        """250 batches, newest first, among jobs of other kinds."""
        new = [
            NewJob(jobs.new_job_id(), "generation", None, {}, {"type": "jsonl", REQUESTS: 1}, dialect="anthropic")
            for _ in range(250)
        ]
        with ledger.sessions.begin() as session:
            for one in new:
                jobs.submit(session, ledger.tenant, one)
            jobs.submit(session, ledger.tenant, NewJob(jobs.new_job_id(), "translation", "echo", {}, {"type": "txt"}))
        return sorted((renamed(one.id, "msgbatch_") for one in new), reverse=True)

    def test_pages_follow_one_another_by_themselves(self, claude: anthropic.Anthropic, made: list[str]) -> None:
        for limit in (100, 1000):
            listed = [batch.id for batch in claude.messages.batches.list(limit=limit)]
            assert sorted(listed, reverse=True) == made
            assert len(set(listed)) == 250

    def test_the_default_is_twenty_newest_first(self, claude: anthropic.Anthropic, made: list[str]) -> None:
        page = claude.messages.batches.list()

        ids = [batch.id for batch in page.data]
        moments = [batch.created_at for batch in page.data]
        assert (len(ids), page.has_more) == (20, True)
        assert (page.first_id, page.last_id) == (ids[0], ids[-1])
        assert moments == sorted(moments, reverse=True)

    def test_pages_before_a_batch_lead_back_to_the_newest(self, claude: anthropic.Anthropic, made: list[str]) -> None:
        everything = [batch.id for batch in claude.messages.batches.list(limit=1000)]

        page = claude.messages.batches.list(before_id=everything[150], limit=60)
        walked = [batch.id for batch in claude.messages.batches.list(before_id=everything[150], limit=60)]

        assert [batch.id for batch in page.data] == everything[90:150]
        assert page.has_more
        assert walked == [*everything[90:150], *everything[30:90], *everything[:30]]
        assert not claude.messages.batches.list(before_id=everything[0]).data

    def test_a_cursor_outlives_its_batch(self, claude: anthropic.Anthropic, ledger: Ledger, made: list[str]) -> None:
        everything = [batch.id for batch in claude.messages.batches.list(limit=1000)]
        ledger.run("DELETE FROM jobs WHERE id = :job", job=job_of(everything[9]))

        page = claude.messages.batches.list(after_id=everything[9], limit=3)

        assert [batch.id for batch in page.data] == everything[10:13]

    @pytest.mark.parametrize(
        "query",
        [{"after_id": "x"}, {"before_id": "job_1"}, {"limit": 0}, {"limit": 1001}, {"after_id": "a", "before_id": "b"}],
        ids=str,
    )
    def test_a_wrong_query_is_a_bad_request(self, claude: anthropic.Anthropic, query: Any) -> None:
        with pytest.raises(anthropic.BadRequestError) as caught:
            claude.messages.batches.list(**query)

        assert caught.value.type == "invalid_request_error"


class TestDelete:
    def test_only_an_ended_batch_can_be_deleted(self, claude: anthropic.Anthropic, ledger: Ledger) -> None:
        batch = claude.messages.batches.create(requests=[entry("a")])
        with pytest.raises(anthropic.ConflictError, match="is in_progress; cancel it"):
            claude.messages.batches.delete(batch.id)
        claude.messages.batches.cancel(batch.id)
        with pytest.raises(anthropic.ConflictError, match="is canceling"):
            claude.messages.batches.delete(batch.id)
        assert ledger.finalize(job_of(batch))

        gone = claude.messages.batches.delete(batch.id)

        assert (gone.id, gone.type) == (batch.id, "message_batch_deleted")
        with pytest.raises(anthropic.NotFoundError):
            claude.messages.batches.retrieve(batch.id)

    def test_results_are_not_there_before_the_end(self, claude: anthropic.Anthropic, client: httpx.Client) -> None:
        batch = claude.messages.batches.create(requests=[entry("a")])

        with pytest.raises(anthropic.AnthropicError, match="No `results_url`"):
            claude.messages.batches.results(batch.id)
        direct = client.get(f"/v1/messages/batches/{batch.id}/results")
        assert (direct.status_code, direct.json()["error"]["type"]) == (409, "conflict_error")
        assert direct.headers["x-should-retry"] == "false"

    def test_a_batch_that_completed_cannot_be_cancelled(self, working_claude: anthropic.Anthropic) -> None:
        batch = working_claude.messages.batches.create(requests=[entry("a")])
        ended(working_claude, batch.id)

        with pytest.raises(anthropic.ConflictError) as caught:
            working_claude.messages.batches.cancel(batch.id)

        assert caught.value.error_code == "job_not_cancellable"


class TestCreate:
    @pytest.mark.parametrize(
        ("requests", "code", "param"),
        [
            pytest.param([], "empty_batch", "requests", id="no requests"),
            pytest.param(
                [entry("a"), entry("b"), entry("a")], "duplicate_custom_id", "requests.2.custom_id", id="twice"
            ),
            pytest.param([entry("not this!")], "invalid_value", "requests.0.custom_id", id="a wrong id"),
            pytest.param([{"custom_id": "a"}], "missing_required_parameter", "requests.0.params", id="no params"),
            pytest.param([entry("a"), "b"], "invalid_request", "requests.1", id="no object"),
        ],
    )
    def test_requests_of_a_wrong_shape_are_refused_at_once(
        self, claude: anthropic.Anthropic, ledger: Ledger, requests: Any, code: str, param: str
    ) -> None:
        with pytest.raises(anthropic.BadRequestError) as caught:
            claude.messages.batches.create(requests=requests)

        error = caught.value
        assert (error.type, error.error_code) == ("invalid_request_error", code)
        assert error.body["error"]["details"]["param"] == param  # type: ignore[index, call-overload]
        assert error.api_message is not None and param in error.api_message
        assert error.request_id == error.response.headers["x-request-id"]
        assert not list(ledger.folder.glob("inputs/*"))

    def test_every_problem_is_told_at_once(self, claude: anthropic.Anthropic) -> None:
        with pytest.raises(anthropic.BadRequestError) as caught:
            claude.messages.batches.create(requests=[{"custom_id": "a", "parms": {}}, entry("b"), entry("b")])

        problems = caught.value.body["error"]["details"]["problems"]  # type: ignore[index, call-overload]
        assert [problem["param"] for problem in problems] == [
            "requests.0.parms",
            "requests.0.params",
            "requests.2.custom_id",
        ]

    def test_a_batch_whose_answers_are_lost_is_made_once(
        self, api: LiveAPI, key: str, claude: anthropic.Anthropic, ledger: Ledger
    ) -> None:
        losing = Losing(3)
        with sdk(api, key, max_retries=3, http_client=httpx2.Client(transport=losing)) as unlucky:
            batch = unlucky.messages.batches.create(requests=[entry("a")])

        assert losing.sent == 4
        assert [found.id for found in claude.messages.batches.list()] == [batch.id]
        assert len(list(ledger.folder.glob("inputs/*"))) == 1

    def test_the_same_batch_meant_twice_is_two(self, claude: anthropic.Anthropic) -> None:
        one, two = (claude.messages.batches.create(requests=[entry("a")]) for _ in range(2))

        assert one.id != two.id

    def test_requests_are_kept_as_they_were_sent(self, claude: anthropic.Anthropic, ledger: Ledger) -> None:
        batch = claude.messages.batches.create(requests=[entry("a")])

        with ledger.store.open(inputs_key(job_of(batch))) as spooled:
            assert [httpx.Response(200, content=line).json() for line in spooled] == [entry("a")]

    def test_the_batch_is_a_job_like_any_other(
        self, claude: anthropic.Anthropic, client: httpx.Client, ledger: Ledger
    ) -> None:
        batch = claude.messages.batches.create(requests=[entry("a"), entry("bad", tools=[1])])
        assert ledger.ingest(job_of(batch))
        run_one(ledger, job_of(batch))
        assert ledger.finalize(job_of(batch))

        job = client.get(f"/v1/jobs/{job_of(batch)}").json()
        child = client.post(f"/v1/jobs/{job['id']}/retry").json()
        again = claude.messages.batches.retrieve(renamed(child["id"], "msgbatch_"))

        assert (job["dialect"], job["endpoint"], job["model"]) == ("anthropic", "/v1/messages", "echo-chat")
        assert (job["output_file_id"], job["error_file_id"]) == (None, None)
        assert again.request_counts.processing == 1
        assert client.get(f"/v1/jobs/{job['id']}/audit").json()["ok"]

    def test_more_than_may_be_open_is_a_rate_limit_that_is_not_retried(self, settings: APISettings, key: str) -> None:
        few = settings.model_copy(update={"max_open_jobs": 1})
        with served(few, RecordingDoorbell()) as api, sdk(api, key, max_retries=2) as client:
            client.messages.batches.create(requests=[entry("a")])
            with pytest.raises(anthropic.RateLimitError) as caught:
                client.messages.batches.create(requests=[entry("b")])

        assert (caught.value.type, caught.value.error_code) == ("rate_limit_error", "quota_exceeded")
        assert caught.value.response.headers["x-should-retry"] == "false"

    def test_a_body_that_is_too_large_is_refused_in_their_form(self, settings: APISettings, key: str) -> None:
        small = settings.model_copy(update={"max_request_bytes": 2_000})
        with (
            served(small, RecordingDoorbell()) as api,
            sdk(api, key) as client,
            pytest.raises(anthropic.APIStatusError, match="larger than the 2,000 bytes") as caught,
        ):
            client.messages.batches.create(requests=[entry(f"a{number}") for number in range(50)])

        assert (caught.value.status_code, caught.value.type) == (413, "invalid_request_error")


class TestTypes:
    """Our objects, field by field, against the SDK's own pydantic classes."""

    def test_a_batch_has_exactly_the_fields_of_theirs(self, claude: anthropic.Anthropic, ledger: Ledger) -> None:
        batch = claude.messages.batches.create(requests=[entry("a")])
        raws = [claude.messages.batches.with_raw_response.retrieve(batch.id).read()]
        raws.append(claude.messages.batches.with_raw_response.cancel(batch.id).read())
        assert ledger.finalize(job_of(batch))
        raws.append(claude.messages.batches.with_raw_response.retrieve(batch.id).read())

        for raw in raws:
            shown = MessageBatch.model_validate_json(raw, strict=True)
            assert httpx.Response(200, content=raw).json().keys() == MessageBatch.model_fields.keys()
            assert shown.model_extra == {}
            assert shown.created_at.tzinfo is not None

    def test_every_kind_of_result_has_exactly_the_fields_of_theirs(
        self, working_claude: anthropic.Anthropic, stack: LiveAPI, key: str
    ) -> None:
        batch = working_claude.messages.batches.create(requests=[entry("a"), entry("b", model="nonesuch")])
        url = ended(working_claude, batch.id).results_url
        assert url is not None and url.startswith(f"{stack.url}/v1/messages/batches/{batch.id}/")

        with stack.client(key) as client:
            lines = client.get(url).content.splitlines()

        for line in lines:
            shown = MessageBatchIndividualResponse.model_validate_json(line, strict=True)
            assert (shown.model_extra, shown.result.model_extra) == ({}, {})
        assert len(lines) == 2

    @pytest.mark.parametrize(
        ("status", "theirs"),
        [
            ("validating", "in_progress"),
            ("in_progress", "in_progress"),
            ("finalizing", "in_progress"),
            ("cancelling", "canceling"),
            ("completed", "ended"),
            ("failed", "ended"),
            ("expired", "ended"),
            ("cancelled", "ended"),
        ],
    )
    @pytest.mark.parametrize("total", [0, 3, 5])
    def test_the_counts_sum_to_the_requests_in_every_status(self, status: str, theirs: str, total: int) -> None:
        class Job:
            selection = cancelling_at = completed_at = failed_at = expired_at = cancelled_at = None
            format: dict[str, Any] = {}  # noqa: RUF012
            created_at = expires_at = datetime(2026, 1, 1, tzinfo=UTC)
            succeeded, failed, cancelled, expired = min(total, 1), 0, max(total - 1, 0), 0

        Job.status, Job.total = status, total  # type: ignore[attr-defined]
        shown = message_batch(Job(), "msgbatch_1", 5, "http://here")  # type: ignore[arg-type]

        assert shown["processing_status"] == theirs
        assert sum(shown["request_counts"].values()) == 5
        assert (shown["request_counts"]["processing"] == 5) is (theirs != "ended")


class TestKeys:
    def test_a_key_in_x_api_key_is_as_good(self, api: LiveAPI, key: str) -> None:
        headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}

        assert httpx.get(f"{api.url}/v1/messages/batches", headers=headers).status_code == 200
        assert httpx.get(f"{api.url}/v1/jobs", headers=headers).status_code == 200

    @pytest.mark.parametrize("headers", [{}, {"x-api-key": "bsh_wrong"}, {"x-api-key": ""}], ids=str)
    def test_no_key_and_a_wrong_key_are_refused_in_their_form(self, api: LiveAPI, headers: dict[str, str]) -> None:
        answer = httpx.get(f"{api.url}/v1/messages/batches", headers=headers)

        body = answer.json()
        assert (answer.status_code, body["type"], body["error"]["type"]) == (401, "error", "authentication_error")
        assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]

    def test_the_sdk_knows_a_wrong_key(self, api: LiveAPI) -> None:
        with sdk(api, "bsh_wrong") as client, pytest.raises(anthropic.AuthenticationError, match="not valid"):
            client.messages.batches.list()

    def test_a_batch_of_somebody_else_is_not_there(
        self, claude: anthropic.Anthropic, stranger: httpx.Client, api: LiveAPI
    ) -> None:
        batch = claude.messages.batches.create(requests=[entry("a")])

        with sdk(api, stranger.headers["authorization"].removeprefix("Bearer ")) as other:
            batches = other.messages.batches
            for verb in (batches.retrieve, batches.cancel, batches.delete, batches.results):
                with pytest.raises(anthropic.NotFoundError, match="there is no message batch"):
                    verb(batch.id)
            assert batches.list().data == []
        assert stranger.get(f"/v1/messages/batches/{batch.id}/results").status_code == 404
        assert claude.messages.batches.retrieve(batch.id).processing_status == "in_progress"

    def test_jobs_of_other_dialects_are_no_message_batches(
        self, claude: anthropic.Anthropic, client: httpx.Client
    ) -> None:
        job = client.post("/v1/jobs", json={"task": "translation", "inputs": ["x"]}).json()["id"]

        for id in (renamed(job, "msgbatch_"), job, "msgbatch_1", "msgbatch_\0"):
            with pytest.raises(anthropic.NotFoundError):
                claude.messages.batches.retrieve(id)
        assert claude.messages.batches.list().data == []


class TestMessage:
    def test_a_message_is_answered_while_one_waits(self, working_claude: anthropic.Anthropic) -> None:
        raw = working_claude.messages.with_raw_response.create(model="echo-chat", max_tokens=50, messages=MESSAGES)

        message = Message.model_validate_json(raw.read(), strict=True)
        assert message.content[0].text == "Hello"  # type: ignore[union-attr]
        assert (message.role, message.model, message.stop_reason) == ("assistant", "echo-chat", "end_turn")
        assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
        assert message.model_extra == {}
        assert working_claude.messages.batches.list().data == []

    @pytest.mark.parametrize(
        ("said", "kind", "words"),
        [
            pytest.param({"model": "nonesuch"}, anthropic.NotFoundError, "nonesuch", id="no such model"),
            pytest.param({"model": "echo"}, anthropic.BadRequestError, "generation", id="a model of another task"),
            pytest.param({"stream": True}, anthropic.BadRequestError, "stream", id="a stream"),
            pytest.param({"extra_body": {"temperature": 1.5}}, anthropic.BadRequestError, "temperature", id="too hot"),
            pytest.param({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens", id="nothing to say"),
        ],
    )
    def test_what_cannot_be_done_is_the_exception_one_expects(
        self, claude: anthropic.Anthropic, said: dict[str, Any], kind: type[Exception], words: str
    ) -> None:
        with pytest.raises(kind, match=words):
            claude.messages.create(**{"model": "echo-chat", "max_tokens": 5, "messages": MESSAGES, **said})

    def test_a_message_nobody_answers_in_time_is_a_timeout_and_is_not_sent_again(
        self, settings: APISettings, key: str, ledger: Ledger
    ) -> None:
        hasty = settings.model_copy(update={"sync_wait_seconds": 0.2})
        with (
            served(hasty, RecordingDoorbell()) as api,
            sdk(api, key, max_retries=2) as client,
            pytest.raises(anthropic.APIStatusError, match=r"no answer within 0\.2 seconds") as caught,
        ):
            client.messages.create(model="echo-chat", max_tokens=5, messages=MESSAGES)

        assert (caught.value.status_code, caught.value.type) == (504, "timeout_error")
        assert [row.status for row in ledger.rows("SELECT status FROM jobs")] == ["cancelling"]

    def test_tokens_are_not_counted_beforehand(self, claude: anthropic.Anthropic) -> None:
        with pytest.raises(anthropic.NotFoundError, match="not counted") as caught:
            claude.messages.count_tokens(model="echo-chat", messages=MESSAGES)

        assert caught.value.type == "not_found_error"

    @pytest.mark.parametrize(("method", "path"), [("GET", "/v1/messages/nothing"), ("GET", "/v1/messages")])
    def test_paths_that_are_not_there_answer_in_their_form(self, client: httpx.Client, method: str, path: str) -> None:
        answer = client.request(method, path)

        assert answer.status_code in (404, 405)
        assert answer.json()["type"] == "error"


def test_a_cancel_that_races_the_end_leaves_every_request_with_one_result(
    working_claude: anthropic.Anthropic, ledger: Ledger
) -> None:
    def race(number: int) -> str:
        batch = working_claude.messages.batches.create(requests=[entry(f"a{place}") for place in range(5)])
        try:
            # Some at once, some when they have nearly ended.
            eventually(lambda: ledger.job(job_of(batch)).status in ("in_progress", "completed") or number % 2)
            working_claude.messages.batches.cancel(batch.id)
        except anthropic.ConflictError:
            assert ended(working_claude, batch.id).request_counts.succeeded == 5
        return batch.id

    with ThreadPoolExecutor(4) as pool:
        raced = list(pool.map(race, range(12)))

    for batch_id in raced:
        counts = ended(working_claude, batch_id).request_counts
        found = results(working_claude, batch_id)
        kinds = Counter(result.type for result in found.values())
        assert len(found) == 5
        assert (kinds["succeeded"], kinds["canceled"]) == (counts.succeeded, counts.canceled)
        assert counts.succeeded + counts.canceled == 5


def test_the_asynchronous_client_and_the_beta_half_work_too(stack: LiveAPI, key: str) -> None:
    async def run() -> list[str]:
        transport = anthropic.DefaultAsyncHttpxClient(trust_env=False, verify=False)
        async with anthropic.AsyncAnthropic(base_url=stack.url, api_key=key, http_client=transport) as client:
            batch = await client.messages.batches.create(requests=[entry("a"), entry("b")])
            while (await client.messages.batches.retrieve(batch.id)).processing_status != "ended":
                await asyncio.sleep(0.05)
            found = [line.custom_id async for line in await client.messages.batches.results(batch.id)]
            listed = [one.id async for one in client.beta.messages.batches.list()]
            assert listed == [batch.id]
            assert (await client.beta.messages.batches.retrieve(batch.id)).processing_status == "ended"
            return found

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert asyncio.run(run()) == ["a", "b"]
