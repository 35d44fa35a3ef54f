"""Jobs over HTTP: submit, idempotency, look, list, cancel, delete, audit."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import text

from db.doorbell import FINALIZE, INGEST
from db.jobs import inputs_key
from db.recording import record
from tests.conftest import LiveAPI
from tests.ledger import Ledger

JOB = {"task": "translation", "inputs": ["one", {"custom_id": "b", "text": "two"}]}


def submit(client: httpx.Client, **changes: Any) -> httpx.Response:
    return client.post("/v1/jobs", json={**JOB, **changes})


def problems(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 400, answer.text
    return {each["param"]: each["code"] for each in answer.json()["error"]["details"]}


def upload(client: httpx.Client, data: bytes = b"one\ntwo\n", name: str = "in.txt") -> str:
    return str(client.post("/v1/files", data={"purpose": "batch"}, files={"file": (name, data)}).json()["id"])


def run(ledger: Ledger, job_id: str, fail: int = 0) -> None:
    """Ingest the job and run its one chunk."""
    assert ledger.ingest(job_id)
    claim = ledger.claim(job_id)
    assert claim is not None
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim, fail))


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


class TestLists:
    def test_jobs_are_listed_newest_first_and_paged_by_the_last_id(self, client: httpx.Client) -> None:
        ids = [submit(client).json()["id"] for _ in range(5)]

        seen, after = [], {}
        while True:
            page = client.get("/v1/jobs", params={"limit": 2, **after}).json()
            seen += [job["id"] for job in page["data"]]
            # New jobs meanwhile must not shift what is still to come.
            submit(client)
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}

        assert seen == ids[::-1] or seen[-5:] == ids[::-1]
        assert len(seen) == len(set(seen))

    def test_a_cursor_survives_the_job_it_names(self, client: httpx.Client, ledger: Ledger) -> None:
        ids = [submit(client).json()["id"] for _ in range(4)]
        ledger.run("UPDATE jobs SET status = 'failed', failed_at = now()")
        first = client.get("/v1/jobs", params={"limit": 2}).json()
        assert client.delete(f"/v1/jobs/{first['last_id']}").status_code == 200

        second = client.get("/v1/jobs", params={"limit": 2, "after": first["last_id"]}).json()

        assert [job["id"] for job in second["data"]] == [ids[1], ids[0]]

    def test_jobs_are_filtered_by_status_and_task(self, client: httpx.Client, ledger: Ledger) -> None:
        mine = submit(client).json()["id"]
        chat = submit(client, task="generation").json()["id"]
        ledger.run("UPDATE jobs SET status = 'failed', failed_at = now() WHERE id = :id", id=mine)

        def listed(**params: str) -> list[str]:
            return [job["id"] for job in client.get("/v1/jobs", params=params).json()["data"]]

        assert listed(status="failed") == [mine]
        assert listed(task="generation") == [chat]
        assert listed(status="validating", task="translation") == [] == listed(task="embedding")

    @pytest.mark.parametrize(
        ("params", "param"),
        [
            ({"limit": 0}, "limit"),
            ({"limit": 101}, "limit"),
            ({"limit": "x"}, "limit"),
            ({"after": "job_1"}, "after"),
            ({"after": "job_\0"}, "after"),
            ({"after": "file-0mgcxk2l9h4t8v2c6y0q1w5r3"}, "after"),
            ({"status": "done"}, "status"),
            ({"task": "poetry"}, "task"),
            ({"stauts": "failed"}, "stauts"),
        ],
    )
    def test_a_bad_query_is_refused(self, client: httpx.Client, params: dict[str, Any], param: str) -> None:
        answer = client.get("/v1/jobs", params=params)

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)

    def test_a_page_costs_the_same_few_queries_however_long_it_is(self, client: httpx.Client, api: LiveAPI) -> None:
        from sqlalchemy import event

        engine = api.app.extensions["bushel"].sessions.kw["bind"]
        statements: list[str] = []
        event.listen(engine, "before_cursor_execute", lambda *words: statements.append(words[2]))

        def queries() -> int:
            statements.clear()
            client.get("/v1/jobs")
            return len(statements)

        submit(client)
        one = queries()
        for _ in range(5):
            submit(client)
        assert queries() == one


class TestCancel:
    def test_a_waiting_job_is_cancelling_at_once_and_rung_for(self, client: httpx.Client, api: LiveAPI) -> None:
        job_id = submit(client).json()["id"]

        # OpenAI's clients send a content type and no body.
        answer = client.post(f"/v1/jobs/{job_id}/cancel", headers={"Content-Type": "application/json"})

        assert (answer.status_code, answer.json()["status"]) == (200, "cancelling")
        assert api.bell.rings[-1] == (FINALIZE, job_id)

    def test_cancelling_again_changes_nothing(self, client: httpx.Client, ledger: Ledger) -> None:
        job_id = submit(client).json()["id"]
        ledger.ingest(job_id)
        first = client.post(f"/v1/jobs/{job_id}/cancel").json()
        again = client.post(f"/v1/jobs/{job_id}/cancel").json()
        ledger.finalize(job_id)
        late = client.post(f"/v1/jobs/{job_id}/cancel")

        assert first["cancelling_at"] == again["cancelling_at"]
        assert (late.status_code, late.json()["status"]) == (200, "cancelled")
        assert late.json()["counts"]["cancelled"] == 2
        assert client.get(f"/v1/jobs/{job_id}/audit").json()["ok"]

    def test_an_ended_job_cannot_be_cancelled(self, client: httpx.Client, ledger: Ledger) -> None:
        job_id = submit(client).json()["id"]
        run(ledger, job_id)
        before = client.post(f"/v1/jobs/{job_id}/cancel")
        ledger.finalize(job_id)
        after = client.post(f"/v1/jobs/{job_id}/cancel")

        for answer, status in ((before, "finalizing"), (after, "completed")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_not_cancellable")
            assert status in answer.json()["error"]["message"]
            assert answer.headers["x-should-retry"] == "false"


class TestDelete:
    def test_only_an_ended_job_can_be_deleted(self, client: httpx.Client) -> None:
        job_id = submit(client).json()["id"]

        answer = client.delete(f"/v1/jobs/{job_id}")

        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_not_final")

    def test_a_deleted_job_takes_everything_of_its_own_with_it(self, client: httpx.Client, ledger: Ledger) -> None:
        job_id = submit(client).json()["id"]
        run(ledger, job_id, fail=1)
        ledger.finalize(job_id)
        job = client.get(f"/v1/jobs/{job_id}").json()

        answer = client.delete(f"/v1/jobs/{job_id}")

        assert answer.json() == {"id": job_id, "object": "job", "deleted": True}
        for table in ("jobs", "items", "results", "chunks", "idempotency_keys"):
            assert ledger.rows(f"SELECT count(*) FROM {table}") == [(0,)]
        for file in (job["output_file_id"], job["error_file_id"]):
            assert client.get(f"/v1/files/{file}").status_code == 404
        removable = ledger.rows("SELECT store_key FROM files WHERE deleted_at IS NOT NULL ORDER BY created_at, id")
        assert (inputs_key(job_id),) in removable and len(removable) == 3

    def test_the_file_it_was_submitted_with_stays(self, client: httpx.Client, ledger: Ledger) -> None:
        file_id = upload(client)
        job_id = submit(client, inputs=None, input_file_id=file_id).json()["id"]
        run(ledger, job_id)
        ledger.finalize(job_id)

        client.delete(f"/v1/jobs/{job_id}")

        assert client.get(f"/v1/files/{file_id}").status_code == 200


class TestAudit:
    def finished(self, client: httpx.Client, ledger: Ledger) -> str:
        job_id = str(submit(client).json()["id"])
        run(ledger, job_id)
        ledger.finalize(job_id)
        return job_id

    def broken(self, client: httpx.Client, job_id: str) -> set[str]:
        audit = client.get(f"/v1/jobs/{job_id}/audit").json()
        assert audit["ok"] == all(check["ok"] for check in audit["checks"])
        return {check["name"] for check in audit["checks"] if not check["ok"]}

    def test_a_sound_job_passes_all_six_checks_at_every_step(self, client: httpx.Client, ledger: Ledger) -> None:
        job_id = submit(client).json()["id"]
        steps = [
            lambda: ledger.ingest(job_id),
            lambda: ledger.claim(job_id),
            lambda: ledger.run("UPDATE jobs SET priority = 1"),
        ]
        for step in steps:
            assert self.broken(client, job_id) == set()
            step()
        audit = client.get(f"/v1/jobs/{job_id}/audit").json()
        assert (audit["object"], audit["job_id"], audit["ok"], len(audit["checks"])) == ("audit", job_id, True, 6)

    @pytest.mark.parametrize(
        ("damage", "found"),
        [
            pytest.param(
                "UPDATE jobs SET succeeded = 1, failed = 1",
                {"results_are_counted"},
                id="a result counted as the other kind",
            ),
            pytest.param(
                "DELETE FROM results WHERE idx = 1",
                {"results_are_counted", "one_result_per_item"},
                id="a lost result",
            ),
            pytest.param(
                "UPDATE results SET seq = 9 WHERE idx = 1", {"results_are_counted"}, id="a gap in the sequence"
            ),
            pytest.param(
                "DELETE FROM items WHERE idx = 1",
                {"one_result_per_item", "counts_are_conserved"},
                id="a lost item",
            ),
            pytest.param(
                "UPDATE jobs SET succeeded = 1, cancelled = 1",
                {"results_are_counted"},
                id="a wrong count",
            ),
            pytest.param(
                "UPDATE chunks SET state = 'leased', lease_expires_at = now() - interval '1 min'",
                {"leases_are_alive", "counts_are_conserved", "final_jobs_stay_final"},
                id="a lease nobody took back",
            ),
            pytest.param("UPDATE jobs SET cancelled_at = now()", {"final_jobs_stay_final"}, id="two ends"),
            pytest.param(
                "UPDATE results SET finished_at = now() + interval '1 h'",
                {"final_jobs_stay_final"},
                id="a result after the end",
            ),
        ],
    )
    def test_deliberate_damage_is_found(
        self, client: httpx.Client, ledger: Ledger, damage: str, found: set[str]
    ) -> None:
        job_id = self.finished(client, ledger)

        ledger.run(damage)

        assert self.broken(client, job_id) == found


def test_a_running_job_tells_progress_speed_and_usage(client: httpx.Client, ledger: Ledger) -> None:
    job_id = submit(client, inputs=[f"text {number}" for number in range(10)]).json()["id"]
    ledger.ingest(job_id)
    ledger.recut(job_id, 5)
    claim = ledger.claim(job_id)
    assert claim is not None
    ledger.run("UPDATE jobs SET in_progress_at = now() - interval '10 s'")
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim))
    ledger.run(
        "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable)"
        " VALUES ('w', 'h', 1, 'cpu', '0', '[\"echo\"]', '[\"echo\"]', '{}')"
    )
    ledger.run("INSERT INTO model_rates (model, tokens_per_second, output_per_input) VALUES ('echo', 10, 1)")

    job = client.get(f"/v1/jobs/{job_id}").json()

    assert job["progress"] == 0.5
    assert job["items_per_second"] == pytest.approx(0.5, rel=0.1)
    assert job["tokens_per_second"] == pytest.approx(1.5, rel=0.1)
    assert job["eta_seconds"] == pytest.approx(5 * 2 / 10)
    assert job["usage"] == {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "same_items": 0,
        "cached_items": 0,
        "saved_input_tokens": 0,
        "saved_output_tokens": 0,
        "device_seconds": 0,
        "joules": None,
    }
    assert job["waiting_for"]["code"] == "its_turn"


def test_a_job_ahead_is_named_as_the_reason_to_wait(client: httpx.Client, ledger: Ledger) -> None:
    ledger.run(
        "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable)"
        " VALUES ('w', 'h', 1, 'cpu', '0', '[\"echo\"]', '[]', '{}')"
    )
    waits = submit(client).json()["id"]
    urgent = submit(client, priority=5).json()["id"]
    for job_id in (waits, urgent):
        ledger.ingest(job_id)

    assert client.get(f"/v1/jobs/{waits}").json()["waiting_for"]["code"] == "jobs_ahead"
    assert client.get(f"/v1/jobs/{urgent}").json()["waiting_for"]["code"] == "model_loading"


def test_a_model_no_worker_can_load_is_told_with_the_reason(client: httpx.Client, ledger: Ledger) -> None:
    ledger.run(
        "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable)"
        " VALUES ('w', 'h', 1, 'cpu', '0', '[\"echo\"]', '[]', '{\"echo\": \"no weights\"}')"
    )
    job_id = submit(client).json()["id"]
    ledger.ingest(job_id)

    waiting = client.get(f"/v1/jobs/{job_id}").json()["waiting_for"]
    [model] = [model for model in client.get("/v1/models").json()["data"] if model["id"] == "echo"]

    assert waiting == {"code": "model_unavailable", "message": "model echo cannot be loaded: no weights"}
    assert (model["available"], model["unavailable_reason"]) == (False, "no weights")


def test_problems_of_a_file_are_shown_with_line_column_and_hint(client: httpx.Client, ledger: Ledger) -> None:
    file_id = upload(client, b'{"text": "a"}\n{"text": 1}\nnonsense\n', "in.jsonl")
    job_id = client.post("/v1/jobs", json={"task": "translation", "input_file_id": file_id}).json()["id"]
    ledger.ingest(job_id)

    job = client.get(f"/v1/jobs/{job_id}").json()

    assert (job["status"], job["errors"]["total"]) == ("failed", 2)
    assert [problem["line"] for problem in job["errors"]["data"]] == [2, 3]
    assert job["errors"]["data"][0].keys() == {"line", "column", "param", "code", "message", "hint"}
    assert client.get(f"/v1/jobs/{job_id}/audit").json()["ok"]


def test_a_dry_run_gives_an_estimate_and_no_results(client: httpx.Client, ledger: Ledger) -> None:
    job_id = submit(client, dry_run=True).json()["id"]
    ledger.ingest(job_id)
    ledger.finalize(job_id)

    job = client.get(f"/v1/jobs/{job_id}").json()

    assert (job["status"], job["dry_run"], job["estimate"]["items"]) == ("completed", True, 2)
    assert [item["line"] for item in job["estimate"]["first_items"]] == [1, 2]
    assert client.get(f"/v1/jobs/{job_id}/results").content == b""
    assert client.get(f"/v1/jobs/{job_id}/audit").json()["ok"]


def test_a_model_added_to_the_registry_can_be_used_at_once(client: httpx.Client, api: LiveAPI) -> None:
    registry = api.app.extensions["bushel"].settings.registry
    registry.write_text(registry.read_text() + '[models.new]\ntask = "translation"\nsource = "."\nengine = "echo"\n')

    assert submit(client, model="new").status_code == 202
    registry.write_text("not toml")
    assert submit(client, model="new").status_code == 202


def test_a_job_row_is_there_before_anybody_is_told(client: httpx.Client, api: LiveAPI, ledger: Ledger) -> None:
    seen: list[int] = []

    class Looking:
        def ring(self, task: str, *args: str) -> None:
            with ledger.sessions() as session:
                query = text("SELECT count(*) FROM jobs WHERE id = :id")
                seen.append(session.execute(query, {"id": args[0]}).scalar_one())

    services = api.app.extensions["bushel"]
    api.app.extensions["bushel"] = replace(services, doorbell=Looking())

    submit(client)

    assert seen == [1]
