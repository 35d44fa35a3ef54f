"""Reading results: in blocks by key, each in a short transaction, so that a download holds nothing up."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from db.errors import NotFound
from db.lines import ResultRow
from db.session import Sessions
from db.states import JobStatus, is_final, leftover

ResultOrder = Literal["input", "finished"]

# A block is as many rows as come to about this many bytes, within these bounds: short texts go fast, and a job of
# megabyte texts is still read in bounded memory. How large its rows are is asked first: a job may have thousands of
# short ones, and then thousands of vectors in each.
BLOCK_ROWS = 2_000
FIRST_BLOCK_ROWS = 100
BLOCK_BYTES = 8 * 2**20

_COLUMNS = """
    item.idx, result.seq, item.custom_id, item.line, result.outcome, item.input::text AS input,
    item.extra::text AS extra, result.output::text AS output, result.error_code, result.error_message,
    coalesce(result.input_tokens, 0) AS input_tokens, coalesce(result.output_tokens, 0) AS output_tokens,
    result.error_param, CAST(extract(epoch FROM result.finished_at) AS double precision) AS finished_at
"""


# As they are stored, which is told without reading them. What is compressed is taken for four times as much.
def _size(*columns: str) -> str:
    return " + ".join(
        f"coalesce(pg_column_size({column}) * CASE WHEN pg_column_compression({column}) IS NULL THEN 1 ELSE 4 END, 0)"
        for column in columns
    )


_SIZE = _size("item.input", "item.extra", "result.output")


@dataclass(frozen=True, slots=True)
class _Query:
    """Rows of a job beyond a place, at most so many, and how many bytes each of the same rows has."""

    rows: TextClause
    sizes: TextClause


def _query(rest: str) -> _Query:
    return _Query(text(f"SELECT {_COLUMNS} {rest}"), text(f"SELECT {_SIZE} {rest}"))


# Where the order is the index, both tables are told where the block begins. PostgreSQL does not pass the inequality
# on to the other side of a join: a merge join, which it likes here, then read that side from the job's first row
# for every block, and a download of a million lines took six times as long a line as one of a hundred thousand.
_FINISHED_BY_INDEX = _query("""
    FROM results result JOIN items item USING (job_id, idx)
    WHERE result.job_id = :job AND result.idx > :after AND item.idx > :after ORDER BY result.idx LIMIT :limit
""")
_FINISHED_BY_SEQ = _query("""
    FROM results result JOIN items item USING (job_id, idx)
    WHERE result.job_id = :job AND result.seq > :after ORDER BY result.seq LIMIT :limit
""")
_ALL_BY_INDEX = _query("""
    FROM items item
        LEFT JOIN results result ON result.job_id = item.job_id AND result.idx = item.idx AND result.idx > :after
    WHERE item.job_id = :job AND item.idx > :after ORDER BY item.idx LIMIT :limit
""")
_UNFINISHED_BY_INDEX = _query("""
    FROM items item
        LEFT JOIN results result ON result.job_id = item.job_id AND result.idx = item.idx AND result.idx > :after
    WHERE item.job_id = :job AND item.idx > :after AND result.idx IS NULL ORDER BY item.idx LIMIT :limit
""")


def rows(
    sessions: Sessions,
    job_id: str,
    after: int | None = None,
    limit: int | None = None,
    order: ResultOrder = "input",
    *,
    unfinished: str | None = None,
) -> Iterator[ResultRow]:
    """Finished items beyond `after` - an index in input order, a seq in order of finishing.

    Items without a result come too, with `unfinished` as their status, where that is given or the
    job is final (then it follows from the job). In order of finishing they come last; their seq is
    the number of results + index + 1. The caller has made sure that the job is the tenant's.
    """
    with sessions() as session:
        settled, status = _state(session, job_id)
    if unfinished is None and is_final(status):
        unfinished = leftover(status).value
    if order == "input":
        query = _ALL_BY_INDEX if unfinished else _FINISHED_BY_INDEX
        found = _blocks(sessions, query, job_id, -1 if after is None else after, limit, "idx")
        yield from (_row(raw, settled, unfinished) for raw in found)
        return
    seen, after = 0, after or 0
    if not (unfinished and after > settled):
        for raw in _blocks(sessions, _FINISHED_BY_SEQ, job_id, after, limit, "seq"):
            seen += 1
            yield _row(raw, settled, unfinished)
    if unfinished:
        rest = None if limit is None else limit - seen
        for raw in _blocks(sessions, _UNFINISHED_BY_INDEX, job_id, max(after - settled, 0) - 1, rest, "idx"):
            yield _row(raw, settled, unfinished)


_REFERENCED_REST = """
    FROM items item
        LEFT JOIN results result ON result.job_id = item.job_id AND result.idx = item.idx AND result.idx > :after
    WHERE item.job_id = :job AND item.idx > :after AND item.reference IS NOT NULL ORDER BY item.idx LIMIT :limit
