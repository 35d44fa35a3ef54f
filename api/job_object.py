"""A job as the API shows it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.wire import unix
from db.models import Job
from db.outlook import Surroundings, outlook
from db.states import JobStatus, is_final
from models.registry import Registry

EXAMPLE_ID = "job_0mgcxk2l9h4t8v2c6y0q1w5r3a"
StatusName = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]


class Counts(BaseModel):
    """Where the items are. The six always sum to `total`."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int


class WaitingFor(BaseModel):
    """Why nothing of the job runs."""

    code: str
    message: str


class JobErrors(BaseModel):
    """Problems of the input: how many there are, and the first hundred with line, column and a hint.

    One more, `scoring_failed`, says that there are results but no scores.
    """

    total: int
    data: list[dict[str, Any]]


class FirstItem(BaseModel):
    """How an item was read. Long texts are cut."""

    line: int
    custom_id: str
    input: dict[str, Any] = Field(description="As in results: `text`, or `messages`.")
    reference: str | None
    cut: bool = Field(description="Something of the item is not shown here.")


class Estimate(BaseModel):
    """What a dry run found, and how it understood the input, as far as that could be read.

    Tokens are estimated from the length of the texts; `seconds` on a device and `output_tokens` from what the model did
    lately, null if it was never measured; `invalid_items` are those that `on_error: skip` would fail."""

    items: int
    invalid_items: int
    input_tokens: int
    output_tokens: int | None = None
    seconds: float | None = Field(description="Of one worker; several share them.")
    columns: list[str] | None = Field(None, description="CSV: the first 50 columns of the header.")
    first_items: list[FirstItem] = Field([], description="The first five that would be run.")


class Notices(BaseModel):
    """How many succeeded items were cut: their input (`long_input: truncate`), or their output at the token limit."""

    truncated_inputs: int
    cut_outputs: int


class MetricScore(BaseModel):
    """A corpus score from 0 to 100 with its 95 % interval."""

    score: float
    low: float
    high: float
    signature: str = Field(description="What names the metric exactly.")


class Scores(BaseModel):
    """How good the outputs are against the references their inputs came with."""

    metrics: dict[str, MetricScore] = Field(
        description="`bleu` and `chrf` of translations; `rouge1`, `rouge2`, `rougeL` and `chrf` of other tasks."
    )
    scored: int = Field(description="Items that the scores are of.")
    unscored: int = Field(description="Items with references but without an output: they are in no score.")
    scored_in_part: int = Field(
        0, description="Of the scored items, those of whose output only the first 100,000 characters were."
    )
    length_ratio: float = Field(description="Characters of the outputs over those of the nearest references.")
    copied_whole: float | None = Field(description="Translation: the share of outputs that are their input.")
    copied_words: float | None = Field(description="Other tasks: the share of the outputs' words that the input has.")


