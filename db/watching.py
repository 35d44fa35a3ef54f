"""What has moved, of all that is watched, in one look: which jobs, and whose log. Not how: that is read elsewhere."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

# Of one tenant: those that moved last, which are those that move.
MOST_JOBS = 500


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as it was at a look: another `version` means that its row has changed."""

    tenant_id: str
    version: str


@dataclass(frozen=True, slots=True)
class Look:
    """Jobs by id, those that are gone left out; and of each tenant the id of the last event."""

    jobs: Mapping[str, Seen]
    newest: Mapping[str, int]


_LOOK = text("""
    SELECT 'job' AS kind, id, tenant_id, xmin::text AS version FROM jobs WHERE id = ANY(CAST(:jobs AS text[]))
    UNION
    SELECT 'job', moving.* FROM unnest(CAST(:open_of AS text[])) AS theirs(tenant_id)
    CROSS JOIN LATERAL (
        SELECT id, tenant_id, xmin::text FROM jobs job
        WHERE job.tenant_id = theirs.tenant_id AND NOT interactive
            AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
        ORDER BY greatest(progressed_at, last_claimed_at, in_progress_at, created_at) DESC, id LIMIT :most
    ) AS moving
    UNION ALL
    SELECT 'log', tenant_id, tenant_id, coalesce((SELECT id FROM job_events event
        WHERE event.tenant_id = log.tenant_id ORDER BY id DESC LIMIT 1), 0)::text
    FROM unnest(CAST(:tenants AS text[])) AS log(tenant_id)
""")


def look(session: Session, jobs: Collection[str], open_of: Collection[str], tenants: Collection[str]) -> Look:
    """At these jobs, at the open ones of the tenants `open_of`, and at the logs of `tenants`.

    For the ledger's owner: of rows of all tenants together it tells no more than that they have moved.
    """
    values = {"jobs": list(jobs), "open_of": list(open_of), "tenants": list(tenants), "most": MOST_JOBS}
    rows = session.execute(_LOOK, values).all()
    return Look(
        {row.id: Seen(row.tenant_id, row.version) for row in rows if row.kind == "job"},
        {row.tenant_id: int(row.version) for row in rows if row.kind == "log"},
    )
