"""Batches, through the real OpenAI client against the real server."""

import gzip
import itertools
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from openai.types import Batch

from api.config import APISettings
from api.openai.batches import BatchObject
from db.doorbell import INGEST
from db.recording import record
from tests.api.conftest import sdk
from tests.conftest import LiveAPI, served
from tests.ledger import Ledger
from tests.waiting import eventually
from tests.working import AnsweredDoorbell
from workers.reconcile import Reconciler

CHAT = "/v1/chat/completions"
KEYS = {
    *("id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status"),
    *("output_file_id", "error_file_id", "created_at", "in_progress_at", "expires_at", "finalizing_at"),
    *("completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at", "request_counts", "usage"),
    "metadata",
}


def line(custom_id: str, content: str = "hello", url: str = CHAT, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": url,
        "body": {"model": "echo-chat", "messages": messages, **body},
    }


def upload(ai: openai.OpenAI, *lines: dict[str, Any]) -> str:
    data = b"".join(json.dumps(each).encode() + b"\n" for each in lines or (line("a"), line("b")))
    return ai.files.create(file=("in.jsonl", data), purpose="batch").id


def create(ai: openai.OpenAI, *lines: dict[str, Any], **fields: Any) -> Batch:
    fields = {"endpoint": CHAT, "completion_window": "24h", **fields}
    return ai.batches.create(input_file_id=upload(ai, *lines), **fields)


def ended(ai: openai.OpenAI, id: str) -> Batch:
    def final() -> Batch | None:
        batch = ai.batches.retrieve(id)
        return batch if batch.status in ("completed", "failed", "expired", "cancelled") else None

    batch = eventually(final, 30)
    assert batch is not None
    return batch


def lines_of(ai: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(text) for text in ai.files.content(file_id).text.splitlines()]


# The object


def test_a_new_batch_has_every_key(client: httpx.Client, ai: openai.OpenAI, api: LiveAPI) -> None:
    file_id = upload(ai)
    answer = client.post(
        "/v1/batches",
        json={"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", "metadata": {"a": "b"}},
    )

    batch = answer.json()
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert batch.keys() == KEYS | {"bushel"}
    assert batch["id"].startswith("batch_") and batch["object"] == "batch"
    assert (batch["status"], batch["completion_window"], batch["endpoint"]) == ("validating", "24h", CHAT)
    assert batch["expires_at"] == batch["created_at"] + 86400
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert batch["metadata"] == {"a": "b"}
    told = ("id", "object", "endpoint", "input_file_id", "completion_window", "status", "created_at", "expires_at")
    assert {key for key in KEYS if batch[key] is not None} == {*told, "metadata", "request_counts"}
    assert BatchObject.model_validate(batch).model_dump() == batch
    assert api.bell.rings == [(INGEST, batch["bushel"]["job_id"])]
    assert set(Batch.model_fields) == KEYS


def test_a_batch_runs_to_its_end(working_ai: openai.OpenAI) -> None:
    ai = working_ai
    batch = ended(
        ai, create(ai, line("a", "one two"), line("b", "[[fail]]", model="echo-odd"), line("c", "three", top_p=9)).id
    )

    assert batch.status == "completed" and batch.model is None and batch.errors is None
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 1, 2)
    assert batch.usage is not None and batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens
    assert batch.in_progress_at and batch.finalizing_at and batch.completed_at
    [good] = lines_of(ai, batch.output_file_id)
    assert good.keys() == {"id", "custom_id", "response", "error"}
    assert good["response"]["body"]["choices"][0]["message"]["content"] == "one two"
    bad = lines_of(ai, batch.error_file_id)
    assert [(each["custom_id"], each["response"]["status_code"]) for each in bad] == [("b", 500), ("c", 400)]
    assert bad[1]["response"]["body"]["error"]["param"] == "top_p"
    assert all(
        ai.files.retrieve(str(id)).purpose == "batch_output" for id in (batch.output_file_id, batch.error_file_id)
    )