class Usage(BaseModel):
    """Tokens of everything that was run, and what that took; and what did not have to be run."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    same_items: int = Field(description="Succeeded items that are equal to others of the job, and were not run.")
    cached_items: int = Field(description="Succeeded items whose result was in your cache (`cache`), and were not run.")
    saved_input_tokens: int = Field(description="What those would have added to `input_tokens`.")
    saved_output_tokens: int = Field(description="What those would have added to `output_tokens`.")
    device_seconds: float = Field(
        description="Time its chunks were on a device, work that was thrown away included; 0 before it was measured."
    )
    joules: float | None = Field(description="Energy of the devices in that time; null where it is not measured.")


class JobObject(BaseModel):
    """A job. All times are Unix seconds."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": EXAMPLE_ID,
                "object": "job",
                "dialect": "bushel",
                "endpoint": None,
                "parent_id": None,
                "task": "translation",
                "model": "translation-balanced",
                "tier": None,
                "status": "in_progress",
                "paused": False,
                "priority": 0,
                "params": {"target_lang": "de"},
                "long_input": "error",
                "on_error": "fail",
                "dry_run": False,
                "cache": False,
                "input_file_id": "file-0mgcxk2l9h4t8v2c6y0q1w5r3a",
                "format": {"type": "txt"},
                "completion_window": "24h",
                "metadata": None,
                "counts": {
                    "total": 1500,
                    "queued": 1000,
                    "running": 100,
                    "succeeded": 399,
                    "failed": 1,
                    "cancelled": 0,
                    "expired": 0,
                },
                "progress": 0.2667,
                "items_per_second": 66.7,
                "tokens_per_second": 1460.2,
                "eta_seconds": 16.5,
                "eta_low_seconds": 14.9,
                "eta_high_seconds": 19.3,
                "waiting_for": None,
                "errors": None,
                "estimate": None,
                "notices": {"truncated_inputs": 0, "cut_outputs": 2},
                "usage": {
                    "input_tokens": 4400,
                    "output_tokens": 4360,
                    "total_tokens": 8760,
                    "same_items": 0,
                    "cached_items": 0,
                    "saved_input_tokens": 0,
                    "saved_output_tokens": 0,
                    "device_seconds": 5.913,
                    "joules": None,
                },
                "output_file_id": None,
                "error_file_id": None,
                "report_file_id": None,
                "scores": None,
                "created_at": 1_790_000_000,
                "in_progress_at": 1_790_000_001,
                "finalizing_at": None,
                "completed_at": None,
                "failed_at": None,
                "expired_at": None,
                "cancelling_at": None,
                "cancelled_at": None,
                "expires_at": 1_790_086_400,
            }
        }
    )

    id: str
    object: Literal["job"] = "job"
    dialect: str = Field(description="The API it was submitted by: `bushel`, `openai` or `anthropic`.")
    endpoint: str | None = Field(description="The path its lines are sent to, in dialects whose requests name one.")
    parent_id: str | None = Field(description="The job that this one repeats, in part or as a whole.")
    task: str
    model: str | None = Field(
        description="null where every input names its own: while it is validated, and for good if there are several."
    )
    tier: str | None = Field(description="Which of its family the model is, as the registry says now; null if none.")
    status: StatusName
    paused: bool
    priority: int
    params: dict[str, Any]
    long_input: str
    on_error: str
    dry_run: bool
    cache: bool
    input_file_id: str | None
    format: dict[str, Any] | None
    completion_window: str | None
    metadata: dict[str, str] | None
    counts: Counts
    progress: float = Field(description="Share of the items that are settled, 0 to 1.")
    items_per_second: float | None
    tokens_per_second: float | None = Field(description="Input and output tokens.")
    eta_seconds: float | None = Field(description="Until the last result, waiting included; null: cannot be told.")
    eta_low_seconds: float | None = Field(
        description="The end comes between this and `eta_high_seconds` four times out of five, if it goes as lately;"
        " `GET /v1/estimates` says how often it did."
    )
    eta_high_seconds: float | None
    waiting_for: WaitingFor | None
    errors: JobErrors | None
    estimate: Estimate | None
    notices: Notices
    usage: Usage
    output_file_id: str | None
    error_file_id: str | None
    report_file_id: str | None = Field(description="The scores line by line; null where there are none.")
    scores: Scores | None = Field(description="null until the job has ended, and for one without references.")
    created_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    expires_at: int | None

    @classmethod
    def of(cls, job: Job, around: Surroundings, registry: Registry) -> "JobObject":
        seen = outlook(job, around)
        return cls(
            id=job.id,
            dialect=job.dialect,
            endpoint=job.endpoint,
            parent_id=job.parent_id,
            task=job.task,
            model=job.model,
            tier=registry.get(job.model).tier if job.model is not None and job.model in registry else None,
            status=job.status,
            # A job that was cancelled while it was paused is not paused any more, whatever its row remembers.
            paused=job.paused and not is_final(JobStatus(job.status)),
            priority=job.priority,
            params=job.params,
            long_input=job.long_input,
            on_error=job.on_error,
            dry_run=job.dry_run,
            cache=job.cache,
            input_file_id=job.input_file_id,
            format=_shown_format(job),
            completion_window=job.completion_window,
            metadata=job.job_metadata,
            counts=Counts.model_validate(job, from_attributes=True),
            progress=seen.progress,
            items_per_second=seen.items_per_second,
            tokens_per_second=seen.tokens_per_second,
            eta_seconds=seen.eta_seconds,
            eta_low_seconds=seen.eta_low_seconds,
            eta_high_seconds=seen.eta_high_seconds,
            waiting_for=WaitingFor.model_validate(seen.waiting_for, from_attributes=True) if seen.waiting_for else None,
            errors=JobErrors.model_validate(job.errors) if job.errors else None,
            estimate=Estimate.model_validate(job.estimate) if job.estimate else None,
            notices=Notices.model_validate(job, from_attributes=True),
            usage=Usage(
                input_tokens=job.input_tokens,
                output_tokens=job.output_tokens,
                total_tokens=job.input_tokens + job.output_tokens,
                same_items=job.same_items,
                cached_items=job.cached_items,
                saved_input_tokens=job.saved_input_tokens,
                saved_output_tokens=job.saved_output_tokens,
                device_seconds=round(job.device_seconds, 3),
                joules=None if job.joules is None else round(job.joules, 1),
            ),
            output_file_id=job.output_file_id,
            error_file_id=job.error_file_id,
            report_file_id=job.report_file_id,
            scores=Scores.model_validate(job.scores) if job.scores else None,
            created_at=unix(job.created_at) or 0,
            in_progress_at=unix(job.in_progress_at),
            finalizing_at=unix(job.finalizing_at),
            completed_at=unix(job.completed_at),
            failed_at=unix(job.failed_at),
            expired_at=unix(job.expired_at),
            cancelling_at=unix(job.cancelling_at),
            cancelled_at=unix(job.cancelled_at),
            expires_at=unix(job.expires_at),
        )


def _shown_format(job: Job) -> dict[str, Any] | None:
    """What the client said of its file; inline inputs have none, and what ingest added is no news to anybody."""
    if job.inputs_key is not None:
        return None
    return {name: value for name, value in job.format.items() if name != "columns"}


class JobList(BaseModel):
    """A part of the list of jobs."""

    object: Literal["list"] = "list"
    data: list[JobObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
