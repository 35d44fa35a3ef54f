"""Everybody working properly until every job has ended, step by step in one thread."""

from db import chunks, steps
from db.audit import audit
from tests.ledger import Ledger
from workers.reconcile import Reconciler

_ROUNDS = 50


def let_leases_run_out(ledger: Ledger) -> None:
    """Whoever held them is gone."""
    ledger.run("UPDATE chunks SET lease_expires_at = now() - interval '1 s' WHERE state = 'leased'")
    ledger.run("UPDATE jobs SET step_expires_at = now() - interval '1 s' WHERE step_expires_at IS NOT NULL")


def finish(ledger: Ledger) -> None:
    """Do what is due until nothing is."""
    for _ in range(_ROUNDS):
        Reconciler(ledger.sessions, ledger.store, ledger.bell).run()
        with ledger.sessions() as session:
            unread = steps.due(session, "ingest")
        for job_id in unread:
            ledger.ingest(job_id)
        with ledger.sessions() as session:
            candidates = chunks.candidates(session, ["echo"], [])
        for candidate in candidates:
            while claim := ledger.claim(candidate.job_id):
                ledger.record(claim)
        with ledger.sessions() as session:
            unfinished = steps.due(session, "finalize")
        for job_id in unfinished:
            ledger.finalize(job_id)
        if not (unread or candidates or unfinished):
            return
    raise AssertionError(f"there is still something to do after {_ROUNDS} rounds")


def is_sound(ledger: Ledger, job_id: str) -> bool:
    with ledger.sessions() as session:
        return audit(session, ledger.tenant, job_id).ok
