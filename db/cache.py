"""Where a tenant's results are, by a digest of what they were made of, so that the same is not computed again.

No output is stored twice: an entry names a result, and goes with that result's job. Workers alone write entries, in the
transaction that records the result. Lock order: chunk, job, entries, day of usage.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

# What counting stops at.
MOST_COUNTED = 100_000


@dataclass(frozen=True, slots=True)
class Cached:
    """A result that succeeded, and the tokens that it took."""

    output: dict[str, Any]
    input_tokens: int
    output_tokens: int


# The entry that is there stays: had it been seen, nothing would have been computed, so it is as new as this one. And
# nobody waits for anybody: entries are written by many in any order, and deleted with their jobs.
_REMEMBER = text("""
    INSERT INTO cached_results (tenant_id, key, job_id, idx)
    SELECT :tenant, key, :job, idx FROM unnest(CAST(:keys AS bytea[]), CAST(:indexes AS int[])) AS new(key, idx)
    ON CONFLICT DO NOTHING
""")
_FIND = text("""
    SELECT entry.key, result.output, result.input_tokens, result.output_tokens
    FROM cached_results entry JOIN results result ON result.job_id = entry.job_id AND result.idx = entry.idx
    WHERE entry.tenant_id = :tenant AND entry.key = ANY(CAST(:keys AS bytea[])) AND result.outcome = 'succeeded'
""")


def remember(session: Session, tenant_id: str, job_id: str, index_of: Mapping[bytes, int]) -> None:
    """Note which item's result has which key; the results are the job's, and recorded in this transaction."""
    if index_of:
        values = {"tenant": tenant_id, "job": job_id, "keys": list(index_of), "indexes": list(index_of.values())}
        session.execute(_REMEMBER, values)


def find(session: Session, tenant_id: str, keys: Collection[bytes]) -> dict[bytes, Cached]:
    """The tenant's results that are known under these keys; those of deleted jobs are not."""
    rows = session.execute(_FIND, {"tenant": tenant_id, "keys": list(keys)})
    return {bytes(row.key): Cached(row.output, row.input_tokens, row.output_tokens) for row in rows}


def size(session: Session, tenant_id: str, most: int = MOST_COUNTED) -> int:
    """How many entries the tenant has, counted up to `most`."""
    query = "SELECT count(*) FROM (SELECT FROM cached_results WHERE tenant_id = :tenant LIMIT :most) AS counted"
    return int(session.execute(text(query), {"tenant": tenant_id, "most": most}).scalar_one())


def clear(session: Session, tenant_id: str) -> int:
    """Forget all of the tenant's; how many there were. The results themselves stay where they are."""
    query = """
        WITH gone AS (DELETE FROM cached_results WHERE tenant_id = :tenant RETURNING 1) SELECT count(*) FROM gone
    """
    return int(session.execute(text(query), {"tenant": tenant_id}).scalar_one())