def test_without_failures_there_is_no_error_file_and_without_successes_no_output_file(
    working_ai: openai.OpenAI,
) -> None:
    ai = working_ai
    good, bad = create(ai, line("a")), create(ai, line("a", "[[fail]]", model="echo-odd"))

    good, bad = ended(ai, good.id), ended(ai, bad.id)

    assert good.status == bad.status == "completed"
    assert good.output_file_id and good.error_file_id is None
    assert bad.output_file_id is None and bad.error_file_id


def test_a_refused_file_fails_the_batch_with_its_lines(working_ai: openai.OpenAI) -> None:
    batch = ended(working_ai, create(working_ai, line("a"), line("b", url="/v1/embeddings"), line("a")).id)

    assert batch.status == "failed" and batch.failed_at
    assert batch.errors is not None and batch.errors.object == "list" and batch.errors.data is not None
    assert [(each.code, each.line, each.param) for each in batch.errors.data] == [
        ("url_mismatch", 2, "url"),
        ("duplicate_custom_id", 3, "custom_id"),
    ]
    assert batch.usage is None and batch.output_file_id is None and batch.error_file_id is None


def test_several_models_in_one_file_are_no_model_of_the_batch(working_ai: openai.OpenAI, ledger: Ledger) -> None:
    batch = create(working_ai, line("a"), line("b", model="echo-slow"))
    running = eventually(lambda: (found := working_ai.batches.retrieve(batch.id)).status == "in_progress" and found, 20)

    assert running and running.model is None
    working_ai.batches.cancel(batch.id)


def test_other_endpoints_run_by_the_file_too(working_ai: openai.OpenAI) -> None:
    body = {"custom_id": "t", "method": "POST", "url": "/v1/translations", "body": {"input": ["one", "two"]}}
    batch = ended(working_ai, create(working_ai, body, endpoint="/v1/translations").id)

    [answer] = lines_of(working_ai, batch.output_file_id)
    assert [each["text"] for each in answer["response"]["body"]["data"]] == ["one", "two"]


def test_the_extension_says_what_openai_has_no_words_for(ai: openai.OpenAI) -> None:
    options = {"on_error": "skip", "long_input": "truncate", "priority": 7, "params": {"temperature": 0, "seed": None}}

    batch = create(ai, extra_body={"bushel": options}).model_dump()["bushel"]

    assert (batch["on_error"], batch["long_input"], batch["priority"]) == ("skip", "truncate", 7)
    assert batch["params"] == {"temperature": 0}
    assert batch["counts"] == {
        **dict.fromkeys(("total", "queued", "running", "succeeded", "failed", "cancelled", "expired"), 0)
    }
    assert batch["waiting_for"]["code"] == "no_worker"


def test_a_null_in_the_extension_is_the_same_as_leaving_the_key_out(ai: openai.OpenAI) -> None:
    nulls = dict.fromkeys(("on_error", "long_input", "priority", "params", "validate"))

    batch = create(ai, extra_body={"bushel": nulls}).model_dump()["bushel"]

    assert (batch["on_error"], batch["long_input"], batch["priority"], batch["params"]) == ("fail", "error", 0, {})


def test_a_batch_without_a_line_to_run_was_in_progress_for_a_moment(working_ai: openai.OpenAI) -> None:
    batch = ended(working_ai, create(working_ai, line("a", top_p=9)).id)

    assert batch.status == "completed" and batch.in_progress_at == batch.finalizing_at


