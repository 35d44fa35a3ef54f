"""A batch as the client sees it: the job's row under OpenAI's names, and what we know beyond them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.job_object import Counts, WaitingFor
from api.openai import wire
from db.ids import renamed
from db.models import Job
from db.outlook import Surroundings, outlook

PREFIX = "batch_"
EXAMPLE_ID = "batch_0mgcxk2l9h4t8v2c6y0q1w5r3a"
EXAMPLE_FILE = "file-0mgcxk2l9h4t8v2c6y0q1w5r3a"


class BatchCounts(BaseModel):
    total: int
    completed: int = Field(description="Succeeded requests.")
    failed: int


class BatchError(BaseModel):
    code: str | None
    message: str | None
    param: str | None
    line: int | None = Field(description="From 1.")


class BatchErrors(BaseModel):
    object: Literal["list"]
    data: list[BatchError]


class InputTokensDetails(BaseModel):
    cached_tokens: int


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int


class BatchUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class BatchExtension(BaseModel):
    """What a batch knows of itself beyond the OpenAI API."""

    job_id: str = Field(description="The same thing under `/v1/jobs`.")
    parent_id: str | None = Field(description="The batch, or job, that this one repeats.")
    counts: Counts
    progress: float
    items_per_second: float | None
    tokens_per_second: float | None
    eta_seconds: float | None = Field(description="Until the last result; null: cannot be told.")
    waiting_for: WaitingFor | None = Field(description="Why nothing of it runs.")
    paused: bool
    priority: int
    on_error: str
    long_input: str
    params: dict[str, Any]
    cache: bool
    same_requests: int = Field(description="Of the completed ones, those that were equal to others of the batch.")
    cached_requests: int = Field(description="Of the completed ones, those whose result was in your cache.")
    saved_input_tokens: int = Field(description="Tokens of both, which were not computed and are not in `usage`.")
    saved_output_tokens: int
    error_count: int = Field(description="How many problems the file has; `errors` lists the first hundred.")
    output_lifetime_seconds: int | None


class BatchObject(BaseModel):
    """A batch. All times are Unix seconds."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": EXAMPLE_ID,
                "object": "batch",
                "endpoint": "/v1/chat/completions",
                "model": "a-chat-model",
                "errors": None,
                "input_file_id": EXAMPLE_FILE,
                "completion_window": "24h",
                "status": "in_progress",
                "output_file_id": None,
                "error_file_id": None,
                "created_at": 1_790_000_000,
                "in_progress_at": 1_790_000_001,
                "expires_at": 1_790_086_400,
                "finalizing_at": None,
                "completed_at": None,
                "failed_at": None,
                "expired_at": None,
                "cancelling_at": None,
                "cancelled_at": None,
                "request_counts": {"total": 100, "completed": 40, "failed": 1},
                "metadata": {"customer": "7"},
            }
        }
    )

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None = Field(description="null until validation has ended, and if the lines name several.")
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None = Field(description="null if nothing succeeded.")
    error_file_id: str | None = Field(description="null if everything succeeded.")
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None
    bushel: BatchExtension


class BatchList(BaseModel):
    """A part of the list of batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def batch_id(job: Job) -> str:
    return renamed(job.id, PREFIX)


def shown(job: Job, around: Surroundings) -> dict[str, Any]:
    seen = outlook(job, around)
    waiting = seen.waiting_for
    extension = {
        "job_id": job.id,
        "parent_id": job.parent_id,
        "counts": wire.counts(job),
        "progress": seen.progress,
        "items_per_second": seen.items_per_second,
        "tokens_per_second": seen.tokens_per_second,
        "eta_seconds": seen.eta_seconds,
        "waiting_for": None if waiting is None else {"code": waiting.code, "message": waiting.message},
        "paused": job.paused,
        "priority": job.priority,
        "on_error": job.on_error,
        "long_input": job.long_input,
        "params": job.params,
        "cache": job.cache,
        "same_requests": job.same_items,
        "cached_requests": job.cached_items,
        "saved_input_tokens": job.saved_input_tokens,
        "saved_output_tokens": job.saved_output_tokens,
        "error_count": job.errors["total"] if job.errors else 0,
        "output_lifetime_seconds": job.output_lifetime_seconds,
    }
    return wire.batch(batch_id(job), job, extension)
