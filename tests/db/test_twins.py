"""Equal inputs of a job are computed once, however far apart they stand."""

from pathlib import Path
from typing import Any

import pytest

from db import chunks, leases
from db.audit import audit
from db.chunks import Claim
from db.doorbell import WORK
from db.recording import record
from db.states import ChunkState
from models.registry import Registry
from tests.db.test_retry_selection import child_of
from tests.ledger import Ledger
from tests.pipeline import ended, running, spec
from tests.waiting import eventually

DATA = b"a 1\nb 1\nc 1\na 1\nd 1\nb 1\ne 1\na 1\na 1\n"
SAME_AS = [None, None, None, 0, None, 1, None, 0, 0]


@pytest.fixture(autouse=True)
def small_windows(ledger: Ledger) -> None:
    """Windows of three lines, so that what spans windows can be seen on a few lines."""
    ledger.window_items = 3


def ingested(ledger: Ledger, data: bytes = DATA, **fields: Any) -> str:
    job_id = ledger.submit(data, **fields)
    assert ledger.ingest(job_id)
    return job_id


def same_as(ledger: Ledger, job_id: str) -> list[int | None]:
    rows = ledger.rows("SELECT same_as FROM items WHERE job_id = :job ORDER BY idx", job=job_id)
    return [row.same_as for row in rows]


def cut(ledger: Ledger, job_id: str) -> list[tuple[bool, int, int]]:
    """Of every chunk whether it is of twins, its items and its tokens."""
    rows = ledger.rows("SELECT of_twins, items, tokens FROM chunks WHERE job_id = :job ORDER BY id", job=job_id)
    return [tuple(row) for row in rows]


def outcomes(ledger: Ledger, job_id: str) -> list[str]:
    """The text of each item, or the code it failed with."""
    rows = ledger.rows(
        "SELECT coalesce(output ->> 'text', error_code) AS said FROM results WHERE job_id = :job ORDER BY idx",
        job=job_id,
    )
    return [row.said for row in rows]


def asked(log: Path) -> list[str]:
    """Every text that the engine was given, in order of the alphabet."""
    return sorted(log.read_text().splitlines()) if log.exists() else []


def open_firsts(ledger: Ledger, job_id: str) -> list[Claim]:
    """All chunks that are not of twins, claimed."""
    claims = []
    while (claim := ledger.claim(job_id)) is not None:
        claims.append(claim)
    return claims


def offered(ledger: Ledger) -> list[str]:
    """The jobs that workers look at."""
    with ledger.sessions() as session:
        return [candidate.job_id for candidate in chunks.candidates(session, ["echo"], ["echo"])]


def test_twins_of_earlier_windows_have_chunks_of_their_own_that_cost_nothing(ledger: Ledger) -> None:
    job_id = ingested(ledger)

    assert same_as(ledger, job_id) == SAME_AS
    assert [(of_twins, items) for of_twins, items, _ in cut(ledger, job_id)] == [
        (False, 3), (False, 1), (True, 2), (False, 1), (True, 2)
    ]  # fmt: skip
    assert all((tokens == 0) == of_twins for of_twins, _, tokens in cut(ledger, job_id))
    job = ledger.job(job_id)
    assert job.queued == 9 and job.queued_tokens == sum(tokens for _, _, tokens in cut(ledger, job_id))


def test_the_engine_is_asked_once_for_each(ledger: Ledger, tmp_path: Path) -> None:
    job_id = ingested(ledger)

    with running(ledger, spec(log=str(tmp_path / "log"))):
        job = ended(ledger, job_id)

    assert asked(tmp_path / "log") == ["a 1", "b 1", "c 1", "d 1", "e 1"]
    assert outcomes(ledger, job_id) == ["a 1", "b 1", "c 1", "a 1", "d 1", "b 1", "e 1", "a 1", "a 1"]
    assert (job.succeeded, job.input_tokens, job.output_tokens) == (9, 10, 10)
    assert (job.same_items, job.cached_items, job.saved_input_tokens, job.saved_output_tokens) == (4, 0, 8, 8)
    [row] = ledger.rows("SELECT output FROM results WHERE idx = 8")
    assert row.output["reused"] == {"input_tokens": 2, "output_tokens": 2}