def test_every_byte_of_a_text_comes_back_however_the_file_is_written(working_ai: openai.OpenAI) -> None:
    ai = working_ai
    texts = ["ä 😀 漢字", "a\tb\nc\r\n", "\x85\u2028\u2029", "  two  spaces ", "x" * 999_000]
    lines = [line(f"{number} é\u2028", text) for number, text in enumerate(texts)]
    encoded = [json.dumps(each, ensure_ascii=number % 2 == 0).encode() for number, each in enumerate(lines)]
    data = b"\xef\xbb\xbf" + b"\r\n \r\n".join(encoded)

    for written in (data, gzip.compress(data)):
        file = ai.files.create(file=("in.jsonl", written), purpose="batch")
        batch = ai.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        output_id = str(ended(ai, batch.id).output_file_id)

        for found in (lines_of(ai, output_id), list(map(json.loads, ai.files.content(output_id).iter_lines()))):
            assert [each["custom_id"] for each in found] == [each["custom_id"] for each in lines]
            assert [each["response"]["body"]["choices"][0]["message"]["content"] for each in found] == texts


def test_a_batch_only_ever_moves_forward(working_ai: openai.OpenAI) -> None:
    order = ["validating", "in_progress", "finalizing", "completed"]
    lines = [line(str(number), f"{number} [[slow 0.01]]", model="echo-odd") for number in range(300)]
    seen = [create(working_ai, *lines)]

    while seen[-1].status != "completed":
        seen.append(working_ai.batches.retrieve(seen[-1].id))

    for batch, later in itertools.pairwise(seen):
        counts, then = batch.request_counts, later.request_counts
        assert counts is not None and then is not None
        assert order.index(batch.status) <= order.index(later.status)
        assert counts.completed <= then.completed and counts.completed + counts.failed <= counts.total
        assert counts.total == (0 if batch.status == "validating" else 300)
        moments = {name: value for name, value in batch.to_dict().items() if name.endswith("_at") and value}
        assert moments.items() <= later.to_dict().items()


def test_result_files_live_as_long_as_was_asked(working_ai: openai.OpenAI) -> None:
    batch = create(working_ai, output_expires_after={"anchor": "created_at", "seconds": 3600})

    file = working_ai.files.retrieve(str(ended(working_ai, batch.id).output_file_id))

    assert file.expires_at == file.created_at + 3600


@pytest.mark.parametrize(("how", "code"), [("cancelled", "batch_cancelled"), ("expired", "batch_expired")])
def test_what_was_finished_in_time_is_kept(ai: openai.OpenAI, ledger: Ledger, how: str, code: str) -> None:
    lines = [line(name, url="/v1/translations") | {"body": {"input": name}} for name in ("quick", "slow")]
    batch = create(ai, *lines, endpoint="/v1/translations")
    job_id = _job_id(batch)
    assert ledger.ingest(job_id)
    ledger.recut(job_id, 1)
    claim = ledger.claim(job_id)
    assert claim is not None
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim))

    if how == "cancelled":
        assert ai.batches.cancel(batch.id).status == "cancelling"
    else:
        ledger.run("UPDATE jobs SET expires_at = now() - interval '1 s'")
        Reconciler(ledger.sessions, ledger.store, ledger.bell).run()
    assert ledger.finalize(job_id)
    batch = ai.batches.retrieve(batch.id)

    assert batch.status == how
    assert [each["custom_id"] for each in lines_of(ai, batch.output_file_id)] == ["quick"]
    [rest] = lines_of(ai, batch.error_file_id)
    assert (rest["custom_id"], rest["response"], rest["error"]["code"]) == ("slow", None, code)
    counts = batch.request_counts
    assert counts is not None and (counts.total, counts.completed, counts.failed) == (2, 1, 0)
    assert batch.model_dump()["bushel"]["counts"][how] == 1


