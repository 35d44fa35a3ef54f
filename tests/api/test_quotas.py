"""What a tenant may have: refused before anything is stored, and given back by whatever ends."""

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from werkzeug.test import create_environ, run_wsgi_app

from api.config import APISettings
from db import quotas
from db.doorbell import RecordingDoorbell
from db.quotas import Limits, Quota
from db.session import Sessions
from tests.conftest import LiveAPI, served
from tests.ledger import BOUNDS, Ledger, json_lines
from workers.ingest import Ingest
from workers.reconcile import Reconciler

TEXTS = ["one two three", "four five six"]
READ = 256 * 1024


def limit(sessions: Sessions, **limits: int) -> None:
    with sessions.begin() as session:
        quotas.set_limits(session, "default", {Quota(name): most for name, most in limits.items()})


def used(client: httpx.Client) -> dict[str, int]:
    found = client.get("/v1/quota").json()
    return {quota.value: found[quota.value]["used"] for quota in quotas.COUNTED}


def submit(client: httpx.Client, *texts: str, **more: object) -> httpx.Response:
    return client.post("/v1/jobs", json={"task": "translation", "inputs": list(texts or TEXTS), **more})


def upload(client: httpx.Client, data: bytes, name: str = "in.txt") -> httpx.Response:
    return client.post("/v1/files", files={"file": (name, data)}, data={"purpose": "batch"})


def refused(answer: httpx.Response) -> dict[str, object]:
    """What is said of the quota, of an answer that is the refusal it should be."""
    assert answer.status_code == 429, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "quota_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    [detail] = error["details"]
    assert detail["quota"].replace("_", " ") in error["message"]
    return dict(detail)


def stored(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_limits_and_use_are_shown(client: httpx.Client, sessions: Sessions, ledger: Ledger) -> None:
    limit(sessions, open_jobs=7, stored_bytes=quotas.UNLIMITED)
    file_id = upload(client, b"one\n").json()["id"]
    submit(client)
    ledger.ingest(client.post("/v1/jobs", json={"task": "translation", "input_file_id": file_id}).json()["id"])

    found = client.get("/v1/quota").json()

    assert found["open_jobs"] == {"limit": 7, "used": 2}
    assert found["queued_items"] == {"limit": None, "used": 3}
    assert found["queued_tokens"]["used"] == 4 + 4 + 1
    # The file, and two lines of JSON.
    assert found["stored_bytes"] == {"limit": None, "used": 4 + len(json_lines(*({"text": each} for each in TEXTS)))}
    assert found["requests_per_second"] == {"limit": None}


@pytest.mark.parametrize(
    ("quota", "most", "wanted"), [("open_jobs", 0, 1), ("queued_items", 1, 2), ("queued_tokens", 7, 8)]
)
def test_an_inline_job_beyond_a_quota_is_refused_and_leaves_nothing(
    client: httpx.Client, sessions: Sessions, ledger: Ledger, quota: str, most: int, wanted: int
) -> None:
    limit(sessions, **{quota: most})

    answer = submit(client)

    assert refused(answer) == {"quota": quota, "used": 0, "wanted": wanted, "limit": most}
    assert int(answer.headers["retry-after"]) >= 60
    assert stored(ledger.folder) == []
    assert ledger.rows("SELECT id FROM jobs") == []


def test_a_message_batch_beyond_a_quota_is_refused_in_anthropics_form(client: httpx.Client, sessions: Sessions) -> None:
    limit(sessions, queued_items=1)
    request = {"params": {"model": "echo-chat", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]}}

    answer = client.post(
        "/v1/messages/batches", json={"requests": [{"custom_id": str(number), **request} for number in range(2)]}
    )

    assert answer.status_code == 429
    error = answer.json()["error"]
    assert (error["type"], error["details"]["error_code"]) == ("rate_limit_error", "quota_exceeded")
    assert error["details"]["problems"] == [{"quota": "queued_items", "used": 0, "wanted": 2, "limit": 1}]


def test_announced_items_count_before_they_are_read_and_only_once_after(
    client: httpx.Client, sessions: Sessions, ledger: Ledger
) -> None:
    limit(sessions, queued_items=3)
    job_id = submit(client).json()["id"]

    assert refused(submit(client))["used"] == 2
    ledger.ingest(job_id)
    assert used(client)["queued_items"] == 2
    assert submit(client, "one more").status_code == 202


