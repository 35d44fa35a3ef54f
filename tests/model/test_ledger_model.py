"""The short form of the ledger's model, and that it finds what it looks for. `make ledger-model` is the long one."""

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import chunks, webhooks
from tests.ledger import Ledger
from tests.model.expectations import Lease, Violation
from tests.model.invariants import ALWAYS, INVARIANTS
from tests.model.machine import LedgerMachine
from tests.model.run import run
from tests.model.world import World

# Another number tries other things; this one is as good as any.
_NUMBER, _RUNS, _STEPS = 5, 20, 50
_RUNS_TO_FIND = 200


class Unfenced(LedgerMachine):
    """Workers whose results carry the attempt that holds the chunk now, whoever made it."""

    def fence(self, session: Session, lease: Lease) -> int:
        now = session.scalar(text("SELECT attempt FROM chunks WHERE id = :id"), {"id": lease.claim.chunk_id})
        return lease.claim.attempt if now is None else now


def test_whoever_does_what_and_when_the_ledger_keeps_its_promises(world: World) -> None:
    run(LedgerMachine, world, _RUNS, _STEPS, _NUMBER)


def test_without_the_fence_the_model_finds_what_it_would_do(world: World) -> None:
    with pytest.raises(Violation, match="lease"):
        run(Unfenced, world, _RUNS_TO_FIND, _STEPS, _NUMBER, shorten=False)


DAMAGE = {
    "the counts are those of the rows": ["UPDATE jobs SET succeeded = succeeded - 1, failed = failed + 1"],
    "an open chunk counts its items without a result": [
        "UPDATE chunks SET items = items + 1 WHERE state = 'ready'",
        "UPDATE jobs SET queued = queued + 1, total = total + 1",
    ],
    "no item is left behind": ["UPDATE chunks SET state = 'split' WHERE state = 'ready'"],
    "a result belongs to an item, and to an attempt at its chunk": [
        "UPDATE results SET attempt = attempt + 1 WHERE chunk_id IS NOT NULL"
    ],
    "a chunk is leased, or it has no lease": ["UPDATE chunks SET lease_owner = 'me' WHERE state = 'ready'"],
    "no lease outlives its hard deadline": ["UPDATE chunks SET lease_expires_at = hard_deadline + interval '1 s'"],
    "deaths are bounded": [f"UPDATE chunks SET crashes = {chunks.MAX_CRASHES + 1}"],
    "a job that has ended has nothing open, and ended once": ["UPDATE jobs SET completed_at = now()"],
    "a running job has something to run": [
        "UPDATE jobs SET cancelled = queued + running, queued = 0, running = 0",
    ],
    "only what runs or ends is leased": ["UPDATE jobs SET status = 'validating'"],
    "items and results are numbered without gaps": ["UPDATE results SET seq = seq + 1 WHERE seq = 2"],
    "what is one tenant's belongs to no other": [
        "INSERT INTO tenants (id, name) VALUES ('ten_other', 'other')",
        "UPDATE files SET tenant_id = 'ten_other'",
    ],
    "an end is told once to everyone who wants to hear of it": [
        "UPDATE jobs SET status = 'completed', completed_at = now()"
    ],
    "usage has everything that was run": ["UPDATE usage_days SET succeeded = succeeded - 1"],
    "an outcome that is to be had from a file is in one": [
        "UPDATE jobs SET status = 'completed', completed_at = now()"
    ],
}


def test_every_invariant_has_damage_to_notice() -> None:
    assert DAMAGE.keys() == INVARIANTS.keys()


@pytest.mark.parametrize("name", INVARIANTS)
def test_an_invariant_notices_the_damage_it_is_there_for(ledger: Ledger, name: str) -> None:
    """The job has a chunk that is done, one that is leased and one that is ready."""
    job_id = ledger.started(6)
    ledger.recut(job_id, 2)
    with ledger.sessions.begin() as session:
        webhooks.create(session, ledger.tenant, "https://example.com/", ["job.*"], ALWAYS)
    done = ledger.claim(job_id)
    assert done
    ledger.record(done)
    assert ledger.claim(job_id)
    query = f"SELECT CAST(id AS text) FROM ({INVARIANTS[name]}) AS broken(id)"
    assert ledger.rows(query) == []

    for statement in DAMAGE[name]:
        ledger.run(statement)

    assert ledger.rows(query) != []


def test_the_model_counts_no_death_of_a_worker_that_is_alive(world: World) -> None:
    machine = type("Bound", (LedgerMachine,), {"world": world})()
    machine.subscribe()
    machine.begin_with_a_running_job(["a", "b"], 0, "host/one:")
    machine.holds()
    [job_id] = machine.jobs
    machine.let_a_lease_run_out(0)
    machine.holds()
    machine.reclaim(False)
    machine.holds()
    assert set(machine.jobs[job_id].deaths.values()) == {1}

    machine.acquit(0, False)
    machine.holds()

    assert set(machine.jobs[job_id].deaths.values()) == {0}
    assert machine.lost() == []
    machine.teardown()


def test_the_model_tells_a_late_worker_from_the_one_that_came_after(world: World) -> None:
    machine = type("Bound", (LedgerMachine,), {"world": world})()
    machine.subscribe()
    machine.begin_with_a_running_job(["a", "b"], 0, "host/one:")
    machine.holds()
    [job_id] = machine.jobs
    machine.let_a_lease_run_out(0)
    machine.holds()
    machine.reclaim(False)
    machine.holds()
    machine.claim("host/two:", 0, False)
    machine.holds()

    machine.record_late(0, False)
    machine.holds()
    assert machine.jobs[job_id].recorded == {}
    machine.record(0, 0, False)
    machine.holds()

    assert [said for _, said in machine.jobs[job_id].recorded.values()] == [
        row.said for row in machine.results.values()
    ]
    assert all(row.attempt == 2 and row.said.startswith("host/two:") for row in machine.results.values())
    machine.teardown()
