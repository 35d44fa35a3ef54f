"""How far jobs are, when they will end and why they wait, from their counts and the workers' own words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.bands import PRIOR_VARIANCE, Spread, band
from db.models import Job
from db.states import JobStatus, is_final
from db.workers import ALIVE_SECONDS


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why nothing of a job runs, as a code for programs and a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """`progress` is the share of items that are settled. Speeds are averages over the job's own running time.

    The end most likely comes between `eta_low_seconds` and `eta_high_seconds` (db/bands.py): all three, or none.
    """

    progress: float
    items_per_second: float | None
    tokens_per_second: float | None
    eta_seconds: float | None
    eta_low_seconds: float | None
    eta_high_seconds: float | None
    waiting_for: Waiting | None


@dataclass(frozen=True, slots=True)
class ModelState:
    """What live workers and past chunks say of a model. Speed is of one worker; `workers` can run it now."""

    workers: int = 0
    loaded: int = 0
    why_unavailable: str | None = None
    tokens_per_second: float | None = None
    output_per_input: float = 1.0
    log_variance: float = PRIOR_VARIANCE
    low_factor: float | None = None
    high_factor: float | None = None

    @property
    def spread(self) -> Spread:
        return Spread(self.log_variance, self.low_factor, self.high_factor)


@dataclass(frozen=True, slots=True)
class Ahead:
    """Jobs of the same model that go before this one, and the tokens that are served before it ends."""

    jobs: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a job's outlook depends on beside its own row."""

    now: datetime
    live_workers: int = 0
    models: Mapping[str, ModelState] = field(default_factory=dict)
    ahead: Mapping[str, Ahead] = field(default_factory=dict)
    # Of jobs with several models: the tokens that each model still has to do.
    open: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def model(self, name: str | None) -> ModelState:
        return self.models.get(name or "", ModelState())


_SURROUNDINGS = text("""
    WITH alive AS (
        SELECT models, loaded, unavailable FROM workers WHERE heartbeat_at > now() - :alive * interval '1 second'
    ), page AS (
        SELECT id, model, priority, created_at, queued_tokens FROM jobs
        WHERE id = ANY(CAST(:jobs AS text[])) AND status IN ('validating', 'in_progress')
    ), open AS (
        SELECT chunk.job_id AS id, chunk.model, sum(chunk.tokens) AS tokens
        FROM page JOIN chunks chunk ON chunk.job_id = page.id AND chunk.state IN ('ready', 'leased')
        WHERE page.model IS NULL GROUP BY chunk.job_id, chunk.model
    ), wanted AS (
        SELECT unnest(CAST(:models AS text[])) AS model UNION SELECT model FROM open
    ), ahead AS (
        SELECT page.id, other.jobs, other.tokens FROM page
        CROSS JOIN LATERAL (
            SELECT CASE WHEN page.model IS NOT NULL THEN ARRAY[page.model]
                ELSE (SELECT coalesce(array_agg(open.model), '{}') FROM open WHERE open.id = page.id) END AS models
        ) AS mine
        CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE (-priority, created_at, id) < (-page.priority, page.created_at, page.id))
                    AS jobs,
                -- Jobs of one priority take turns: of a longer one, only as much as ours is served before ours ends.
                coalesce(sum(CASE WHEN priority > page.priority THEN queued_tokens
                    ELSE least(queued_tokens, page.queued_tokens) END), 0) AS tokens
            -- Of all tenants, whose rows a tenant's session does not see: the views tell how much there is, not whose.
            FROM open_work work
            WHERE status = 'in_progress' AND NOT paused AND queued > 0
                AND id <> page.id AND priority >= page.priority
                -- One with several models counts whole: how much of it is for ours would take a sum over its chunks.
                AND (model = ANY(mine.models) OR (model IS NULL AND EXISTS (SELECT FROM ready_work c
                    WHERE c.job_id = work.id AND c.model = ANY(mine.models))))
        ) AS other
    )
    SELECT now() AS now, (SELECT count(*) FROM alive) AS live_workers,
        (SELECT coalesce(jsonb_object_agg(wanted.model, jsonb_build_object(
            'workers', (SELECT count(*) FROM alive WHERE models ? wanted.model AND NOT unavailable ? wanted.model),
            'loaded', (SELECT count(*) FROM alive WHERE loaded ? wanted.model),
            'why_unavailable', (SELECT min(unavailable ->> wanted.model) FROM alive),
            'tokens_per_second', rate.tokens_per_second,
            'output_per_input', coalesce(rate.output_per_input, 1),
            'log_variance', coalesce(rate.log_variance, :prior),
            'low_factor', rate.low_factor, 'high_factor', rate.high_factor)), '{}')
         FROM wanted LEFT JOIN model_rates rate USING (model)) AS models,
        (SELECT coalesce(jsonb_object_agg(id, jsonb_build_object('jobs', jobs, 'tokens', tokens)), '{}') FROM ahead)
            AS ahead,
        (SELECT coalesce(jsonb_object_agg(id, models), '{}') FROM (
            SELECT id, jsonb_object_agg(model, tokens) AS models FROM open GROUP BY id) AS each_job) AS open
""")


def surroundings(session: Session, jobs: Iterable[Job], models: Sequence[str] = ()) -> Surroundings:
    """Everything the outlook of these jobs needs, in one query; `models` are looked up too."""
    jobs = list(jobs)
    row = session.execute(
        _SURROUNDINGS,
        {
            "alive": ALIVE_SECONDS,
            "prior": PRIOR_VARIANCE,
            "jobs": [job.id for job in jobs],
            "models": sorted({*models, *(job.model for job in jobs if job.model is not None)}),
        },
    ).one()
    return Surroundings(
        row.now,
        row.live_workers,
        {name: ModelState(**state) for name, state in row.models.items()},
        {job_id: Ahead(**ahead) for job_id, ahead in row.ahead.items()},
        row.open,
    )


