"""Results are read in blocks, and each block costs what it holds, however far into the job it begins."""

import secrets
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from db import jobs, results
from db.recording import record
from tests.ledger import Ledger

LINES, AFTER, LIMIT = 5_000, 4_000, 100


@pytest.fixture
def finished(ledger: Ledger) -> str:
    """A job with a result for every line."""
    job_id = ledger.started(LINES)
    ledger.recut(job_id, LINES)
    while claim := ledger.claim(job_id):
        outcomes = ledger.outcomes(claim)
        with ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, outcomes)
    return job_id


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(results._FINISHED_BY_INDEX.rows, id="finished"),
        pytest.param(results._ALL_BY_INDEX.rows, id="all"),
        pytest.param(results._UNFINISHED_BY_INDEX.rows, id="unfinished"),
        pytest.param(results._FINISHED_BY_INDEX.sizes, id="sizes of finished"),
        pytest.param(results._ALL_BY_INDEX.sizes, id="sizes of all"),
        pytest.param(results._UNFINISHED_BY_INDEX.sizes, id="sizes of unfinished"),
    ],
)
def test_a_block_far_into_a_job_does_not_read_the_job_from_its_start(ledger: Ledger, finished: str, query: Any) -> None:
    with ledger.sessions() as session:
        # The plan that PostgreSQL chooses by itself for jobs of some hundred thousand lines.
        for kind in ("nestloop", "hashjoin", "seqscan"):
            session.execute(text(f"SET LOCAL enable_{kind} = off"))
        explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {query.text}")
        values = {"job": finished, "after": AFTER, "limit": LIMIT}
        [found] = session.execute(explain, values).scalar_one()

    scans = [node for node in _nodes(found["Plan"]) if "Scan" in node["Node Type"]]
    assert len(scans) >= 2
    assert max(node["Actual Rows"] * node["Actual Loops"] for node in scans) <= LINES - AFTER


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


@pytest.mark.parametrize("order", ["input", "finished"])
def test_long_rows_behind_short_ones_are_read_in_bounded_memory(ledger: Ledger, order: results.ResultOrder) -> None:
    """A line may ask for thousands of vectors, and be one of thousands of such lines."""
    short, long, size = 150, 60, 2**20
    job_id = ledger.started(short + long)
    while claim := ledger.claim(job_id):
        outcomes = [
            msgspec.structs.replace(one, output={"text": secrets.token_hex(size // 2) if one.idx >= short else ""})
            for one in sorted(ledger.outcomes(claim), key=lambda one: one.idx)
        ]
        with ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, outcomes)

    tracemalloc.start()
    lengths = [len(row.text) for row in results.rows(ledger.sessions, job_id, order=order)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert lengths == [0] * short + [size] * long
    assert peak < 3 * results.BLOCK_BYTES


def test_a_row_says_what_was_at_fault_and_when_it_was_finished(ledger: Ledger) -> None:
    job_id = ledger.submit(b'{"text": "x"}\n{"text": ""}\n', {"type": "jsonl"}, on_error="skip")
    ledger.ingest(job_id)
    [settled_at] = ledger.rows("SELECT extract(epoch FROM finished_at) AS seconds FROM results")

    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, job_id)
    ledger.finalize(job_id)
    unrun, refused = results.rows(ledger.sessions, job_id)

    assert (unrun.status, unrun.error_param, unrun.finished_at) == ("cancelled", None, None)
    assert (refused.error_code, refused.error_param) == ("empty_text", "text")
    assert refused.finished_at == float(settled_at.seconds)