# What is refused


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        pytest.param({"endpoint": "/v1/responses"}, "endpoint", "invalid_value", id="endpoint"),
        pytest.param({"completion_window": "a day"}, "completion_window", "invalid_value", id="window"),
        pytest.param({"completion_window": "9999d"}, "completion_window", "invalid_value", id="long window"),
        pytest.param({"completion_window": None}, "completion_window", "invalid_value", id="no window"),
        pytest.param({"metadata": {"a": 1}}, "metadata.a", "invalid_value", id="a number in metadata"),
        pytest.param({"metadata": {"k" * 65: "v"}}, "metadata", "invalid_value", id="a long key"),
        pytest.param({"metadata": {"k": "v" * 513}}, "metadata", "invalid_value", id="a long value"),
        pytest.param({"metadata": {str(n): "v" for n in range(17)}}, "metadata", "invalid_value", id="17 pairs"),
        pytest.param(
            {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
            *("output_expires_after.seconds", "invalid_value"),
            id="short life",
        ),
        pytest.param(
            {"output_expires_after": {"anchor": "now", "seconds": 3600}},
            *("output_expires_after.anchor", "invalid_value"),
            id="anchor",
        ),
        pytest.param({"window": "24h"}, "window", "unknown_field", id="unknown field"),
        pytest.param({"bushel": {"on_eror": "skip"}}, "bushel.on_eror", "unknown_field", id="typo in the extension"),
        pytest.param({"bushel": {"params": {"temp": 1}}}, "bushel.params", "invalid_value", id="unknown parameter"),
        pytest.param(
            {"bushel": {"params": {"seed": -1}}}, "bushel.params", "invalid_value", id="parameter out of range"
        ),
        pytest.param(
            {"bushel": {"params": {"target_lang": 5}}}, "bushel.params", "invalid_value", id="language is a number"
        ),
        pytest.param({"bushel": {"priority": 101}}, "bushel.priority", "invalid_value", id="priority"),
        pytest.param(
            {"input_file_id": "file-0mgcxk2l9h4t8v2c6y0q1w5r3"}, "input_file_id", "file_not_found", id="unknown file"
        ),
        pytest.param({"input_file_id": "x\0"}, "input_file_id", "file_not_found", id="no file id"),
    ],
)
def test_a_bad_batch_is_refused_with_its_fault(
    ai: openai.OpenAI, ledger: Ledger, change: dict[str, Any], param: str, code: str
) -> None:
    fields = {"input_file_id": upload(ai), "endpoint": CHAT, "completion_window": "24h"} | change

    with pytest.raises(openai.BadRequestError) as refused:
        ai.post("/batches", cast_to=Batch, body=fields)

    assert (refused.value.param, refused.value.code, refused.value.type) == (param, code, "invalid_request_error")
    assert ledger.rows("SELECT 1 FROM jobs") == []


def test_a_file_of_another_purpose_is_refused(ai: openai.OpenAI) -> None:
    file = ai.files.create(file=("in.jsonl", b"{}\n"), purpose="user_data")

    with pytest.raises(openai.BadRequestError) as refused:
        ai.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")

    assert (refused.value.param, refused.value.code) == ("input_file_id", "invalid_purpose")


def test_a_file_without_a_purpose_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/files", files={"file": ("in.jsonl", b"{}\n")})

    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("purpose", "missing_field")


