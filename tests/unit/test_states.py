"""The tables of states, exhaustively."""

from itertools import product

import pytest

from db.states import NEXT_CHUNK, NEXT_JOB, ChunkState, Count, JobStatus, is_final, leftover, may_become

LEGAL_JOB = {
    ("validating", "in_progress"),
    ("validating", "finalizing"),
    ("validating", "failed"),
    ("validating", "cancelling"),
    ("in_progress", "finalizing"),
    ("in_progress", "cancelling"),
    ("finalizing", "completed"),
    ("finalizing", "expired"),
    ("finalizing", "failed"),
    ("cancelling", "cancelled"),
}
LEGAL_CHUNK = {("ready", "leased"), ("ready", "done"), ("leased", "done"), ("leased", "ready"), ("leased", "split")}


@pytest.mark.parametrize(("now", "wanted"), list(product(JobStatus, JobStatus)))
def test_every_pair_of_job_states_is_legal_or_not_as_drawn(now: JobStatus, wanted: JobStatus) -> None:
    assert may_become(now, wanted) == ((now.value, wanted.value) in LEGAL_JOB)


@pytest.mark.parametrize(("now", "wanted"), list(product(ChunkState, ChunkState)))
def test_every_pair_of_chunk_states_is_legal_or_not_as_drawn(now: ChunkState, wanted: ChunkState) -> None:
    assert (wanted in NEXT_CHUNK[now]) == ((now.value, wanted.value) in LEGAL_CHUNK)


def test_every_state_can_reach_a_final_one() -> None:
    def reaches_end(status: JobStatus, seen: frozenset[JobStatus]) -> bool:
        return is_final(status) or any(reaches_end(after, seen | {after}) for after in NEXT_JOB[status] - seen)

    assert all(reaches_end(status, frozenset({status})) for status in JobStatus)


def test_the_final_states_are_the_four_of_the_openai_contract() -> None:
    assert {status for status in JobStatus if is_final(status)} == {"completed", "failed", "expired", "cancelled"}


@pytest.mark.parametrize("status", JobStatus)
def test_unfinished_items_are_cancelled_only_by_a_cancel(status: JobStatus) -> None:
    expected = Count.CANCELLED if status.value.startswith("cancel") else Count.EXPIRED
    assert leftover(status) is expected
