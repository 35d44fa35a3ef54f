"""Writing a job's items as they are read from its file, window by window, before the job may run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import events, webhooks
from db.copying import copy_into
from db.errors import NotFound
from db.notices import announce
from db.recording import NewResult, insert_results
from db.states import EVENT_OF, JobStatus, Outcome
from db.steps import StepLease, hold

_DELETE_AT_ONCE = 100_000


class NewItem(msgspec.Struct, frozen=True):
    """An item about to be written. `chunk` is the place of its chunk among those written with it, None if settled."""

    idx: int
    custom_id: str
    line: int
    input: dict[str, Any]
    extra: list[str] | None
    input_tokens: int
    chunk: int | None
    same_as: int | None
    reference: list[str] | None = None


def known_ids(session: Session, job_id: str, custom_ids: Sequence[str]) -> dict[str, int]:
    """Which of the ids earlier items of the job have, with their lines."""
    rows = session.execute(
        text("SELECT custom_id, line FROM items WHERE job_id = :job AND custom_id = ANY(:ids)"),
        {"job": job_id, "ids": list(custom_ids)},
    )
    return {row.custom_id: row.line for row in rows}


_COLUMNS = ("job_id", "idx", "custom_id", "line", "input", "extra", "chunk_id", "input_tokens", "same_as", "reference")


def add_items(session: Session, job_id: str, items: Iterable[NewItem], chunk_ids: Sequence[int]) -> None:
    """COPY items in."""
    with copy_into(session, "items", ", ".join(_COLUMNS)) as copy:
        for item in items:
            copy.write_row(_values(job_id, item, chunk_ids))


def add_item(session: Session, job_id: str, item: NewItem, chunk_ids: Sequence[int]) -> None:
    """Insert one item. For a tenant's session, too: COPY does not go through row-level security."""
    statement = f"INSERT INTO items ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
    session.execute(text(statement), dict(zip(_COLUMNS, _values(job_id, item, chunk_ids), strict=True)))


def _values(job_id: str, item: NewItem, chunk_ids: Sequence[int]) -> tuple[object, ...]:
    encode = msgspec.json.encode
    return (
        job_id,
        item.idx,
        item.custom_id,
        item.line,
        encode(item.input).decode(),
        None if item.extra is None else encode(item.extra).decode(),
        None if item.chunk is None else chunk_ids[item.chunk],
        item.input_tokens,
        item.same_as,
        None if item.reference is None else encode(item.reference).decode(),
    )


def count_in(
    session: Session, job_id: str, queued: int, tokens: int, settled: Sequence[NewResult], referenced: int = 0
) -> None:
    """Add a window to the job's counts, and the results of those of its items that need no model.

    `referenced` of its items have references.

    The caller holds the job's row lock (steps.hold), which is what orders the sequence numbers.
    """
    before = session.execute(text("SELECT succeeded + failed FROM jobs WHERE id = :job"), {"job": job_id}).scalar_one()
    insert_results(session, job_id, settled, before, chunk_id=None, attempt=0)
    succeeded = sum(result.outcome is Outcome.SUCCEEDED for result in settled)
    session.execute(
        text("""
            UPDATE jobs SET total = total + :queued + :succeeded + :failed, queued = queued + :queued,
                succeeded = succeeded + :succeeded, failed = failed + :failed, queued_tokens = queued_tokens + :tokens,
                referenced = referenced + :referenced
            WHERE id = :job
        """),
        {
            "job": job_id,
            "queued": queued,
            "tokens": tokens,
            "succeeded": succeeded,
            "failed": len(settled) - succeeded,
            "referenced": referenced,
        },
    )


# An item's result goes with it, and so does its share of its chunk and of the counts.
_REMOVE = text("""
    WITH gone AS (
        DELETE FROM items WHERE job_id = :job AND idx > :floor RETURNING chunk_id, reference
    ), retracted AS (
        DELETE FROM results WHERE job_id = :job AND idx > :floor RETURNING outcome
    ), emptied AS (
        SELECT chunk_id, count(*) AS items FROM gone WHERE chunk_id IS NOT NULL GROUP BY chunk_id
    ), cut AS (
        UPDATE chunks SET items = chunks.items - emptied.items,
            tokens = chunks.tokens * (chunks.items - emptied.items) / chunks.items
        FROM emptied WHERE chunks.id = emptied.chunk_id RETURNING emptied.items
    )
    UPDATE jobs SET total = total - (SELECT count(*) FROM gone),
        queued = queued - (SELECT coalesce(sum(items), 0) FROM cut),
        succeeded = succeeded - (SELECT count(*) FROM retracted WHERE outcome = 'succeeded'),
        failed = failed - (SELECT count(*) FROM retracted WHERE outcome = 'failed'),
        referenced = referenced - (SELECT count(*) FROM gone WHERE reference IS NOT NULL)
    WHERE id = :job
""")