"""
_REFERENCED = _Query(
    text(f"""
        SELECT item.idx, item.custom_id, item.line, item.input::text AS input, item.reference::text AS reference,
            CASE result.outcome WHEN 'succeeded' THEN result.output ->> 'text' END AS output {_REFERENCED_REST}
    """),
    text(f"SELECT {_size('item.input', 'item.reference', 'result.output')} {_REFERENCED_REST}"),
)


@dataclass(frozen=True, slots=True)
class Referenced:
    """An item with references. `output` is the first text of its result, None where it has not succeeded."""

    index: int
    custom_id: str
    line: int
    input: dict[str, Any]
    references: list[str]
    output: str | None


def referenced(sessions: Sessions, job_id: str) -> Iterator[Referenced]:
    """The items of a job that came with references, in input order; NotFound if the job is deleted meanwhile."""
    decode = msgspec.json.decode
    for idx, custom_id, line, input, references, output in _blocks(sessions, _REFERENCED, job_id, -1, None, "idx"):
        yield Referenced(idx, custom_id, line, decode(input), decode(references), output)


@dataclass(frozen=True, slots=True)
class Shown:
    """The texts of a scored item, source and output cut at a length."""

    source: str
    references: list[str]
    output: str


def shown(session: Session, job_id: str, indices: Sequence[int], chars: int) -> dict[int, Shown]:
    """Those of the items that have an output, by index; of source and output the first `chars` characters."""
    rows = session.execute(
        text("""
            SELECT item.idx, left(coalesce(item.input ->> 'text', item.input ->> 'messages'), :chars) AS source,
                item.reference, left(result.output ->> 'text', :chars) AS output
            FROM items item JOIN results result USING (job_id, idx)
            WHERE item.job_id = :job AND item.idx = ANY(:indices) AND result.outcome = 'succeeded'
        """),
        {"job": job_id, "indices": list(indices), "chars": chars},
    )
    return {row.idx: Shown(row.source, row.reference or [], row.output) for row in rows}


def any_scorable(session: Session, job_id: str) -> bool:
    """Whether an item of the job that came with references has succeeded."""
    found = session.execute(
        text("""
            SELECT 1 FROM items item JOIN results result USING (job_id, idx)
            WHERE item.job_id = :job AND item.reference IS NOT NULL AND result.outcome = 'succeeded' LIMIT 1
        """),
        {"job": job_id},
    )
    return found.first() is not None


def first(session: Session, job_id: str) -> ResultRow | None:
    """The first item of the job if it is finished, or never will be; None while it is open."""
    settled, status = _state(session, job_id)
    query = _ALL_BY_INDEX if is_final(status) else _FINISHED_BY_INDEX
    raw = session.execute(query.rows, {"job": job_id, "after": -1, "limit": 1}).one_or_none()
    return None if raw is None else _row(raw, settled, leftover(status).value if is_final(status) else None)


def _state(session: Session, job_id: str) -> tuple[int, JobStatus]:
    job = session.execute(
        text("SELECT succeeded + failed AS settled, status FROM jobs WHERE id = :job"), {"job": job_id}
    ).one_or_none()
    if job is None:
        raise NotFound("job", job_id)
    return int(job.settled), JobStatus(job.status)


def _blocks(sessions: Sessions, query: _Query, job_id: str, after: int, limit: int | None, key: str) -> Iterator[Any]:
    size = FIRST_BLOCK_ROWS
    left = limit
    while left is None or left > 0:
        wanted = size if left is None else min(size, left)
        values = {"job": job_id, "after": after}
        with sessions() as session:
            sizes = session.execute(query.sizes, values | {"limit": wanted}).scalars().all()
            fitting = _fitting(sizes)
            block = session.execute(query.rows, values | {"limit": fitting}).all()
            is_end = len(block) < fitting or len(block) == len(sizes) < wanted
            if is_end:
                # The end, unless the job was deleted meanwhile: then NotFound, or a part would pass for the whole.
                _state(session, job_id)
        yield from block
        if is_end:
            return
        after = getattr(block[-1], key)
        left = None if left is None else left - len(block)
        size = BLOCK_ROWS


def _fitting(sizes: Sequence[int]) -> int:
    """How many of the rows make a block; at least one, if there is any."""
    return max(min(1, len(sizes)), sum(upto <= BLOCK_BYTES for upto in itertools.accumulate(sizes)))


def _row(raw: Any, settled: int, unfinished: str | None) -> ResultRow:
    idx, seq, custom_id, line, outcome, input, extra, output, code, message, consumed, produced, param, ended = raw
    decode = msgspec.json.decode
    made = None if output is None else decode(output)
    reused = {} if made is None else made.pop("reused", {})
    return ResultRow(
        idx,
        seq if seq is not None else settled + idx + 1,
        custom_id,
        line,
        outcome or unfinished or "",
        decode(input),
        None if extra is None else decode(extra),
        made,
        code,
        message,
        consumed,
        produced,
        param,
        ended,
        reused.get("input_tokens", 0),
        reused.get("output_tokens", 0),
    )
