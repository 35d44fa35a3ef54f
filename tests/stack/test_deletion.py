"""A deleted job and its files leave nothing behind: not in the database, the store, the broker or any log."""

import json

from cli.stack.valkey import Valkey
from db.session import Sessions
from tests.stack.conftest import Stack
from tests.traces import in_broker, in_folder, in_tables
from tests.waiting import eventually

MARK = "zanzibar7f3a"


def test_nothing_of_a_deleted_job_is_left_anywhere(stack: Stack, sessions: Sessions, valkey: Valkey) -> None:
    def traces() -> list[str]:
        with sessions() as session:
            rows = in_tables(session, MARK)
        # The logs of all processes are in the folder, beside the files.
        return rows + in_folder(stack.folder, MARK) + in_broker(valkey.operator_url, MARK)

    stack.start_api()
    stack.start_worker()
    line = {"custom_id": f"{MARK}-a", "text": f"{MARK} text", "reference": MARK}
    file_id = stack.upload(f"{MARK}.jsonl", (json.dumps(line) + "\nno JSON " + MARK + "\n").encode())
    hook = stack.http.post("/v1/webhooks", json={"url": "https://hooks.example/x", "events": ["job.*"]})
    assert hook.status_code == 201
    key = {"idempotency-key": MARK}
    metadata = {MARK: MARK}
    asked = {"task": "translation", "metadata": metadata, "on_error": "skip"}
    by_file = stack.http.post("/v1/jobs", json={**asked, "input_file_id": file_id}, headers=key).json()["id"]
    inline = stack.submit(inputs=[line], metadata=metadata)
    for job_id in (by_file, inline):
        assert stack.finished(job_id, 120)["status"] == "completed"
    assert {"items.input", "results.output", "jobs.metadata", "idempotency_keys.key", "files.filename"} <= set(traces())
    assert [place for place in traces() if place.endswith(".log")] == []

    for path in (f"/v1/jobs/{by_file}", f"/v1/jobs/{inline}", f"/v1/files/{file_id}"):
        assert stack.http.delete(path).status_code == 200

    # The reconciler of the worker takes the bytes away, every few seconds.
    eventually(lambda: not traces(), 60, every=0.5)