def test_a_file_beyond_a_quota_fails_its_job_and_queues_nothing(
    client: httpx.Client, sessions: Sessions, ledger: Ledger
) -> None:
    limit(sessions, queued_items=25)
    file_id = upload(client, b"".join(b"line %d\n" % number for number in range(30))).json()["id"]
    job_id = client.post("/v1/jobs", json={"task": "translation", "input_file_id": file_id}).json()["id"]

    # In windows of ten: two fit, the third does not, and the first two must go again.
    step = Ingest(sessions, ledger.store, lambda: ledger.registry, ledger.bell, BOUNDS, "ingester", window_items=10)
    assert step.run(job_id)

    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["status"], job["counts"]["total"]) == ("failed", 0)
    assert [each["code"] for each in job["errors"]["data"]] == ["quota_exceeded"]
    assert "20 used" not in job["errors"]["data"][0]["message"]
    assert "25 allowed" in job["errors"]["data"][0]["message"]
    assert ledger.rows("SELECT 1 FROM items UNION ALL SELECT 1 FROM chunks UNION ALL SELECT 1 FROM results") == []
    assert used(client)["queued_items"] == 0


def test_the_default_of_the_service_holds_at_ingest_where_the_tenant_has_no_quota_of_its_own(
    client: httpx.Client, sessions: Sessions, ledger: Ledger
) -> None:
    def ingested(limits: Limits) -> str:
        file_id = upload(client, b"a\nb\nc\n").json()["id"]
        job_id = client.post("/v1/jobs", json={"task": "translation", "input_file_id": file_id}).json()["id"]
        registry, bell = ledger.registry, ledger.bell
        Ingest(sessions, ledger.store, lambda: registry, bell, BOUNDS, "ingester", limits=limits).run(job_id)
        return str(client.get(f"/v1/jobs/{job_id}").json()["status"])

    assert ingested(Limits(queued_items=2)) == "failed"
    assert ingested(Limits(queued_tokens=2)) == "failed"
    assert ingested(Limits(queued_items=3, queued_tokens=3)) == "in_progress"
    limit(sessions, queued_items=quotas.UNLIMITED)
    assert ingested(Limits(queued_items=2)) == "in_progress"


def test_a_dry_run_queues_nothing_and_is_not_held_to_what_may_be_queued(
    client: httpx.Client, sessions: Sessions, ledger: Ledger
) -> None:
    limit(sessions, queued_items=0)
    job_id = submit(client, dry_run=True).json()["id"]

    assert used(client)["queued_items"] == 0
    ledger.ingest(job_id)
    assert client.get(f"/v1/jobs/{job_id}").json()["errors"] is None


def _completed(client: httpx.Client, ledger: Ledger, job_id: str) -> None:
    ledger.ingest(job_id)
    while claim := ledger.claim(job_id):
        ledger.record(claim)
    assert ledger.finalize(job_id)
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "completed"


def _cancelled(client: httpx.Client, ledger: Ledger, job_id: str) -> None:
    ledger.ingest(job_id)
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert ledger.finalize(job_id)


def _cancelled_unread(client: httpx.Client, ledger: Ledger, job_id: str) -> None:
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert ledger.finalize(job_id)


def _expired(client: httpx.Client, ledger: Ledger, job_id: str) -> None:
    ledger.ingest(job_id)
    ledger.run("UPDATE jobs SET expires_at = now() - interval '1 s'")
    Reconciler(ledger.sessions, ledger.store, ledger.bell).run()
    assert ledger.finalize(job_id)
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "expired"


def _failed(client: httpx.Client, ledger: Ledger, job_id: str) -> None:
    ledger.store.delete(f"inputs/{job_id}")
    ledger.ingest(job_id)
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "failed"


