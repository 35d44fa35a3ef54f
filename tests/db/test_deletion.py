"""What is deleted is gone: texts, names and bytes, from every table and from the store."""

import json
from datetime import timedelta
from typing import Any

import pytest

from db import files, jobs, uploads, webhooks
from db.recording import NewResult, record
from db.states import Outcome
from tests.ledger import Ledger, json_lines
from tests.traces import in_folder, in_tables
from workers.reconcile import Reconciler

MARK = "zanzibar7f3a"


def traces(ledger: Ledger) -> list[str]:
    with ledger.sessions() as session:
        return in_tables(session, MARK) + in_folder(ledger.folder, MARK)


def reconcile(ledger: Ledger, retention: timedelta | None = None) -> None:
    Reconciler(ledger.sessions, ledger.store, ledger.bell, retention).run()


def submitted(ledger: Ledger, **fields: Any) -> str:
    """A job with the mark wherever a user may put a word, run to its end, one of its items failed."""
    lines = [
        {"custom_id": f"{MARK}-{n}", "text": f"{MARK} {n}", "params": {"stop": [MARK]}, "reference": MARK}
        for n in range(4)
    ]
    job_id = ledger.submit(json_lines(*lines), {"type": "jsonl"}, metadata={MARK: MARK}, **fields)
    ledger.run("UPDATE files SET filename = :name", name=f"{MARK}.jsonl")
    assert ledger.ingest(job_id)
    while claim := ledger.claim(job_id):
        made = [
            NewResult(item.idx, Outcome.SUCCEEDED, {"text": f"{MARK} out", "finish_reason": "stop"})
            if item.outcome is Outcome.SUCCEEDED
            else NewResult(item.idx, Outcome.FAILED, error_code="engine_error", error_message=f"at {MARK}")
            for item in ledger.outcomes(claim, fail=1)
        ]
        with ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, made)
    assert ledger.finalize(job_id)
    return job_id


def subscribe(ledger: Ledger) -> str:
    with ledger.sessions.begin() as session:
        return webhooks.create(session, ledger.tenant, "https://hooks.example/x", ["job.*"]).webhook.id


def test_nothing_is_left_of_a_deleted_job_and_its_file(ledger: Ledger) -> None:
    subscribe(ledger)
    job_id = submitted(ledger)
    job = ledger.job(job_id)
    assert job.report_file_id and job.output_file_id and job.error_file_id
    # The test sees what it looks for, in each of the places.
    before = traces(ledger)
    assert {"items.input", "items.reference", "results.output", "jobs.metadata", "deliveries.body"} <= set(before)
    assert len([place for place in before if str(ledger.folder) in place]) == 4

    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, job_id)
        files.delete(session, ledger.tenant, job.input_file_id)
    reconcile(ledger)

    assert traces(ledger) == []
    # The tombstones are there, for cursors; they say nothing but that there was something.
    tombstones = ledger.rows("SELECT filename, sha256 FROM files")
    assert {tuple(row) for row in tombstones} == {("", "")} and len(tombstones) == 4


def test_a_deleted_file_keeps_its_name_no_longer_than_its_bytes(ledger: Ledger) -> None:
    file_id = ledger.upload(MARK.encode(), f"{MARK}.txt")

    with ledger.sessions.begin() as session:
        files.delete(session, ledger.tenant, file_id)
    reconcile(ledger)

    assert traces(ledger) == []


def test_an_expired_file_goes_like_a_deleted_one(ledger: Ledger) -> None:
    ledger.upload(MARK.encode(), f"{MARK}.txt")
    ledger.run("UPDATE files SET expires_at = now() - interval '1 s'")

    reconcile(ledger)

    assert traces(ledger) == []


def test_inputs_that_came_in_the_request_go_with_the_job(ledger: Ledger) -> None:
    job_id = submitted(ledger)
    key = jobs.inputs_key(job_id)
    with ledger.store.writer(key) as writer:
        writer.write(MARK.encode())
    input_id = ledger.job(job_id).input_file_id
    ledger.run("UPDATE jobs SET inputs_key = :key, input_file_id = NULL", key=key)

    with ledger.sessions.begin() as session:
        files.delete(session, ledger.tenant, input_id)
        jobs.delete(session, ledger.tenant, job_id)
    reconcile(ledger)

    assert traces(ledger) == []