def test_twins_of_one_window_are_reported_too(ledger: Ledger) -> None:
    job_id = ingested(ledger, b"two words\nother\ntwo words\n")

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.same_items, job.saved_input_tokens, job.saved_output_tokens) == (1, 2, 2)


def test_equal_ones_that_run_with_other_parameters_are_no_twins(ledger: Ledger) -> None:
    lines = b'{"text": "a", "params": {"num_beams": %d}}\n'
    job_id = ingested(ledger, b"".join(lines % beams for beams in (1, 2, 3, 2, 4, 5)), format={"type": "jsonl"})

    assert same_as(ledger, job_id) == [None, None, None, 1, None, None]


def test_samples_are_never_shared(ledger: Ledger) -> None:
    job_id = ingested(ledger, params={"temperature": 0.7})

    assert same_as(ledger, job_id) == [None] * 9 and not any(of_twins for of_twins, _, _ in cut(ledger, job_id))


def test_an_ingest_that_starts_over_finds_the_same_twins(ledger: Ledger) -> None:
    job_id = ingested(ledger)
    ledger.run("""
        UPDATE jobs SET status = 'validating', in_progress_at = NULL, step_owner = 'dead',
            step_expires_at = now() - interval '1 s'
    """)

    assert ledger.ingest(job_id, "second")

    assert same_as(ledger, job_id) == SAME_AS and ledger.counts(job_id) == {"queued": 9}


def test_twins_wait_for_the_last_that_they_may_be_equal_to(ledger: Ledger) -> None:
    job_id = ingested(ledger)
    claims = open_firsts(ledger, job_id)
    assert sum(claim.items for claim in claims) == 5 and ledger.counts(job_id) == {"running": 5, "queued": 4}
    assert offered(ledger) == []

    for claim in claims[:-1]:
        with ledger.sessions.begin() as session:
            recorded = record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim))
        assert not recorded.is_idle and ledger.claim(job_id) is None and offered(ledger) == []
    with ledger.sessions.begin() as session:
        recorded = record(session, claims[-1].chunk_id, claims[-1].attempt, ledger.outcomes(claims[-1]))

    # Somebody has to say so, or workers would come by only when they next look.
    assert recorded.is_idle and not recorded.finalize
    assert offered(ledger) == [job_id]
    assert ledger.claim(job_id) is not None and ledger.claim(job_id) is not None


def test_who_records_the_last_first_rings_for_the_twins(ledger: Ledger) -> None:
    job_id = ingested(ledger, b"a\nb\nc\na\n")

    with running(ledger):
        eventually(lambda: ledger.job(job_id).succeeded == 4, 20)

    # For ingest, for both claims, and in between.
    assert ledger.bell.rings.count((WORK, "echo")) >= 4


def test_of_one_that_failed_for_good_the_twins_fail_alike(ledger: Ledger, tmp_path: Path) -> None:
    long = b"word " * 2_000
    job_id = ingested(ledger, long + b"\nb\nc\nd\n" + long + b"\nf\n")

    with running(ledger, spec(log=str(tmp_path / "log"))):
        job = ended(ledger, job_id)

    assert outcomes(ledger, job_id) == ["input_too_long", "b", "c", "d", "input_too_long", "f"]
    assert (job.failed, job.same_items, job.saved_input_tokens) == (2, 0, 0)


def test_one_that_failed_as_it_happened_is_computed_for_its_twins(ledger: Ledger, tmp_path: Path) -> None:
    job_id = ingested(ledger)
    for claim in open_firsts(ledger, job_id):
        ledger.record(claim, fail=claim.items)

    with running(ledger, spec(log=str(tmp_path / "log"))):
        job = ended(ledger, job_id)

    # Once for a chunk of twins: "a" for the second window and for the third, "b" for the second.
    assert asked(tmp_path / "log") == ["a 1", "a 1", "b 1"]
    assert outcomes(ledger, job_id) == [
        "engine_error", "engine_error", "engine_error", "a 1", "engine_error", "b 1", "engine_error", "a 1", "a 1"
    ]  # fmt: skip
    assert (job.succeeded, job.failed, job.input_tokens, job.same_items) == (4, 5, 6, 1)


