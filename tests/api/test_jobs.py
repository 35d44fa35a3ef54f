"""Jobs over HTTP once they are there: look, list, cancel, delete, audit."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from db.doorbell import FINALIZE
from db.jobs import inputs_key
from db.recording import record
from tests.api.submitting import run, submit, upload
from tests.conftest import LiveAPI
from tests.ledger import Ledger


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
