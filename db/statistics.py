"""How a job goes, for plots: from samples, so that a million items cost no more than a thousand."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.models import Job

POINTS = 200
SAMPLE = 2_000
BINS = 24
# Results that are looked through for failed ones, in input order; and how many of those are looked at.
SEARCHED = 250_000
GROUPED = 10_000
EXAMPLES = 3
_MOST_MESSAGE = 500
_MOST_RECIPES = 20


@dataclass(frozen=True, slots=True)
class Bin:
    """Values from `low` to below `high`; of the last one, to `high`."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """How values are spread. The last bin reaches to the largest, so that one giant does not flatten the others."""

    count: int
    low: float
    median: float
    mean: float
    p95: float
    high: float
    bins: tuple[Bin, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Distribution | None":
        """
        >>> found = Distribution.of([3, 1, 2, 2])
        >>> found.count, found.low, found.median, found.high, [(bin.low, bin.count) for bin in found.bins]
        (4, 1, 2, 3, [(1.0, 1), (2.0, 2), (3.0, 1)])
        >>> Distribution.of([]) is None
        True
        """
        ordered = sorted(values)
        if not ordered:
            return None
        return cls(
            count=len(ordered),
            low=ordered[0],
            median=_quantile(ordered, 0.5),
            mean=sum(ordered) / len(ordered),
            p95=_quantile(ordered, 0.95),
            high=ordered[-1],
            bins=_bins(ordered),
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """One item that failed."""

    index: int
    line: int
    custom_id: str
    message: str


@dataclass(slots=True)
class FailureGroup:
    """Items that failed for the same reason, with some of them."""

    code: str
    count: int = 0
    examples: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failures:
    """`counted` of the job's failed items, by code. All of them, unless they are many or far back in a large job."""

    counted: int
    groups: tuple[FailureGroup, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """`settled`: at what time how many items had a result. Tokens and seconds are of `sampled` items.

    `seconds` is what the chunks took in which the items ran, `waited` from the job's creation to the start of those.
    """

    settled: tuple[tuple[datetime, int], ...]
    sampled: int
    input_tokens: Distribution | None
    output_tokens: Distribution | None
    seconds: Distribution | None
    waited: Distribution | None
    failures: Failures
    recipes: tuple[Mapping[str, Any], ...]


_SETTLED = text("""
    SELECT finished_at, seq FROM results WHERE job_id = :job AND seq = ANY(CAST(:seqs AS int[])) ORDER BY seq
""")
_SAMPLE = text("""
    SELECT item.input_tokens, result.output_tokens, result.outcome,
        item.same_as IS NOT NULL OR coalesce(result.output ? 'reused', false) AS is_reused,
        extract(epoch FROM chunk.finished_at - chunk.started_at)::float8 AS seconds,
        extract(epoch FROM chunk.started_at - CAST(:created_at AS timestamptz))::float8 AS waited
    FROM items item
    LEFT JOIN results result ON result.job_id = item.job_id AND result.idx = item.idx
    LEFT JOIN chunks chunk ON chunk.id = result.chunk_id AND chunk.state = 'done'
    WHERE item.job_id = :job AND item.idx = ANY(CAST(:indexes AS int[]))
""")
_FAILED = text("""
    WITH looked AS (
        SELECT idx, outcome, error_code, error_message FROM results WHERE job_id = :job ORDER BY idx LIMIT :searched
    )
    SELECT looked.idx, looked.error_code AS code, left(looked.error_message, :most) AS message
    FROM looked WHERE looked.outcome = 'failed' ORDER BY looked.idx LIMIT :grouped
""")
_NAMES = text("SELECT idx, custom_id, line FROM items WHERE job_id = :job AND idx = ANY(CAST(:indexes AS int[]))")
_RECIPES = text("""
    SELECT recipe.recipe FROM recipes recipe
    WHERE recipe.id IN (SELECT recipe_id FROM chunks WHERE job_id = :job AND recipe_id IS NOT NULL)
    ORDER BY recipe.id LIMIT :most
""")


def statistics(session: Session, job: Job) -> Statistics:
    """What there is of the job by now; of one that has not begun, nothing."""
    settled = job.succeeded + job.failed
    rows = _rows(session, _SETTLED, job, seqs=spread(settled, POINTS, first=1))
    sample = _rows(session, _SAMPLE, job, indexes=spread(job.total, SAMPLE), created_at=job.created_at)
    ran = [row for row in sample if row.seconds is not None]
    return Statistics(
        settled=tuple((row.finished_at, row.seq) for row in rows),
        sampled=len(sample),
        input_tokens=Distribution.of(row.input_tokens for row in sample),
        # One that took the output of an equal one was not run for itself.
        output_tokens=Distribution.of(
            row.output_tokens for row in sample if row.outcome == "succeeded" and not row.is_reused
        ),
        seconds=Distribution.of(row.seconds for row in ran),
        waited=Distribution.of(row.waited for row in ran),
        failures=_failures(session, job) if job.failed else Failures(0, ()),
        recipes=tuple(row.recipe for row in _rows(session, _RECIPES, job, most=_MOST_RECIPES)),
    )


def spread(total: int, most: int, first: int = 0) -> list[int]:
    """At most `most` whole numbers evenly from `first` on, the last of the `total` among them.

    >>> spread(4, 10, first=1), spread(100, 3), spread(0, 3)
    ([1, 2, 3, 4], [0, 49, 99], [])
    """
    if total <= most:
        return list(range(first, first + total))
    return [first + place * (total - 1) // (most - 1) for place in range(most)]


def _rows(session: Session, query: Any, job: Job, **values: Any) -> Sequence[Any]:
    return session.execute(query, {"job": job.id, **values}).all()


def _failures(session: Session, job: Job) -> Failures:
    found = _rows(session, _FAILED, job, searched=SEARCHED, grouped=GROUPED, most=_MOST_MESSAGE)
    counts = Counter(row.code or "unknown" for row in found)
    shown: dict[str, list[Any]] = {code: [] for code, _ in counts.most_common()}
    for row in found:
        if len(shown[row.code or "unknown"]) < EXAMPLES:
            shown[row.code or "unknown"].append(row)
    indexes = [row.idx for rows in shown.values() for row in rows]
    names = {row.idx: row for row in _rows(session, _NAMES, job, indexes=indexes)}
    return Failures(
        len(found),
        tuple(
            FailureGroup(code, counts[code], [_failure(row, names[row.idx]) for row in rows])
            for code, rows in shown.items()
        ),
    )


def _failure(row: Any, name: Any) -> Failure:
    return Failure(row.idx, name.line, name.custom_id, row.message or "")


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The least value that so many are not above.

    >>> _quantile([1, 2, 3, 4], 0.5), _quantile([1, 2, 3], 0.5), _quantile([7], 0.95)
    (2, 2, 7)
    """
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def _bins(ordered: Sequence[float]) -> tuple[Bin, ...]:
    """Of equal width up to where nearly all are; whole numbers get whole bins."""
    low, high = ordered[0], ordered[-1]
    usual = _quantile(ordered, 0.99 if len(ordered) >= 10 * BINS else 0.95)
    if usual == low:
        usual = high
    if high == low:
        return (Bin(low, high, len(ordered)),)
    is_whole = isinstance(low, int)
    span = usual - low + is_whole
    width = ceil(span / BINS) if is_whole else span / BINS
    number = max(1, min(BINS, ceil(span / width)))
    counts = Counter(min(number - 1, int((value - low) / width)) for value in ordered)
    edges = [float(low + place * width) for place in range(number)] + [float(max(high, low + number * width))]
    return tuple(Bin(edges[place], edges[place + 1], counts[place]) for place in range(number))
