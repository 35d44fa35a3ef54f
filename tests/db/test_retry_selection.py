"""A job that repeats what another has not finished: the same lines, the same ids, and none that succeeded."""

from typing import Any

import pytest

from db import jobs
from db.audit import audit
from db.errors import NotFound
from db.intake import Unfinished, unfinished
from tests.ledger import Ledger, json_lines
from tests.pipeline import ended, running
from workers.selection import BLOCK_ITEMS

JSONL = {"type": "jsonl"}


def child_of(ledger: Ledger, parent_id: str, **fields: Any) -> str:
    parent = ledger.job(parent_id)
    new = jobs.NewJob(
        jobs.new_job_id(),
        parent.task,
        parent.model,
        parent.params,
        parent.format,
        on_error=parent.on_error,
        input_file_id=parent.input_file_id,
        parent_id=parent_id,
        selection="unfinished",
        **fields,
    )
    with ledger.sessions.begin() as session:
        jobs.submit(session, ledger.tenant, new)
    return new.id


def fail(ledger: Ledger, job_id: str, *idxs: int) -> None:
    """Make the job one that failed at these items, as if its model had."""
    ledger.run("DELETE FROM results WHERE job_id = :job", job=job_id)
    ledger.run(
        """
        INSERT INTO results (job_id, idx, seq, outcome, output, error_code, error_message)
        SELECT job_id, idx, idx + 1, CASE WHEN idx = ANY(:idxs) THEN 'failed' ELSE 'succeeded' END,
            CASE WHEN idx = ANY(:idxs) THEN NULL ELSE CAST('{"text": "out"}' AS jsonb) END,
            CASE WHEN idx = ANY(:idxs) THEN 'engine_error' END, CASE WHEN idx = ANY(:idxs) THEN 'told to' END
        FROM items WHERE job_id = :job
        """,
        job=job_id,
        idxs=list(idxs),
    )
    ledger.run("UPDATE chunks SET state = 'done' WHERE job_id = :job", job=job_id)
    ledger.run(
        """
        UPDATE jobs SET status = 'finalizing', finalizing_at = now(), failed = :failed, succeeded = total - :failed,
            queued = 0, running = 0, queued_tokens = 0 WHERE id = :job
        """,
        job=job_id,
        failed=len(idxs),
    )
    assert ledger.finalize(job_id)


def items(ledger: Ledger, job_id: str) -> list[tuple[int, int, str]]:
    found = ledger.rows("SELECT idx, line, custom_id FROM items WHERE job_id = :job ORDER BY idx", job=job_id)
    return [tuple(row) for row in found]


def test_only_what_has_not_succeeded_runs_again_under_its_own_name(ledger: Ledger) -> None:
    parent = ledger.started(20)
    fail(ledger, parent, 3, 4, 17)

    child = child_of(ledger, parent)
    assert ledger.ingest(child)
    with running(ledger):
        job = ended(ledger, child)

    assert items(ledger, child) == [(0, 4, "line-4"), (1, 5, "line-5"), (2, 18, "line-18")]
    assert (job.status, job.total, job.succeeded) == ("completed", 3, 3)


def test_a_child_answers_the_lines_of_its_file_in_their_places(ledger: Ledger) -> None:
    parent = ledger.submit(b"one\ntwo\nthree\nfour\n")
    ledger.ingest(parent)
    fail(ledger, parent, 1, 3)

    child = child_of(ledger, parent)
    ledger.ingest(child)
    with running(ledger):
        job = ended(ledger, child)

    assert ledger.read(job.output_file_id) == b"\ntwo\n\nfour\n"


def test_selection_goes_over_many_windows_and_blocks(ledger: Ledger) -> None:
    lines = 2 * BLOCK_ITEMS + 5_000
    parent = ledger.started(lines)
    wanted = [*range(BLOCK_ITEMS + 10), lines - 3, lines - 1]
    fail(ledger, parent, *wanted)

    child = child_of(ledger, parent)
    ledger.ingest(child)

    assert [(idx, line - 1) for idx, line, _ in items(ledger, child)] == list(enumerate(wanted))
    assert ledger.counts(child) == {"queued": len(wanted)}
    with ledger.sessions() as session:
        assert audit(session, ledger.tenant, child).ok