def outlook(job: Job, around: Surroundings) -> Outlook:
    """Pure: one job's row and its surroundings in, what to tell its owner out."""
    settled = job.total - job.queued - job.running
    status = JobStatus(job.status)
    progress = settled / job.total if job.total else float(status is JobStatus.COMPLETED)
    eta = _eta(job, around)
    low, high = (None, None) if eta is None else band(eta, _spreads(job, around))
    return Outlook(
        progress=round(progress, 4),
        items_per_second=_per_second(job.succeeded + job.failed, job),
        tokens_per_second=_per_second(job.input_tokens + job.output_tokens, job),
        eta_seconds=eta,
        eta_low_seconds=low,
        eta_high_seconds=high,
        waiting_for=_waiting(job, around),
    )


def _per_second(amount: int, job: Job) -> float | None:
    """Over the time from the start to the last result; None before there is one."""
    if job.in_progress_at is None or job.progressed_at is None or not amount:
        return None
    seconds = (job.progressed_at - job.in_progress_at).total_seconds()
    return round(amount / seconds, 2) if seconds > 0 else None


def _eta(job: Job, around: Surroundings) -> float | None:
    """Seconds until the last result; None when nothing was measured yet, or the job stands still or has ended.

    Several models count one after the other; with workers of their own they end sooner.
    """
    if job.status != JobStatus.IN_PROGRESS or job.paused:
        return None
    models = _models(job, around)
    if not models or not all(around.model(name).workers for name in models):
        return None
    seconds = [_seconds(tokens, around.model(name)) for name, tokens in models.items()]
    if None not in seconds:
        mine = sum(models.values())
        # What goes before takes as long, token by token, as what is ours.
        wait = around.ahead.get(job.id, Ahead()).tokens / mine if mine else 0.0
        return round(sum(each for each in seconds if each is not None) * (1 + wait), 1)
    speed = _per_second(job.succeeded + job.failed, job)
    return round((job.queued + job.running) / speed, 1) if speed else None


def _spreads(job: Job, around: Surroundings) -> list[Spread]:
    return [around.model(name).spread for name in _models(job, around)]


def _models(job: Job, around: Surroundings) -> Mapping[str, float]:
    """The models that the job still needs, with the tokens each has to do."""
    if job.model is not None:
        return {job.model: job.queued_tokens + _running_tokens(job)}
    return around.open.get(job.id, {})


def _seconds(tokens: float, model: ModelState) -> float | None:
    if not model.tokens_per_second:
        return None
    return tokens * (1 + model.output_per_input) / (model.tokens_per_second * model.workers)


def _running_tokens(job: Job) -> float:
    """Half of what runs is taken to be done. Its size is guessed from the items that wait, or those that are done."""
    if job.queued:
        per_item = job.queued_tokens / job.queued
    else:
        done = job.succeeded + job.failed
        per_item = job.input_tokens / done if done else 0.0
    return job.running * per_item / 2


def _waiting(job: Job, around: Surroundings) -> Waiting | None:
    status = JobStatus(job.status)
    if is_final(status) or job.running:
        return None
    if not around.live_workers:
        return Waiting("no_worker", "no worker is running; start one with `celery -A workers.app worker`")
    if status is JobStatus.VALIDATING:
        return Waiting("validating", "the input is being checked")
    if status is JobStatus.FINALIZING:
        return Waiting("finalizing", "the result files are being written")
    if status is JobStatus.CANCELLING:
        return Waiting("cancelling", "workers are giving up what they run of this job")
    return _waiting_to_run(job, around)


def _waiting_to_run(job: Job, around: Surroundings) -> Waiting | None:
    if job.paused:
        return Waiting("paused", "the job is paused")
    if not job.queued:
        return None
    models = {name: around.model(name) for name in _models(job, around)}
    if not models:
        # The last of them was claimed between the look at the job and the one at its chunks.
        return None
    served = {name: model for name, model in models.items() if model.workers}
    if not served:
        return _unserved(models, around.live_workers)
    ahead = around.ahead.get(job.id, Ahead())
    if ahead.jobs:
        jobs = "1 job is" if ahead.jobs == 1 else f"{ahead.jobs:,} jobs are"
        return Waiting("jobs_ahead", f"{jobs} served before this one (higher priority, or submitted earlier)")
    if not any(model.loaded for model in served.values()):
        verb = "is" if len(served) == 1 else "are"
        return Waiting("model_loading", f"{_named(served)} {verb} not loaded yet")
    return Waiting("its_turn", "the next free worker takes it")


def _unserved(models: Mapping[str, ModelState], live_workers: int) -> Waiting:
    """Why nobody runs any of the models; of several, one that cannot be loaded is the news."""
    for name, model in models.items():
        if model.why_unavailable is not None:
            return Waiting("model_unavailable", f"model {name} cannot be loaded: {model.why_unavailable}")
    return Waiting(
        "no_worker",
        f"none of the {live_workers} running workers serves {_named(models)};"
        " a worker serves the models that were registered when it started: restart `bushel up`, or the workers",
    )


def _named(models: Iterable[str]) -> str:
    """
    >>> _named(["a"]), _named(["b", "a"])
    ('model a', 'models a, b')
    """
    names = sorted(models)
    return f"{'model' if len(names) == 1 else 'models'} {', '.join(names)}"