def test_a_file_lives_as_long_as_its_bracketed_fields_say(ai: openai.OpenAI) -> None:
    file = ai.files.create(
        file=("in.jsonl", b"{}\n"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )

    assert file.expires_at == file.created_at + 7200


# Validation that is waited for


def test_a_refused_file_is_told_at_once_where_that_is_asked(working_ai: openai.OpenAI) -> None:
    lines = [line(str(number), url="/v1/embeddings") for number in range(7)]

    with pytest.raises(openai.BadRequestError) as refused:
        create(working_ai, *lines, extra_body={"bushel": {"validate": True}})

    [batch] = working_ai.batches.list().data
    assert batch.status == "failed" and batch.id in str(refused.value)
    assert refused.value.code == "url_mismatch" and "2 more" in str(refused.value)
    body = refused.value.body
    assert isinstance(body, dict)
    assert [each["line"] for each in body["details"]] == [1, 2, 3, 4, 5, 6, 7]


def test_a_good_file_is_validated_when_the_answer_comes(working_ai: openai.OpenAI) -> None:
    batch = create(working_ai, line("a", model="echo-slow"), extra_body={"bushel": {"validate": True}})

    assert batch.status == "in_progress" and batch.model == "echo-slow"
    assert batch.request_counts is not None and batch.request_counts.total == 1
    working_ai.batches.cancel(batch.id)


# Lists


def test_250_batches_are_listed_while_others_come_and_go(ai: openai.OpenAI, ledger: Ledger) -> None:
    file_id = upload(ai)

    def one() -> str:
        return ai.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h").id

    ids = [one() for _ in range(250)]
    seen: list[str] = []
    pages = 0
    for page in ai.batches.list(limit=100).iter_pages():
        seen += [batch.id for batch in page.data]
        pages += 1
        # New ones go in front, and the very cursor disappears.
        one()
        ledger.run("DELETE FROM jobs WHERE id = :id", id=page.data[-1].id.replace("batch_", "job_"))

    assert seen == ids[::-1]
    assert pages == 3


def test_the_list_has_its_ends_and_only_batches(client: httpx.Client, ai: openai.OpenAI) -> None:
    client.post("/v1/jobs", json={"task": "translation", "inputs": ["a"]})
    ids = [create(ai).id for _ in range(3)]

    page = client.get("/v1/batches", params={"limit": 2}).json()

    assert page.keys() == {"object", "data", "first_id", "last_id", "has_more"}
    assert [batch["id"] for batch in page["data"]] == [ids[2], ids[1]]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[2], ids[1], True)
    rest = client.get("/v1/batches", params={"limit": 2, "after": page["last_id"]}).json()
    assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    empty = client.get("/v1/batches", params={"after": ids[0]}).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "param"),
    [({"after": "5"}, "after"), ({"after": "job_0mgcxk2l9h4t8v2c6y0q1w5r3"}, "after"), ({"limit": 101}, "limit")],
)
def test_a_bad_place_in_the_list_is_refused(client: httpx.Client, query: dict[str, Any], param: str) -> None:
    answer = client.get("/v1/batches", params=query)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


# Cancelling


def test_cancelling_twice_changes_nothing(ai: openai.OpenAI, ledger: Ledger) -> None:
    batch = create(ai)

    once = ai.batches.cancel(batch.id)
    twice = ai.batches.cancel(batch.id)
    assert ledger.finalize(batch.id.replace("batch_", "job_"))
    thrice = ai.batches.cancel(batch.id)

    assert once.status == "cancelling" and once.cancelling_at
    assert twice.to_dict() == once.to_dict()
    assert thrice.status == "cancelled" and thrice.cancelled_at and thrice.cancelling_at == once.cancelling_at


def test_an_empty_body_announced_as_json_cancels(client: httpx.Client, ai: openai.OpenAI) -> None:
    batch = create(ai)

    answer = client.post(
        f"/v1/batches/{batch.id}/cancel", headers={"Content-Type": "application/json", "Content-Length": "0"}
    )

    assert answer.status_code == 200, answer.text


def test_a_batch_that_has_ended_cannot_be_cancelled_and_nobody_should_try_again(working_ai: openai.OpenAI) -> None:
    batch = ended(working_ai, create(working_ai).id)

    with pytest.raises(openai.ConflictError) as refused:
        working_ai.batches.cancel(batch.id)

    assert batch.id in str(refused.value) and "completed" in str(refused.value)
    assert refused.value.response.headers["x-should-retry"] == "false"


# Whose it is


@pytest.mark.parametrize("id", ["foreign", "batch_0mgcxk2l9h4t8v2c6y0q1w5r3", "batch_1", "a job"])
def test_what_is_not_ones_own_batch_is_not_found(
    ai: openai.OpenAI, client: httpx.Client, stranger: httpx.Client, id: str
) -> None:
    if id == "foreign":
        id = create(ai).id
    elif id == "a job":
        job = stranger.post("/v1/jobs", json={"task": "translation", "inputs": ["a"]}).json()
        id = job["id"].replace("job_", "batch_")

    answers = [stranger.get(f"/v1/batches/{id}"), stranger.post(f"/v1/batches/{id}/cancel")]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert {answer.json()["error"]["code"] for answer in answers} == {"batch_not_found"}
    assert stranger.get("/v1/batches").json()["data"] == []


