"""An ingest that starts over removes what the one before it wrote, and may be cut short while it does."""

from db import intake, jobs, steps
from db.audit import audit
from db.steps import StepLease
from tests.ledger import Ledger

# Two bad lines among good ones, and two good ones that are equal.
LINES = b'"one"\n{\n"two"\n"one"\n[]\n"three"\n'


def half_read(ledger: Ledger) -> tuple[str, StepLease]:
    """A job whose ingest wrote all of its items and died before it could say so; and the lease of the next one."""
    job_id = ledger.submit(LINES, {"type": "jsonl"}, on_error="skip")
    assert ledger.ingest(job_id)
    ledger.run("UPDATE jobs SET status = 'validating', in_progress_at = NULL WHERE id = :job", job=job_id)
    with ledger.sessions.begin() as session:
        lease = steps.take(session, job_id, "ingest", "successor")
    assert lease is not None
    return job_id, lease


def clear(ledger: Ledger, lease: StepLease, items: int) -> bool:
    with ledger.sessions.begin() as session:
        return intake.clear(session, lease, items)


def test_a_job_cancelled_while_its_items_are_removed_ends_with_those_that_are_left(ledger: Ledger) -> None:
    job_id, lease = half_read(ledger)

    assert not clear(ledger, lease, 2)
    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, job_id)
        steps.leave(session, lease)
    assert ledger.finalize(job_id)

    assert ledger.counts(job_id) == {"failed": 1, "cancelled": 3}
    assert [row.idx for row in ledger.rows("SELECT idx FROM items ORDER BY idx")] == [0, 1, 2, 3]
    assert [tuple(row) for row in ledger.rows("SELECT idx, seq FROM results")] == [(1, 1)]
    with ledger.sessions() as session:
        assert audit(session, ledger.tenant, job_id).ok


def test_counts_follow_the_items_part_by_part(ledger: Ledger) -> None:
    job_id, lease = half_read(ledger)
    whole = ledger.job(job_id).queued_tokens

    seen = []
    while not clear(ledger, lease, 1):
        job = ledger.job(job_id)
        seen.append((job.total, job.queued, job.failed))
        [tokens] = ledger.rows("SELECT coalesce(sum(tokens), 0) AS sum FROM chunks")
        assert job.queued_tokens == tokens.sum < whole

    assert seen == [(5, 3, 2), (4, 3, 1), (3, 2, 1), (2, 1, 1), (1, 1, 0), (0, 0, 0)]
    assert ledger.rows("SELECT 1 FROM items") == ledger.rows("SELECT 1 FROM results") == []
    assert ledger.rows("SELECT 1 FROM chunks") == []
    assert ledger.job(job_id).queued_tokens == 0
