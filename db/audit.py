"""The ledger's six invariants, computed for one job from the rows themselves."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import jobs
from db.states import JobStatus, is_final

# Longer than the reconciler sleeps, even if one of its rounds is slow.
STALE_LEASE_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant: what the job's row says, and what the rows it speaks of say."""

    name: str
    expected: Any
    found: Any

    @property
    def ok(self) -> bool:
        return bool(self.expected == self.found)


@dataclass(frozen=True, slots=True)
class Audit:
    job_id: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


# One statement is one snapshot: a chunk recorded meanwhile is seen whole or not at all.
_FACTS = text("""
    SELECT job.status, job.total, job.queued, job.running, job.succeeded, job.failed, job.cancelled, job.expired,
        result.*, item.*, chunk.*,
        job.output_file_id IS NULL OR EXISTS (SELECT FROM files WHERE files.id = job.output_file_id) AS has_output,
        CASE job.status WHEN 'completed' THEN completed_at WHEN 'failed' THEN failed_at WHEN 'expired' THEN expired_at
            WHEN 'cancelled' THEN cancelled_at END AS ended_at,
        (completed_at IS NOT NULL)::int + (failed_at IS NOT NULL)::int + (expired_at IS NOT NULL)::int
            + (cancelled_at IS NOT NULL)::int AS ends
    FROM jobs job
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE outcome = 'succeeded') AS results_succeeded,
            count(*) FILTER (WHERE outcome = 'failed') AS results_failed,
            count(DISTINCT idx) AS answered, coalesce(max(seq), 0) AS last_seq, max(finished_at) AS last_finished,
            count(*) FILTER (WHERE NOT EXISTS (
                SELECT FROM items i WHERE i.job_id = r.job_id AND i.idx = r.idx)) AS results_without_item
        FROM results r WHERE r.job_id = job.id) AS result
    CROSS JOIN LATERAL (
        SELECT count(*) AS items, count(DISTINCT custom_id) AS custom_ids FROM items i WHERE i.job_id = job.id) AS item
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(items) FILTER (WHERE state = 'ready'), 0) AS ready_items,
            coalesce(sum(items) FILTER (WHERE state = 'leased'), 0) AS leased_items,
            count(*) FILTER (WHERE state IN ('ready', 'leased')) AS open_chunks,
            count(*) FILTER (WHERE state = 'leased' AND (lease_expires_at IS NULL
                OR lease_expires_at < now() - :stale * interval '1 second')) AS stale_leases
        FROM chunks c WHERE c.job_id = job.id) AS chunk
    WHERE job.id = :job AND job.tenant_id = :tenant
""")


def audit(session: Session, tenant_id: str, job_id: str) -> Audit:
    """Count everything; for people and tests, not for hot paths. NotFound as for any look at a job."""
    jobs.get(session, tenant_id, job_id)
    facts = session.execute(_FACTS, {"job": job_id, "tenant": tenant_id, "stale": STALE_LEASE_SECONDS}).one()
    return Audit(job_id, tuple(_checks(facts)))


def _checks(facts: Any) -> list[Check]:
    settled = facts.succeeded + facts.failed
    final = is_final(JobStatus(facts.status))
    checks = [
        Check(
            "results_are_counted",
            {"succeeded": facts.succeeded, "failed": facts.failed, "last_seq": settled},
            {"succeeded": facts.results_succeeded, "failed": facts.results_failed, "last_seq": facts.last_seq},
        ),
        Check(
            "one_result_per_item",
            {"items_with_result": facts.total if facts.status == JobStatus.COMPLETED else settled, "without_item": 0},
            {"items_with_result": facts.answered, "without_item": facts.results_without_item},
        ),
        Check(
            "counts_are_conserved",
            {"sum_of_counts": facts.total, "items": facts.total, "queued": facts.queued, "running": facts.running},
            {
                "sum_of_counts": settled + facts.queued + facts.running + facts.cancelled + facts.expired,
                "items": facts.items,
                "queued": facts.ready_items,
                "running": facts.leased_items,
            },
        ),
        Check("leases_are_alive", {"stale_leases": 0}, {"stale_leases": facts.stale_leases}),
        Check(
            "custom_ids_appear_once",
            {"custom_ids": facts.items, "output_file": True},
            {"custom_ids": facts.custom_ids, "output_file": facts.has_output},
        ),
        Check("final_jobs_stay_final", _stillness(final), _stillness_of(facts, final)),
    ]
    # An ingest that starts over removes rows in parts and its counts at the end; nothing is promised until then.
    is_open = facts.status == JobStatus.VALIDATING
    return [Check(check.name, None, None) if is_open and check.name in _NOT_YET else check for check in checks]


_NOT_YET = {"results_are_counted", "one_result_per_item", "counts_are_conserved"}


def _stillness(final: bool) -> dict[str, Any]:
    return {"ends": int(final), "open_chunks": 0, "late_results": False} if final else {"ends": 0}


def _stillness_of(facts: Any, final: bool) -> dict[str, Any]:
    if not final:
        return {"ends": facts.ends}
    is_late = facts.ended_at is None or (facts.last_finished is not None and facts.last_finished > facts.ended_at)
    return {"ends": facts.ends, "open_chunks": facts.open_chunks, "late_results": is_late}