@pytest.mark.parametrize("ended", [_completed, _cancelled, _cancelled_unread, _expired, _failed])
def test_whatever_ends_gives_back_what_it_took(
    client: httpx.Client, sessions: Sessions, ledger: Ledger, ended: Callable[[httpx.Client, Ledger, str], None]
) -> None:
    limit(sessions, open_jobs=1, queued_items=2, queued_tokens=8)
    job_id = submit(client).json()["id"]
    assert refused(submit(client))["quota"] == "open_jobs"
    before = used(client)
    assert (before["open_jobs"], before["queued_items"], before["queued_tokens"]) == (1, 2, 8)

    ended(client, ledger, job_id)

    after = used(client)
    assert (after["open_jobs"], after["queued_items"], after["queued_tokens"]) == (0, 0, 0)
    # And with the job, all that it stored.
    client.delete(f"/v1/jobs/{job_id}")
    assert used(client) == {quota.value: 0 for quota in quotas.COUNTED}
    assert submit(client).status_code == 202


def test_what_runs_is_queued_no_more_and_what_comes_back_is_again(
    client: httpx.Client, sessions: Sessions, ledger: Ledger
) -> None:
    job_id = submit(client).json()["id"]
    ledger.ingest(job_id)

    claim = ledger.claim(job_id)
    assert claim is not None
    assert (used(client)["queued_items"], used(client)["open_jobs"]) == (0, 1)
    ledger.lapse(claim)
    Reconciler(ledger.sessions, ledger.store, ledger.bell).run()
    assert (used(client)["queued_items"], used(client)["queued_tokens"]) == (2, 8)


def test_bytes_beyond_the_quota_are_refused_and_deleted_ones_are_given_back(
    client: httpx.Client, sessions: Sessions, ledger: Ledger
) -> None:
    limit(sessions, stored_bytes=10)
    file_id = upload(client, b"12345678").json()["id"]

    answer = upload(client, b"abc")

    assert refused(answer) == {"quota": "stored_bytes", "used": 8, "wanted": 3, "limit": 10}
    # It does not help to wait.
    assert "delete files" in answer.json()["error"]["message"]
    assert stored(ledger.folder) == [f"files/{file_id}"]
    assert refused(submit(client, "a text"))["quota"] == "stored_bytes"
    assert stored(ledger.folder) == [f"files/{file_id}"]
    client.delete(f"/v1/files/{file_id}")
    assert upload(client, b"abc").status_code == 200
    assert used(client)["stored_bytes"] == 3


@pytest.mark.parametrize(("most", "at_most"), [(0, 0), (3 * READ, 5 * READ)], ids=["nothing left", "some left"])
def test_a_file_that_does_not_tell_its_size_is_read_no_further_than_there_is_room(
    api: LiveAPI, key: str, sessions: Sessions, ledger: Ledger, most: int, at_most: int
) -> None:
    limit(sessions, stored_bytes=most)
    body = Large(ledger.folder)

    content, status, _ = run_wsgi_app(api.app, body.environ(key))

    assert (status.split()[0], json.loads(b"".join(content))["error"]["code"]) == ("429", "quota_exceeded")
    assert body.given <= at_most and body.most_on_disk <= most
    assert stored(ledger.folder) == []


class Large(io.BytesIO):
    """A file of 16 MiB in a body that does not tell so, which looks at what is on the disk as it is read."""

    def __init__(self, folder: Path) -> None:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        super().__init__(head + bytes(64 * READ))
        self._folder = folder
        self.given = self.most_on_disk = 0

    def environ(self, key: str) -> dict[str, object]:
        headers = {"Authorization": f"Bearer {key}", "Transfer-Encoding": "chunked"}
        environ = create_environ("/v1/files", method="POST", headers=headers)
        kind = "multipart/form-data; boundary=b"
        return environ | {"CONTENT_TYPE": kind, "wsgi.input": self, "wsgi.input_terminated": True}

    def readinto(self, buffer: Any) -> int:
        on_disk = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        self.most_on_disk = max(self.most_on_disk, on_disk)
        count = super().readinto(buffer)
        self.given += count
        return count


def test_a_deleted_file_that_a_job_still_reads_takes_room_until_the_job_ends(
    client: httpx.Client, sessions: Sessions, ledger: Ledger
) -> None:
    file_id = upload(client, b"12345678\n").json()["id"]
    job_id = client.post("/v1/jobs", json={"task": "translation", "input_file_id": file_id}).json()["id"]
    client.delete(f"/v1/files/{file_id}")

    assert used(client)["stored_bytes"] == 9
    _cancelled_unread(client, ledger, job_id)
    assert used(client)["stored_bytes"] == 0


