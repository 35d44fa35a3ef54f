"""Retry, clone, pause and resume, over HTTP."""

from typing import Any

import httpx
import pytest

from db import jobs
from db.doorbell import INGEST, WORK
from db.jobs import inputs_key
from db.recording import record
from tests.conftest import LiveAPI
from tests.ledger import Ledger, json_lines


def submit(client: httpx.Client, inputs: list[Any], **changes: Any) -> str:
    answer = client.post("/v1/jobs", json={"task": "translation", "inputs": inputs, **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def upload(client: httpx.Client, data: bytes, name: str = "in.txt") -> str:
    answer = client.post("/v1/files", data={"purpose": "batch"}, files={"file": (name, data)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def from_file(client: httpx.Client, data: bytes, name: str = "in.txt", **changes: Any) -> tuple[str, str]:
    file_id = upload(client, data, name)
    answer = client.post("/v1/jobs", json={"task": "translation", "input_file_id": file_id, **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"]), file_id


def run(ledger: Ledger, job_id: str, fail: int = 0) -> None:
    """Ingest the job, run its one chunk, of which the first `fail` items fail, and end it."""
    assert ledger.ingest(job_id)
    claim = ledger.claim(job_id)
    assert claim is not None
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim, fail))
    assert ledger.finalize(job_id)


def repeat(client: httpx.Client, job_id: str, verb: str = "retry", **said: Any) -> Any:
    answer = client.post(f"/v1/jobs/{job_id}/{verb}", json=said)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return answer.json()


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def lines(client: httpx.Client, job_id: str) -> list[Any]:
    return [
        httpx.Response(200, content=line).json()
        for line in client.get(f"/v1/jobs/{job_id}/results").content.splitlines()
    ]


class TestRetry:
    def test_a_retry_has_the_items_that_failed_and_leaves_the_parent_alone(
        self, client: httpx.Client, ledger: Ledger, api: LiveAPI
    ) -> None:
        parent = submit(client, [{"custom_id": name, "text": f"text {name}"} for name in "abcd"], priority=3)
        run(ledger, parent, fail=2)
        before = client.get(f"/v1/jobs/{parent}").json()
        failed = {line["custom_id"] for line in lines(client, parent) if line["status"] == "failed"}

        child = repeat(client, parent)
        run(ledger, child["id"])

        assert (INGEST, child["id"]) in api.bell.rings
        assert (child["parent_id"], child["status"], child["priority"]) == (parent, "validating", 3)
        shown = client.get(f"/v1/jobs/{child['id']}").json()
        assert (shown["status"], shown["counts"]["total"], shown["counts"]["succeeded"]) == ("completed", 2, 2)
        assert {line["custom_id"] for line in lines(client, child["id"])} == failed
        assert client.get(f"/v1/jobs/{parent}").json() == before
        assert client.get(f"/v1/jobs/{child['id']}/audit").json()["ok"]

    def test_a_retry_of_a_retry_has_what_failed_twice(self, client: httpx.Client, ledger: Ledger) -> None:
        parent, _ = from_file(client, b"".join(b"line %d\n" % number for number in range(6)))
        run(ledger, parent, fail=4)
        child = repeat(client, parent)["id"]
        run(ledger, child, fail=2)
        twice = [line["custom_id"] for line in lines(client, child) if line["status"] == "failed"]

        grandchild = repeat(client, child)
        run(ledger, grandchild["id"])

        assert grandchild["parent_id"] == child
        assert [line["custom_id"] for line in lines(client, grandchild["id"])] == twice
        assert len(twice) == 2

    def test_what_was_cancelled_before_it_ran_is_retried(self, client: httpx.Client, ledger: Ledger) -> None:
        parent = submit(client, ["one", "two", "three"])
        assert ledger.ingest(parent)
        client.post(f"/v1/jobs/{parent}/cancel")
        assert ledger.finalize(parent)

        child = repeat(client, parent)["id"]
        run(ledger, child)

        assert client.get(f"/v1/jobs/{child}").json()["counts"]["succeeded"] == 3

    def test_what_was_cancelled_while_it_was_validated_is_retried_as_a_whole(
        self, client: httpx.Client, ledger: Ledger
    ) -> None:
        parent = submit(client, ["one", "two"])
        client.post(f"/v1/jobs/{parent}/cancel")
        assert ledger.finalize(parent)

        child = repeat(client, parent)["id"]
        run(ledger, child)

        assert client.get(f"/v1/jobs/{child}").json()["counts"]["succeeded"] == 2

    def test_a_retry_that_was_cancelled_too_early_is_retried_with_the_items_it_was_to_have(
        self, client: httpx.Client, ledger: Ledger
    ) -> None:
        grandparent = submit(client, ["one", "two", "three"])
        run(ledger, grandparent, fail=1)
        parent = repeat(client, grandparent)["id"]
        client.post(f"/v1/jobs/{parent}/cancel")
        assert ledger.finalize(parent)

        child = repeat(client, parent)
        run(ledger, child["id"])

        assert child["parent_id"] == grandparent
        assert client.get(f"/v1/jobs/{child['id']}").json()["counts"]["total"] == 1
        client.delete(f"/v1/jobs/{grandparent}")
        assert refusal(client.post(f"/v1/jobs/{parent}/retry")) == (409, "parent_deleted")

    def test_what_expired_is_retried_with_a_window_of_its_own(self, client: httpx.Client, ledger: Ledger) -> None:
        parent = submit(client, ["one", "two"], completion_window="30m", metadata={"a": "b"})
        assert ledger.ingest(parent)
        ledger.run("UPDATE jobs SET status = 'finalizing' WHERE id = :job", job=parent)
        assert ledger.finalize(parent)
        assert client.get(f"/v1/jobs/{parent}").json()["status"] == "expired"

        same = repeat(client, parent)
        other = repeat(client, parent, completion_window="2h", priority=9, metadata={"c": "d"})
        endless = repeat(client, parent, completion_window=None, metadata=None)

        assert (same["expires_at"] - same["created_at"], same["metadata"]) == (1800, {"a": "b"})
        assert (other["expires_at"] - other["created_at"], other["priority"], other["metadata"]) == (
            7200,
            9,
            {"c": "d"},
        )
        assert (endless["expires_at"], endless["completion_window"], endless["metadata"]) == (None, None, None)

    def test_a_body_is_not_needed(self, client: httpx.Client, ledger: Ledger) -> None:
        parent = submit(client, ["one"])
        run(ledger, parent, fail=1)

        assert client.post(f"/v1/jobs/{parent}/retry").status_code == 202

    def test_a_body_that_comes_in_pieces_is_read(self, client: httpx.Client) -> None:
        parent = submit(client, ["one"])

        headers = {"Content-Type": "application/json"}
        answer = client.post(f"/v1/jobs/{parent}/clone", content=iter([b'{"prio', b'rity": 7}']), headers=headers)

        assert answer.json()["priority"] == 7

    def test_there_must_be_something_to_retry(self, client: httpx.Client, ledger: Ledger) -> None:
        running, done = submit(client, ["one"]), submit(client, ["one"])
        dry, bad = submit(client, ["one"], dry_run=True), from_file(client, b"\xff\xfe\xff\n")[0]
        run(ledger, done)
        for job_id in (dry, bad):
            assert ledger.ingest(job_id)
        ledger.finalize(dry)

        said = {name: client.post(f"/v1/jobs/{name}/retry") for name in (running, done, dry, bad)}

        assert refusal(said[running]) == (409, "job_not_final")
        assert refusal(said[done]) == refusal(said[dry]) == (409, "nothing_to_retry")
        assert refusal(said[bad]) == (409, "input_invalid")
        assert said[bad].headers["x-should-retry"] == "false"

    def test_a_job_whose_file_is_gone_cannot_be_repeated(self, client: httpx.Client, ledger: Ledger) -> None:
        parent, file_id = from_file(client, b"one\n")
        run(ledger, parent, fail=1)
        client.delete(f"/v1/files/{file_id}")

        assert refusal(client.post(f"/v1/jobs/{parent}/retry")) == (409, "input_gone")
        assert refusal(client.post(f"/v1/jobs/{parent}/clone")) == (409, "input_gone")

    def test_a_job_whose_spooled_inputs_are_gone_cannot_be_repeated(self, client: httpx.Client, ledger: Ledger) -> None:
        parent = submit(client, ["one"])
        run(ledger, parent, fail=1)
        ledger.store.delete(inputs_key(parent))

        assert refusal(client.post(f"/v1/jobs/{parent}/retry")) == (409, "input_gone")
        assert not list(ledger.folder.glob("inputs/*"))

    def test_inline_inputs_are_copied_so_that_the_parent_may_go(self, client: httpx.Client, ledger: Ledger) -> None:
        parent = submit(client, ["one", "two"])
        run(ledger, parent, fail=1)
        child = repeat(client, parent, "clone")["id"]
        client.delete(f"/v1/jobs/{parent}")
        ledger.store.delete(inputs_key(parent))

        run(ledger, child)

        shown = client.get(f"/v1/jobs/{child}").json()
        assert (shown["parent_id"], shown["counts"]["succeeded"]) == (None, 2)

    def test_one_key_makes_one_child(self, client: httpx.Client, ledger: Ledger) -> None:
        parent, other = submit(client, ["one"]), submit(client, ["two"])
        for job_id in (parent, other):
            run(ledger, job_id, fail=1)
        headers = {"Idempotency-Key": "again"}

        first = client.post(f"/v1/jobs/{parent}/retry", json={}, headers=headers)
        second = client.post(f"/v1/jobs/{parent}/retry", json={}, headers=headers)
        foreign = client.post(f"/v1/jobs/{other}/retry", json={}, headers=headers)

        assert first.json()["id"] == second.json()["id"]
        assert refusal(foreign) == (422, "idempotency_key_reused")
        assert len(list(ledger.folder.glob("inputs/*"))) == 3

    def test_an_sdk_that_sends_it_again_gets_the_first_child(self, client: httpx.Client, ledger: Ledger) -> None:
        parent = submit(client, ["one"])
        run(ledger, parent, fail=1)
        again = {"X-Stainless-Retry-Count": "1"}

        first = client.post(f"/v1/jobs/{parent}/retry", headers={"X-Stainless-Retry-Count": "0"}).json()["id"]
        assert client.post(f"/v1/jobs/{parent}/retry", headers=again).json()["id"] == first
        assert client.post(f"/v1/jobs/{parent}/clone", headers=again).json()["id"] != first

    @pytest.mark.parametrize(
        ("body", "code", "param"),
        [
            ({"priority": 101}, "invalid_value", "priority"),
            ({"completion_window": "soon"}, "invalid_value", "completion_window"),
            ({"metadata": {"k": 1}}, "invalid_value", "metadata.k"),
            ({"model": "echo"}, "unknown_field", "model"),
        ],
    )
    def test_what_a_retry_cannot_change_is_refused(
        self, client: httpx.Client, ledger: Ledger, body: Any, code: str, param: str
    ) -> None:
        answer = client.post(f"/v1/jobs/{submit(client, ['one'])}/retry", json=body)

        assert answer.status_code == 400
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)


class TestClone:
    def test_a_clone_has_the_whole_input_and_every_setting(self, client: httpx.Client, ledger: Ledger) -> None:
        data = b"id;text\n1;one\n2;two\n"
        parent, file_id = from_file(
            client,
            data,
            "in.csv",
            format={"type": "csv", "delimiter": ";", "id_column": "id"},
            params={"num_beams": 2},
            on_error="skip",
            long_input="truncate",
            priority=5,
            completion_window="3h",
            metadata={"a": "b"},
        )
        run(ledger, parent)

        child = repeat(client, parent, "clone")

        same = ("format", "params", "on_error", "long_input", "priority", "completion_window", "metadata", "model")
        before = client.get(f"/v1/jobs/{parent}").json()
        assert {name: child[name] for name in same} == {name: before[name] for name in same}
        assert (child["input_file_id"], child["parent_id"]) == (file_id, parent)
        run(ledger, child["id"])
        assert [line["custom_id"] for line in lines(client, child["id"])] == ["1", "2"]

    def test_a_job_that_still_runs_can_be_cloned_with_other_settings(
        self, client: httpx.Client, ledger: Ledger
    ) -> None:
        parent = submit(client, ["one"], params={"num_beams": 2}, dry_run=True)

        child = repeat(
            client,
            parent,
            "clone",
            model="echo-many",
            params={"target_lang": "fr", "source_lang": "en", "num_beams": None},
            dry_run=False,
            on_error="skip",
            long_input="truncate",
        )

        assert (child["model"], child["dry_run"], child["on_error"]) == ("echo-many", False, "skip")
        assert (child["params"], child["long_input"]) == ({"target_lang": "fr", "source_lang": "en"}, "truncate")

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            pytest.param({"model": "nonesuch"}, 404, "model_not_found", id="no such model"),
            pytest.param({"model": "echo-chat"}, 400, "task_mismatch", id="a model of another task"),
            pytest.param({"params": {"num_beams": 0}}, 400, "invalid_params", id="a parameter out of range"),
            pytest.param({"task": "generation"}, 400, "unknown_field", id="another task"),
            pytest.param({"on_error": "stop"}, 400, "invalid_value", id="no such word"),
        ],
    )
    def test_what_cannot_run_is_refused(self, client: httpx.Client, body: Any, status: int, code: str) -> None:
        parent = submit(client, ["one"])

        assert refusal(client.post(f"/v1/jobs/{parent}/clone", json=body)) == (status, code)

    def test_a_batch_keeps_what_its_lines_say(self, client: httpx.Client, ledger: Ledger) -> None:
        line = {"custom_id": "a", "method": "POST", "url": "/v1/translations", "body": {"model": "echo", "input": "x"}}
        file_id = upload(client, json_lines(line), "in.jsonl")
        batch = {"input_file_id": file_id, "endpoint": "/v1/translations", "completion_window": "24h"}
        parent = client.post("/v1/batches", json=batch).json()["id"].replace("batch_", "job_")

        child = repeat(client, parent, "clone", priority=1)

        assert (child["dialect"], child["endpoint"], child["model"]) == ("openai", "/v1/translations", None)
        assert client.get(f"/v1/batches/{child['id'].replace('job_', 'batch_')}").status_code == 200
        for said in ({"model": "echo"}, {"params": {}}, {"completion_window": None}):
            assert client.post(f"/v1/jobs/{parent}/clone", json=said).status_code == 400


class TestPause:
    def test_nothing_of_a_paused_job_is_claimed_until_it_is_resumed(
        self, client: httpx.Client, ledger: Ledger, api: LiveAPI
    ) -> None:
        job_id = submit(client, ["one", "two"])
        assert ledger.ingest(job_id)

        paused = client.post(f"/v1/jobs/{job_id}/pause")
        again = client.post(f"/v1/jobs/{job_id}/pause")
        claim = ledger.claim(job_id)

        assert (paused.status_code, paused.json()["paused"]) == (200, True)
        assert (again.status_code, again.json()["paused"]) == (200, True)
        assert claim is None

        resumed = client.post(f"/v1/jobs/{job_id}/resume")
        client.post(f"/v1/jobs/{job_id}/resume")

        assert resumed.json()["paused"] is False
        assert (WORK, "echo") in api.bell.rings
        assert ledger.claim(job_id) is not None

    def test_what_runs_when_a_job_is_paused_is_still_recorded(self, client: httpx.Client, ledger: Ledger) -> None:
        job_id = submit(client, ["one"])
        assert ledger.ingest(job_id)
        claim = ledger.claim(job_id)
        assert claim is not None

        client.post(f"/v1/jobs/{job_id}/pause")
        with ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim))
        ledger.finalize(job_id)

        shown = client.get(f"/v1/jobs/{job_id}").json()
        assert (shown["status"], shown["paused"]) == ("completed", False)

    def test_a_job_paused_while_it_is_validated_does_not_start(self, client: httpx.Client, ledger: Ledger) -> None:
        job_id = submit(client, ["one"])

        client.post(f"/v1/jobs/{job_id}/pause")
        assert ledger.ingest(job_id)

        assert ledger.job(job_id).status == "in_progress"
        assert ledger.claim(job_id) is None

    @pytest.mark.parametrize("verb", ["pause", "resume"])
    def test_a_job_that_has_ended_can_neither_be_paused_nor_resumed(
        self, client: httpx.Client, ledger: Ledger, verb: str
    ) -> None:
        job_id = submit(client, ["one"])
        run(ledger, job_id)

        assert refusal(client.post(f"/v1/jobs/{job_id}/{verb}")) == (409, "job_not_pausable")

    def test_a_paused_job_can_be_cancelled(self, client: httpx.Client, ledger: Ledger) -> None:
        job_id = submit(client, ["one"])
        assert ledger.ingest(job_id)
        client.post(f"/v1/jobs/{job_id}/pause")

        assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
        assert ledger.finalize(job_id)
        shown = client.get(f"/v1/jobs/{job_id}").json()
        assert (shown["status"], shown["paused"]) == ("cancelled", False)


@pytest.mark.parametrize("verb", ["retry", "clone", "pause", "resume"])
def test_a_job_of_somebody_else_is_not_there(client: httpx.Client, stranger: httpx.Client, verb: str) -> None:
    job_id = submit(client, ["one"])

    assert refusal(stranger.post(f"/v1/jobs/{job_id}/{verb}")) == (404, "job_not_found")
    assert refusal(stranger.post(f"/v1/jobs/{jobs.new_job_id()}/{verb}")) == (404, "job_not_found")


def test_copies_are_not_for_formats_with_one_line_an_input(client: httpx.Client) -> None:
    file_id = upload(client, b"one\n")
    body = {"task": "generation", "input_file_id": file_id, "params": {"n": 2, "temperature": 1}}

    error = client.post("/v1/jobs", json=body).json()["error"]

    assert (error["code"], error["param"]) == ("invalid_params", "params.n")