def test_twins_whose_first_is_not_done_yet_are_computed(ledger: Ledger, tmp_path: Path) -> None:
    """However it comes that they are claimed before it."""
    job_id = ingested(ledger, b"a 1\nb 1\nc 1\na 1\n")
    held = ledger.claim(job_id)
    assert held is not None
    ledger.run("UPDATE chunks SET of_twins = false")

    with running(ledger, spec(log=str(tmp_path / "log"))):
        eventually(lambda: ledger.job(job_id).succeeded == 1, 20)
        ledger.record(held, output={"text": "late", "finish_reason": "stop"})
        job = ended(ledger, job_id)

    assert asked(tmp_path / "log") == ["a 1"]
    assert outcomes(ledger, job_id) == ["late", "late", "late", "a 1"] and job.same_items == 0


def test_twins_whose_first_was_handed_back_wait_on(ledger: Ledger) -> None:
    job_id = ingested(ledger, b"a 1\nb 1\nc 1\na 1\n")
    held = ledger.claim(job_id)
    assert held is not None
    with ledger.sessions.begin() as session:
        record(session, held.chunk_id, held.attempt, [])

    again = ledger.claim(job_id)

    assert again is not None and again.chunk_id == held.chunk_id and ledger.claim(job_id) is None


def test_a_chunk_of_twins_whose_workers_died_is_split_and_copied(ledger: Ledger, tmp_path: Path) -> None:
    job_id = ingested(ledger, b"a 1\nb 1\nc 1\na 1\nb 1\na 1\n")
    [first] = open_firsts(ledger, job_id)
    ledger.record(first)
    for state in (ChunkState.READY, ChunkState.SPLIT):
        claim = ledger.claim(job_id)
        assert claim is not None and claim.items == 3
        ledger.lapse(claim)
        with ledger.sessions.begin() as session:
            reclaimed = leases.reclaim(session)
        assert reclaimed is not None and reclaimed.state is state

    assert cut(ledger, job_id)[2:] == [(True, 2, 0), (True, 1, 0)]
    with running(ledger, spec(log=str(tmp_path / "log"))):
        ended(ledger, job_id)

    assert asked(tmp_path / "log") == []
    assert outcomes(ledger, job_id) == ["out"] * 6


def test_what_failed_together_is_retried_together(ledger: Ledger, tmp_path: Path) -> None:
    parent = ingested(ledger, b"[[fail]]\nb\nc\nd\ne\n[[fail]]\n")
    with running(ledger):
        assert ended(ledger, parent).failed == 2

    child = child_of(ledger, parent)
    assert ledger.ingest(child)
    assert same_as(ledger, child) == [None, 0]
    with running(ledger, spec(markers=False, log=str(tmp_path / "log"))):
        job = ended(ledger, child)

    assert asked(tmp_path / "log") == ["[[fail]]"] and (job.succeeded, job.same_items) == (2, 1)


def test_a_cancelled_job_leaves_its_twins_cancelled(ledger: Ledger) -> None:
    job_id = ingested(ledger)
    claims = open_firsts(ledger, job_id)
    ledger.record(claims[0])
    ledger.run("UPDATE jobs SET status = 'cancelling', cancelling_at = now(), version = version + 1")
    for claim in claims[1:]:
        with ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, [])

    assert ledger.finalize(job_id)

    assert ledger.counts(job_id) == {"succeeded": 3, "cancelled": 6}
    with ledger.sessions() as session:
        found = audit(session, ledger.tenant, job_id)
    assert found.ok, found


def test_several_models_have_their_twins_each(ledger: Ledger, tmp_path: Path) -> None:
    logs = {name: tmp_path / name for name in ("echo", "loud")}
    specs = [spec(name, log=str(log), transform="upper" if name == "loud" else "none") for name, log in logs.items()]
    ledger.registry = Registry(specs)
    line = b'{"custom_id": "%d", "method": "POST", "url": "/v1/translations", "body": {"model": "%s", "input": "a"}}\n'
    data = b"".join(line % (number, b"loud" if number % 2 else b"echo") for number in range(7))
    job_id = ingested(ledger, data, format={"type": "jsonl"}, model=None, dialect="openai", endpoint="/v1/translations")
    assert same_as(ledger, job_id) == [None, None, 0, 1, 0, 1, 0]

    with running(ledger, *specs):
        job = ended(ledger, job_id)

    assert [asked(log) for log in logs.values()] == [["a"], ["a"]]
    assert outcomes(ledger, job_id) == ["a", "A", "a", "A", "a", "A", "a"] and job.same_items == 5