def test_an_upload_forgets_the_name_of_its_deleted_file(ledger: Ledger) -> None:
    file_id = ledger.upload(MARK.encode(), f"{MARK}.txt")
    announced = uploads.NewUpload("batch", f"{MARK}.txt", f"text/{MARK}", 3, None)
    with ledger.sessions.begin() as session:
        upload_id = uploads.create(session, ledger.tenant, announced).id
    ledger.run("UPDATE uploads SET status = 'completed', file_id = :file WHERE id = :id", file=file_id, id=upload_id)

    with ledger.sessions.begin() as session:
        files.delete(session, ledger.tenant, file_id)
    reconcile(ledger)

    assert traces(ledger) == []


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_an_upload_that_came_to_nothing_forgets_its_name(ledger: Ledger, status: str) -> None:
    announced = uploads.NewUpload("batch", f"{MARK}.txt", f"text/{MARK}", 3, None)
    with ledger.sessions.begin() as session:
        uploads.create(session, ledger.tenant, announced)
    ledger.run("UPDATE uploads SET status = :status", status=status)

    reconcile(ledger)

    assert traces(ledger) == []


def test_an_event_that_still_waits_is_sent_without_the_deleted_jobs_metadata(ledger: Ledger) -> None:
    subscribe(ledger)
    job_id = submitted(ledger)
    other_id = submitted(ledger)

    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, job_id)

    bodies = {row.job_id: json.loads(row.body) for row in ledger.rows("SELECT job_id, body FROM deliveries")}
    assert bodies[job_id]["data"]["id"] == job_id and bodies[job_id]["data"]["metadata"] is None
    assert bodies[job_id]["type"] == "job.completed"
    assert bodies[other_id]["data"]["metadata"] == {MARK: MARK}


def test_the_log_of_a_deleted_jobs_events_goes_with_it(ledger: Ledger) -> None:
    subscribe(ledger)
    job_id, other_id = submitted(ledger), submitted(ledger)
    ledger.run("UPDATE deliveries SET state = 'delivered', ended_at = now()")

    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, job_id)

    assert [row.job_id for row in ledger.rows("SELECT job_id FROM deliveries")] == [other_id]


def test_deleting_one_job_leaves_the_other_whole(ledger: Ledger) -> None:
    gone, kept = submitted(ledger), submitted(ledger)
    output = ledger.job(kept).output_file_id

    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, gone)
    reconcile(ledger)

    assert ledger.read(output).count(MARK.encode()) == 6
    assert len(ledger.rows("SELECT FROM items")) == len(ledger.rows("SELECT FROM results")) == 4
    assert ledger.rows("SELECT filename FROM files WHERE id = :id", id=output)[0].filename == f"{kept}_output.jsonl"


def test_jobs_older_than_the_retention_are_deleted_by_themselves(ledger: Ledger) -> None:
    old, young, unfinished = submitted(ledger), submitted(ledger), ledger.submit(b"x")
    ledger.run("UPDATE jobs SET completed_at = now() - interval '8 days' WHERE id = :id", id=old)
    ledger.run("UPDATE jobs SET created_at = now() - interval '9 days' WHERE id IN (:a, :b)", a=old, b=unfinished)

    reconcile(ledger)
    assert len(ledger.rows("SELECT FROM jobs")) == 3
    reconcile(ledger, timedelta(days=7))

    assert {row.id for row in ledger.rows("SELECT id FROM jobs")} == {young, unfinished}
    output = f"{old}_output.jsonl"
    assert ledger.rows("SELECT FROM files WHERE filename = :name", name=output) == []


def test_a_retention_that_finds_many_jobs_deletes_them_all_in_the_end(ledger: Ledger) -> None:
    for _ in range(3):
        submitted(ledger)
    ledger.run("UPDATE jobs SET created_at = now() - interval '3 days', completed_at = now() - interval '2 days'")
    reconciler = Reconciler(ledger.sessions, ledger.store, ledger.bell, timedelta(days=1), jobs_at_once=2)

    left = []
    for _ in range(2):
        reconciler.run()
        left.append(len(ledger.rows("SELECT FROM jobs")))

    assert left == [1, 0]