def test_a_foreign_file_looks_like_an_unknown_one(ai: openai.OpenAI, stranger: httpx.Client, ledger: Ledger) -> None:
    answers = [
        stranger.post("/v1/batches", json={"input_file_id": id, "endpoint": CHAT, "completion_window": "24h"})
        for id in (upload(ai), "file-0mgcxk2l9h4t8v2c6y0q1w5r3")
    ]

    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [(400, "file_not_found")] * 2
    assert ledger.rows("SELECT 1 FROM jobs") == []


# Once, however often it is sent


@contextmanager
def losing(url: str, wanted: bytes, times: int) -> Iterator[tuple[str, list[bytes]]]:
    """A way to the server that loses the answers of the first `times` requests that begin with `wanted`."""
    target = (urlsplit(url).hostname, urlsplit(url).port)
    lost: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass

    def carry(near: socket.socket) -> None:
        with near, socket.create_connection(target) as far:
            first = near.recv(65536)
            far.sendall(first)
            asking = threading.Thread(target=pump, args=(near, far))
            asking.start()
            if first.startswith(wanted) and len(lost) < times:
                answer = b""
                while data := far.recv(65536):
                    answer += data
                lost.append(answer)
                # Closed with a reset, as by a crash in between.
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                pump(far, near)
            near.shutdown(socket.SHUT_RD)
            asking.join()

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            carriers.append(threading.Thread(target=carry, args=(near,)))
            carriers[-1].start()

    carriers: list[threading.Thread] = []
    accepting = threading.Thread(target=serve)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lost
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *carriers):
            thread.join()


def test_a_create_whose_answer_is_lost_three_times_makes_one_batch(
    api: LiveAPI, ai: openai.OpenAI, key: str, ledger: Ledger
) -> None:
    file_id = upload(ai)
    with (
        losing(api.url, b"POST /v1/batches", times=3) as (url, lost),
        sdk(api, key, max_retries=3, url=url) as client,
    ):
        batch = client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")

    assert len(lost) == 3 and all(b" 200 " in answer for answer in lost)
    assert all(batch.id.encode() in answer for answer in lost)
    assert [job.id for job in ledger.rows("SELECT id FROM jobs")] == [batch.id.replace("batch_", "job_")]
    assert len(api.bell.rings) == 1


def again(ai: openai.OpenAI, file_id: str, count: int | None = 1, **fields: Any) -> str:
    headers = {} if count is None else {"X-Stainless-Retry-Count": str(count)}
    fields = {"completion_window": "24h", "extra_headers": headers} | fields
    return ai.batches.create(input_file_id=file_id, endpoint=CHAT, **fields).id


def test_only_a_request_that_says_it_is_sent_again_gets_an_earlier_batch(ai: openai.OpenAI) -> None:
    file_id = upload(ai)

    first, meant, repeated = again(ai, file_id, 0), again(ai, file_id, 0), again(ai, file_id, 2)

    assert first != meant == repeated


def test_a_request_that_says_something_else_is_another_one(ai: openai.OpenAI) -> None:
    file_id = upload(ai)

    made = {again(ai, file_id, 0), again(ai, file_id, 1, metadata={"a": "b"}), again(ai, upload(ai), 1)}

    assert len(made) == 3


def test_what_was_made_long_ago_is_not_meant(ai: openai.OpenAI, ledger: Ledger) -> None:
    file_id = upload(ai)
    first = again(ai, file_id, 0)
    ledger.run("UPDATE jobs SET created_at = created_at - interval '31 minutes'")

    assert again(ai, file_id, 1) != first


