"""The end of jobs: files in input order, every id once, the right last status."""

import csv
import io
import json
from typing import Any

import pytest

from db import jobs, upkeep
from db.audit import audit
from db.recording import record
from tests.ledger import Ledger


def finished(ledger: Ledger, job_id: str, fail: int = 0) -> Any:
    """The job after all of its chunks were run and it was finalized."""
    while claim := ledger.claim(job_id):
        with ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim, fail))
    assert ledger.finalize(job_id)
    with ledger.sessions() as session:
        found = audit(session, ledger.tenant, job_id)
    assert found.ok, found
    return ledger.job(job_id)


def test_a_completed_job_has_its_output_in_input_order(ledger: Ledger) -> None:
    job_id = ledger.submit(b'"b long one here"\n"a"\n"c middle"\n', {"type": "jsonl"})
    ledger.ingest(job_id)
    ledger.recut(job_id, 1)

    job = finished(ledger, job_id)

    assert (job.status, job.error_file_id) == ("completed", None)
    lines = [json.loads(line) for line in ledger.read(job.output_file_id).splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert [line["output"]["text"] for line in lines] == ["out"] * 3


def test_succeeded_and_failed_are_kept_apart_and_each_id_appears_once(ledger: Ledger) -> None:
    job_id = ledger.submit(b"[]\n" + b'"x"\n' * 3, {"type": "jsonl"}, on_error="skip", params={"temperature": 1.0})
    ledger.ingest(job_id)

    job = finished(ledger, job_id, fail=1)

    output = [json.loads(line) for line in ledger.read(job.output_file_id).splitlines()]
    errors = [json.loads(line) for line in ledger.read(job.error_file_id).splitlines()]
    assert [line["custom_id"] for line in output] == ["line-3", "line-4"]
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [
        ("line-1", "invalid_input"),
        ("line-2", "engine_error"),
    ]


def test_csv_comes_back_with_its_columns_and_the_output(ledger: Ledger) -> None:
    data = b'id,text,note\n1,"a, b","two\nlines"\n2,c,x\n'
    job_id = ledger.submit(data, {"type": "csv", "id_column": "id"})
    ledger.ingest(job_id)

    job = finished(ledger, job_id)

    found = list(csv.reader(io.StringIO(ledger.read(job.output_file_id).decode())))
    assert found == [
        ["id", "text", "note", "output", "status", "error"],
        ["1", "a, b", "two\nlines", "out", "succeeded", ""],
        ["2", "c", "x", "out", "succeeded", ""],
    ]


def test_txt_output_answers_line_by_line(ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\n\nbad \xff\nfour\n", on_error="skip")
    ledger.ingest(job_id)

    job = finished(ledger, job_id)

    assert ledger.read(job.output_file_id) == b"out\n\n\nout\n"
    assert [json.loads(line)["custom_id"] for line in ledger.read(job.error_file_id).splitlines()] == ["line-3"]


def test_a_job_without_success_has_no_output_file(ledger: Ledger) -> None:
    job_id = ledger.started(2)

    job = finished(ledger, job_id, fail=2)

    assert job.status == "completed" and job.output_file_id is None and job.error_file_id is not None


def test_a_cancelled_job_keeps_what_is_finished(ledger: Ledger) -> None:
    job_id = ledger.started(4)
    ledger.recut(job_id, 2)
    claim = ledger.claim(job_id)
    assert claim
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim))
        jobs.cancel(session, ledger.tenant, job_id)

    job = finished(ledger, job_id)

    assert job.status == "cancelled"
    assert ledger.counts(job_id) == {"succeeded": 2, "cancelled": 2}
    assert len(ledger.read(job.output_file_id).splitlines()) == 4
    errors = [json.loads(line) for line in ledger.read(job.error_file_id).splitlines()]
    assert [(line["custom_id"], line["status"]) for line in errors] == [
        ("line-3", "cancelled"),
        ("line-4", "cancelled"),
    ]


def test_a_job_past_its_window_expires_and_keeps_what_is_finished(ledger: Ledger) -> None:
    job_id = ledger.started(4)
    ledger.recut(job_id, 2)
    claim = ledger.claim(job_id)
    assert claim
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim))
    ledger.run("UPDATE jobs SET expires_at = now() - interval '1 s'")
    with ledger.sessions.begin() as session:
        assert upkeep.expire_jobs(session) == [job_id]

    job = finished(ledger, job_id)

    assert job.status == "expired" and job.expired_at is not None
    assert ledger.counts(job_id) == {"succeeded": 2, "expired": 2}


def test_a_window_that_closes_while_results_are_written_changes_nothing(ledger: Ledger) -> None:
    job_id = ledger.started(1)
    claim = ledger.claim(job_id)
    assert claim
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim))
    ledger.run("UPDATE jobs SET expires_at = now() - interval '1 s'")
    with ledger.sessions.begin() as session:
        assert upkeep.expire_jobs(session) == []

    assert finished(ledger, job_id).status == "completed"


def test_a_job_whose_items_are_still_running_is_not_ended(ledger: Ledger) -> None:
    job_id = ledger.started(2)
    claim = ledger.claim(job_id)
    assert claim
    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, job_id)

    assert not ledger.finalize(job_id)
    assert ledger.job(job_id).status == "cancelling"
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, [])
    assert ledger.finalize(job_id)

    assert ledger.job(job_id).status == "cancelled"


def test_finalizing_twice_writes_once(ledger: Ledger) -> None:
    job_id = ledger.started(2)
    finished(ledger, job_id)

    assert not ledger.finalize(job_id)
    assert len(ledger.rows("SELECT id FROM files WHERE purpose = 'batch_output'")) == 1


def test_a_failed_finalization_leaves_no_files_behind(ledger: Ledger) -> None:
    job_id = ledger.started(2)
    claim = ledger.claim(job_id)
    assert claim
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim))
    ledger.run("ALTER TABLE files ADD CONSTRAINT no_output CHECK (purpose <> 'batch_output')")

    with pytest.raises(Exception, match="no_output"):
        ledger.finalize(job_id)

    assert sum(1 for path in ledger.folder.rglob("file-*")) == 1
    ledger.run("ALTER TABLE files DROP CONSTRAINT no_output")
    assert finished(ledger, job_id).status == "completed"