def test_an_expired_file_takes_no_room_before_it_is_buried(client: httpx.Client, ledger: Ledger) -> None:
    upload(client, b"12345678")
    ledger.run("UPDATE files SET expires_at = now() - interval '1 s'")

    assert used(client)["stored_bytes"] == 0


def test_an_upload_takes_what_it_announced_and_its_file_takes_it_after(
    client: httpx.Client, sessions: Sessions
) -> None:
    limit(sessions, stored_bytes=10)
    announced = {"bytes": 6, "filename": "a", "mime_type": "text/plain", "purpose": "batch"}
    upload_id = client.post("/v1/uploads", json=announced).json()["id"]

    assert used(client)["stored_bytes"] == 6
    assert refused(client.post("/v1/uploads", json=announced))["used"] == 6
    parts = [client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("a", b"123456")}) for _ in range(2)]
    # The second copy would be twelve.
    assert [part.status_code for part in parts] == [200, 429]
    done = client.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": [parts[0].json()["id"]]}).json()
    assert used(client)["stored_bytes"] == 6
    client.delete(f"/v1/files/{done['file']['id']}")
    assert used(client)["stored_bytes"] == 0
    other = client.post("/v1/uploads", json=announced).json()["id"]
    client.post(f"/v1/uploads/{other}/cancel")
    assert used(client)["stored_bytes"] == 0


def test_one_tenants_use_is_no_other_tenants(client: httpx.Client, stranger: httpx.Client, sessions: Sessions) -> None:
    limit(sessions, open_jobs=1)
    submit(client)

    assert refused(submit(client))["limit"] == 1
    assert submit(stranger).status_code == 202
    assert used(stranger)["open_jobs"] == 1


def test_of_many_requests_at_once_no_more_get_in_than_there_is_room_for(
    api: LiveAPI, key: str, sessions: Sessions
) -> None:
    limit(sessions, open_jobs=3)

    def send(number: int) -> int:
        with api.client(key) as client:
            return submit(client, f"text {number}").status_code

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(12)))

    assert sorted(answers) == [202] * 3 + [429] * 9


def test_a_single_request_is_not_held_to_the_queue_and_not_counted(
    stack: LiveAPI, key: str, sessions: Sessions
) -> None:
    limit(sessions, open_jobs=0, queued_items=0, queued_tokens=0)

    with stack.client(key) as client:
        said = {"model": "echo-chat", "messages": [{"role": "user", "content": "a"}]}
        assert client.post("/v1/chat/completions", json=said).status_code == 200
        assert used(client)["open_jobs"] == 0


def test_requests_beyond_the_pace_are_told_when_to_come_again(
    client: httpx.Client, stranger: httpx.Client, sessions: Sessions
) -> None:
    limit(sessions, requests_per_second=3)

    # Twenty in less than a second on any machine that is not standing still; in twenty seconds more would get in.
    answers = [client.get("/v1/quota") for _ in range(20)]

    first, refusals = answers[0], [each for each in answers if each.status_code == 429]
    assert first.status_code == 200
    assert first.headers["ratelimit-policy"] == '"requests";q=3;w=1'
    assert first.headers["ratelimit"] == '"requests";r=2;t=1'
    assert refusals
    error = refusals[0].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert int(refusals[0].headers["retry-after"]) >= 1
    assert '"requests";r=0' in refusals[0].headers["ratelimit"]
    assert all(stranger.get("/v1/quota").status_code == 200 for _ in range(10))
    assert "ratelimit" not in stranger.get("/v1/quota").headers


def test_the_services_pace_holds_for_tenants_without_one(settings: APISettings, key: str, sessions: Sessions) -> None:
    slow = settings.model_copy(update={"tenant_requests_per_second": 1})
    with served(slow, RecordingDoorbell()) as api, api.client(key) as client:
        assert {client.get("/v1/quota").status_code for _ in range(10)} == {200, 429}
        limit(sessions, requests_per_second=quotas.UNLIMITED)
        assert {client.get("/v1/quota").status_code for _ in range(10)} == {200}