def test_a_child_of_a_child_takes_what_is_left_of_the_child(ledger: Ledger) -> None:
    first = ledger.started(10)
    fail(ledger, first, 2, 5, 7)
    second = child_of(ledger, first)
    ledger.ingest(second)
    fail(ledger, second, 1)

    third = child_of(ledger, second)
    ledger.ingest(third)

    assert items(ledger, third) == [(0, 6, "line-6")]


def test_twins_whose_original_failed_are_twins_again(ledger: Ledger) -> None:
    parent = ledger.submit(b"same\nother\nsame\nsame\n")
    ledger.ingest(parent)
    fail(ledger, parent, 0, 2)

    child = child_of(ledger, parent)
    ledger.ingest(child)

    found = ledger.rows("SELECT idx, line, same_as FROM items WHERE job_id = :job ORDER BY idx", job=child)
    assert [tuple(row) for row in found] == [(0, 1, None), (1, 3, 0)]


def test_refused_lines_are_refused_again_in_the_same_words(ledger: Ledger) -> None:
    data = json_lines(
        {"custom_id": "a", "text": "x"}, {}, {"custom_id": "a", "text": "y"}, {"custom_id": "b", "text": "z"}
    )
    parent = ledger.submit(data, JSONL, on_error="skip")
    ledger.ingest(parent)
    claim = ledger.claim(parent)
    assert claim is not None
    ledger.record(claim)
    ledger.finalize(parent)

    child = child_of(ledger, parent)
    ledger.ingest(child)

    assert ledger.counts(child) == {"failed": 2}
    query = "SELECT item.line, error_code, error_message FROM results JOIN items item USING (job_id, idx)"
    said = {
        job_id: [tuple(row) for row in ledger.rows(f"{query} WHERE job_id = :job AND outcome = 'failed'", job=job_id)]
        for job_id in (parent, child)
    }
    assert said[parent] == said[child] and [code for _, code, _ in said[child]] == [
        "missing_text",
        "duplicate_custom_id",
    ]
    # The id is the other line's, which is not of this job: a client that looks by id must not find a failure.
    assert [custom_id for *_, custom_id in items(ledger, child)] == ["line-2", "line-3"]


def test_cancelled_and_expired_items_are_unfinished(ledger: Ledger) -> None:
    parent = ledger.started(4)
    ledger.recut(parent, 2)
    claim = ledger.claim(parent)
    assert claim is not None
    ledger.record(claim, fail=1)
    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, parent)
    ledger.finalize(parent)
    assert ledger.counts(parent) == {"succeeded": 1, "failed": 1, "cancelled": 2}

    child = child_of(ledger, parent)
    ledger.ingest(child)

    assert [line for _, line, _ in items(ledger, child)] == [1, 3, 4]


def test_a_child_whose_parent_is_deleted_fails_and_says_why(ledger: Ledger) -> None:
    parent = ledger.started(3)
    fail(ledger, parent, 1)
    child = child_of(ledger, parent)
    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, parent)

    ledger.ingest(child)

    job = ledger.job(child)
    assert (job.status, job.total, job.parent_id) == ("failed", 0, None)
    assert [problem["code"] for problem in job.errors["data"]] == ["parent_deleted"]


def test_what_is_unfinished_is_not_told_of_a_job_that_is_gone(ledger: Ledger) -> None:
    parent = ledger.started(3)
    fail(ledger, parent, 1)
    with ledger.sessions() as session:
        assert unfinished(session, parent, -1, 10) == [Unfinished(1, 2, None)]
    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, parent)

    with ledger.sessions() as session, pytest.raises(NotFound):
        unfinished(session, parent, -1, 10)


def test_a_child_with_nothing_to_do_fails(ledger: Ledger) -> None:
    parent = ledger.started(3)
    fail(ledger, parent)

    child = child_of(ledger, parent)
    ledger.ingest(child)

    job = ledger.job(child)
    assert job.status == "failed" and job.errors["data"][0]["code"] == "nothing_to_retry"