def clear(session: Session, lease: StepLease, at_once: int = _DELETE_AT_ONCE) -> bool:
    """Remove a part of what an earlier or failed ingest wrote, the last items first; True when nothing is left.

    A part a transaction, so that a million items do not outlast the statement timeout. Its counts go with
    it: the job may be cancelled between two parts, and then ends with the items that are left.
    """
    hold(session, lease, JobStatus.VALIDATING)
    values = {"job": lease.job_id}
    last = session.execute(text("SELECT max(idx) FROM items WHERE job_id = :job"), values).scalar_one()
    if last is None:
        return True
    session.execute(_REMOVE, values | {"floor": last - at_once})
    session.execute(text("DELETE FROM chunks WHERE job_id = :job AND items = 0"), values)
    session.execute(
        text("""
            UPDATE jobs SET queued_tokens = (SELECT coalesce(sum(tokens), 0) FROM chunks WHERE job_id = :job)
            WHERE id = :job
        """),
        values,
    )
    return False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How ingest ended. `errors` is what the job shows: {"total": n, "data": [first problems]}."""

    status: JobStatus
    errors: dict[str, Any] | None = None
    estimate: dict[str, Any] | None = None
    columns: list[str] | None = None
    # The one model that all items name, in dialects where items do.
    model: str | None = None


def conclude(session: Session, lease: StepLease, verdict: Verdict) -> bool:
    """End validation: the job starts, fails, or (nothing to run) goes on to be finalized.

    True if a webhook waits to hear of it: the caller rings DELIVER after commit.
    """
    hold(session, lease, JobStatus.VALIDATING)
    encode = msgspec.json.encode
    total = session.execute(
        text(f"""
            UPDATE jobs SET status = :status, version = version + 1, {verdict.status}_at = now(),
                errors = CAST(:errors AS jsonb), estimate = CAST(:estimate AS jsonb),
                format = CASE WHEN CAST(:columns AS jsonb) IS NULL THEN format
                    ELSE format || jsonb_build_object('columns', CAST(:columns AS jsonb)) END,
                model = CASE WHEN dialect = 'bushel' THEN model ELSE :model END,
                step_owner = NULL, step_expires_at = NULL
            WHERE id = :job AND status = 'validating' RETURNING total
        """),
        {
            "job": lease.job_id,
            "status": verdict.status.value,
            "model": verdict.model,
            "errors": None if verdict.errors is None else encode(verdict.errors).decode(),
            "estimate": None if verdict.estimate is None else encode(verdict.estimate).decode(),
            "columns": None if verdict.columns is None else encode(verdict.columns).decode(),
        },
    ).scalar_one()
    problems = 0 if verdict.errors is None else verdict.errors["total"]
    events.note(session, lease.job_id, EVENT_OF[verdict.status], items=total, problems=problems)
    announce(session, lease.job_id)
    return verdict.status is JobStatus.FAILED and webhooks.emit(session, lease.job_id)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An item that has not succeeded, by its line. `duplicate`: why it failed if it has another item's id."""

    idx: int
    line: int
    duplicate: str | None


def unfinished(session: Session, job_id: str, after: int, limit: int) -> list[Unfinished]:
    """Items of a job that has ended which have not succeeded, beyond the index `after`. NotFound when it is gone."""
    rows = session.execute(
        text("""
            SELECT item.idx, item.line,
                CASE result.error_code WHEN 'duplicate_custom_id' THEN result.error_message END AS duplicate
            FROM items item
            LEFT JOIN results result ON result.job_id = item.job_id AND result.idx = item.idx AND result.idx > :after
            WHERE item.job_id = :job AND item.idx > :after AND result.outcome IS DISTINCT FROM 'succeeded'
            ORDER BY item.idx LIMIT :limit
        """),
        {"job": job_id, "after": after, "limit": limit},
    )
    found = [Unfinished(*row) for row in rows]
    # Asked after the items: had the job been deleted before they were read, a part would pass for the whole.
    if session.execute(text("SELECT 1 FROM jobs WHERE id = :job"), {"job": job_id}).first() is None:
        raise NotFound("job", job_id)
    return found