def test_another_tenants_equal_request_is_its_own(ai: openai.OpenAI, ledger: Ledger, stranger: httpx.Client) -> None:
    first = again(ai, upload(ai), 0)
    [job] = ledger.rows("SELECT fingerprint FROM jobs")

    body = {"task": "translation", "inputs": ["a"]}
    stranger.post("/v1/jobs", json=body)
    ledger.run("UPDATE jobs SET fingerprint = :same", same=job.fingerprint)
    foreign = stranger.post("/v1/jobs", json=body, headers={"X-Stainless-Retry-Count": "1"})

    assert foreign.json()["id"] != first.replace("batch_", "job_")


def test_equal_requests_at_the_same_moment_make_one_batch(
    ai: openai.OpenAI, api: LiveAPI, key: str, ledger: Ledger
) -> None:
    file_id = upload(ai)
    made: list[str] = []

    def send(count: int) -> None:
        with sdk(api, key) as client:
            made.append(again(client, file_id, count))

    threads = [threading.Thread(target=send, args=(count,)) for count in (1, 2, 3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 5 and len(set(made)) == 1


def test_an_idempotency_key_is_believed_before_anything_else(ai: openai.OpenAI) -> None:
    file_id = upload(ai)
    keyed = {"Idempotency-Key": "mine"}

    first = again(ai, file_id, extra_headers=keyed)
    second = again(ai, file_id, extra_headers=keyed)
    other = again(ai, file_id, extra_headers={"Idempotency-Key": "other", "X-Stainless-Retry-Count": "1"})

    assert first == second != other
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        again(ai, file_id, completion_window="48h", extra_headers=keyed)
    assert refused.value.code == "idempotency_key_reused"


# How many


def test_too_many_open_batches_are_refused_until_some_have_ended(
    settings: APISettings, key: str, ledger: Ledger
) -> None:
    with served(settings.model_copy(update={"max_open_jobs": 2}), AnsweredDoorbell()) as api, sdk(api, key, 3) as ai:
        first, _ = create(ai), create(ai)
        with pytest.raises(openai.RateLimitError) as refused:
            create(ai)
        with api.client(key) as client:
            job = client.post("/v1/jobs", json={"task": "translation", "inputs": ["a"]})
        ledger.run("UPDATE jobs SET status = 'failed', failed_at = now() WHERE id = :id", id=_job_id(first))

        assert create(ai).status == "validating"

    assert (refused.value.code, refused.value.type) == ("quota_exceeded", "rate_limit_error")
    assert 60 <= int(refused.value.response.headers["retry-after"]) <= 90
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert (job.status_code, job.json()["error"]["code"]) == (429, "quota_exceeded")


def test_a_repeated_request_is_answered_though_no_more_may_be_open(settings: APISettings, key: str) -> None:
    with served(settings.model_copy(update={"max_open_jobs": 1}), AnsweredDoorbell()) as api, sdk(api, key) as ai:
        file_id = upload(ai)

        assert again(ai, file_id, 0) == again(ai, file_id, 1)


def _job_id(batch: Batch) -> str:
    return batch.id.replace("batch_", "job_")


def test_every_verb_needs_a_key(api: LiveAPI) -> None:
    asked: list[Callable[[openai.OpenAI], object]] = [
        lambda ai: ai.batches.list(),
        lambda ai: ai.batches.retrieve("batch_1"),
        lambda ai: ai.batches.cancel("batch_1"),
        lambda ai: ai.batches.create(input_file_id="x", endpoint=CHAT, completion_window="24h"),
        lambda ai: ai.uploads.cancel("upload_1"),
        lambda ai: ai.chat.completions.create(model="echo-chat", messages=[]),
    ]
    with sdk(api, "bsh_nobody") as ai:
        for ask in asked:
            with pytest.raises(openai.AuthenticationError):
                ask(ai)
