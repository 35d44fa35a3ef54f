"""When jobs were said to end, as it was said, and when they did: a track record that anyone can check.

An end is that of the last result (`finalizing_at`), which is what estimates are of. Only jobs that ran to their end
count: one that was cancelled, failed or expired did not end for the reasons that were estimated, nor did one that stood
still because its owner had paused it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db.bands import SHARE
from db.models import Job
from db.outlook import Outlook, outlook, surroundings

# Shares of its items at which an estimate of a running job is kept, once each.
MARKS = (0.0, 0.1, 0.25, 0.5, 0.75)
DAYS = 30
# Of the estimates that have come to an end, so many of the latest are looked at.
_MOST_JUDGED = 10_000
_JOBS_AT_ONCE = 100
_FORGET_AT_ONCE = 1_000
# What bands are learned from: a model's latest estimates, if they are of enough jobs to say anything. Short ones are
# left out; what happens within seconds is claims and polls, for which a band has its least width.
_LEARN_FROM = 200
_LEARN_JOBS = 10
_LEARN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """How good estimates were, of one model or of all (`model` None and `is_all`).

    `inside` is the share of them whose job ended inside their band. `median_error` is how far the middle one was off,
    as a share of the time that it really took.
    """

    model: str | None
    is_all: bool
    estimates: int
    inside: float
    median_error: float


_DUE = text("""
    SELECT job.id FROM jobs job
    CROSS JOIN LATERAL (
        SELECT (job.total - job.queued - job.running)::float8 / job.total AS progress
    ) AS now
    WHERE job.status = 'in_progress' AND NOT job.paused AND NOT job.interactive AND job.total > 0
        AND coalesce((SELECT max(progress) FROM estimates WHERE job_id = job.id), -1)
            < (SELECT max(mark) FROM unnest(CAST(:marks AS float8[])) AS mark WHERE mark <= now.progress)
    -- Those that get on first: of one that never ran there may be nothing to say.
    ORDER BY job.last_claimed_at DESC NULLS LAST, job.created_at, job.id LIMIT :limit
""")
# The lock keeps the job from being deleted until the commit, which follows at once; one that just ended is left out.
_KEEP = text("""
    INSERT INTO estimates (job_id, model, progress, low_seconds, eta_seconds, high_seconds)
    SELECT job.id, job.model, made.progress, made.low, made.eta, made.high
    FROM jobs job JOIN unnest(CAST(:jobs AS text[]), CAST(:progress AS float8[]), CAST(:low AS float8[]),
        CAST(:eta AS float8[]), CAST(:high AS float8[])) AS made(job, progress, low, eta, high) ON made.job = job.id
    WHERE job.status = 'in_progress' FOR KEY SHARE OF job
""")


def keep(session: Session, limit: int = _JOBS_AT_ONCE) -> int:
    """Keep what is said now of jobs that have reached their next mark; how many. Commit at once."""
    due = session.scalars(_DUE, {"marks": list(MARKS), "limit": limit}).all()
    if not due:
        return 0
    jobs = session.scalars(select(Job).where(Job.id.in_(due))).all()
    around = surroundings(session, jobs)
    said = [(job.id, seen) for job in jobs if (seen := outlook(job, around)).eta_seconds is not None]
    if said:
        session.execute(_KEEP, _columns(said))
    return len(said)


def _columns(said: Iterable[tuple[str, Outlook]]) -> dict[str, list[str] | list[float | None]]:
    jobs, seen = zip(*said, strict=True)
    return {
        "jobs": list(jobs),
        "progress": [each.progress for each in seen],
        "low": [each.eta_low_seconds for each in seen],
        "eta": [each.eta_seconds for each in seen],
        "high": [each.eta_high_seconds for each in seen],
    }


_SETTLE = text("""
    UPDATE estimates SET ended_at = greatest(job.finalizing_at, made_at)
    FROM jobs job WHERE job.id = job_id AND ended_at IS NULL AND job.status = 'completed'
    RETURNING estimates.model
""")
_DROP = text("""
    DELETE FROM estimates USING jobs job
    WHERE job.id = job_id AND ended_at IS NULL
        AND (job.paused OR job.status IN ('cancelling', 'cancelled', 'failed', 'expired'))
""")


def settle(session: Session) -> set[str]:
    """Write down the ends of jobs that ran to it, and drop what does not count; models that there is news of."""
    ended = session.execute(_SETTLE).scalars().all()
    session.execute(_DROP)
    return {model for model in ended if model is not None}


_LEARN = text("""
    UPDATE model_rates SET low_factor = found.low, high_factor = found.high
    FROM (
        SELECT count(DISTINCT job_id) AS jobs,
            percentile_cont((1 - :share) / 2) WITHIN GROUP (ORDER BY ratio) AS low,
            percentile_cont((1 + :share) / 2) WITHIN GROUP (ORDER BY ratio) AS high
        FROM (
            SELECT job_id, extract(epoch FROM ended_at - made_at)::float8 / eta_seconds AS ratio FROM estimates
            WHERE model = :model AND eta_seconds >= :seconds AND ended_at > now() - :days * interval '1 day'
            ORDER BY ended_at DESC LIMIT :most
        ) AS lately
    ) AS found
    WHERE model_rates.model = :model AND found.jobs >= :jobs
""")


def learn(session: Session, models: Iterable[str]) -> None:
    """Make the bands of these models as wide as their latest estimates were off."""
    bounds = {"share": SHARE, "seconds": _LEARN_SECONDS, "days": DAYS, "most": _LEARN_FROM, "jobs": _LEARN_JOBS}
    # In one order, whoever else updates several.
    for model in sorted(models):
        session.execute(_LEARN, bounds | {"model": model})


def forget(session: Session) -> None:
    """Delete estimates that count no more, a bounded number at a time."""
    session.execute(
        text("""
            DELETE FROM estimates WHERE (job_id, made_at) IN (
                SELECT job_id, made_at FROM estimates WHERE ended_at < now() - :days * interval '1 day'
                ORDER BY ended_at LIMIT :limit)
        """),
        {"days": DAYS, "limit": _FORGET_AT_ONCE},
    )


_RECORD = text("""
    SELECT model, grouping(model) = 1 AS is_all, count(*) AS estimates,
        avg((actual_seconds BETWEEN low_seconds AND high_seconds)::int)::float8 AS inside,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(eta_seconds - actual_seconds) / greatest(actual_seconds, 1))
            AS median_error
    FROM (
        SELECT * FROM track_record WHERE ended_at > now() - :days * interval '1 day'
        ORDER BY ended_at DESC LIMIT :most
    ) AS lately
    GROUP BY GROUPING SETS ((model), ())
    HAVING count(*) > 0 ORDER BY is_all DESC, model NULLS LAST
""")


def track_record(session: Session) -> list[Record]:
    """Of the last 30 days: all models together first, then each; jobs of several models are under None.

    Of all tenants, so it may be asked by any. Empty while no job that was estimated has ended.
    """
    return [Record(*row) for row in session.execute(_RECORD, {"days": DAYS, "most": _MOST_JUDGED})]
