"""How a job goes, for whoever wants to plot it."""

from datetime import datetime
from typing import Any, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field

from api.errors import documented
from api.job_object import EXAMPLE_ID
from api.jobs import JobPath, tag
from api.services import services, tenant_id
from api.wire import answer
from db import jobs, statistics

bp = APIBlueprint("statistics", __name__, url_prefix="/v1/jobs", abp_tags=[tag])


class SettledPoint(BaseModel):
    """At this time so many items had succeeded or failed."""

    at: float = Field(description="Unix seconds.")
    items: int


class DistributionBin(BaseModel):
    """How many values are from `low` to below `high`; in the last bin, to `high`."""

    model_config = ConfigDict(from_attributes=True)

    low: float
    high: float
    count: int


class DistributionObject(BaseModel):
    """How values are spread. The last bin reaches to the largest value, and may be wider than the others."""

    model_config = ConfigDict(from_attributes=True)

    count: int
    low: float
    median: float
    mean: float
    p95: float
    high: float
    bins: list[DistributionBin]

    @classmethod
    def of(cls, found: statistics.Distribution | None) -> "DistributionObject | None":
        return None if found is None else cls.model_validate(found)


class FailedItem(BaseModel):
    """An item that failed."""

    model_config = ConfigDict(from_attributes=True)

    index: int
    line: int = Field(description="Of the input, from 1.")
    custom_id: str
    message: str = Field(description="Its first 500 characters.")


class FailureGroupObject(BaseModel):
    """Items that failed with the same code."""

    code: str
    count: int
    examples: list[FailedItem] = Field(description="The first three.")


class FailuresObject(BaseModel):
    """Failed items by code, most frequent first."""

    total: int = Field(description="All that failed.")
    counted: int = Field(
        description="Those that were looked at: up to 10,000 failed ones among the first 250,000 with a result."
    )
    groups: list[FailureGroupObject]


class StatisticsObject(BaseModel):
    """How a job goes. Tokens and seconds are those of a sample: up to 2,000 items, evenly from the whole input."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "job.statistics",
                "job_id": EXAMPLE_ID,
                "sampled_items": 2,
                "settled": [{"at": 1_790_000_001.0, "items": 0}, {"at": 1_790_000_003.2, "items": 2}],
                "input_tokens": {
                    "count": 2,
                    "low": 6,
                    "median": 6,
                    "mean": 6.5,
                    "p95": 7,
                    "high": 7,
                    "bins": [{"low": 6, "high": 7, "count": 2}],
                },
                "output_tokens": None,
                "chunk_seconds": None,
                "waited_seconds": None,
                "failures": {"total": 0, "counted": 0, "groups": []},
                "recipes": [],
            }
        }
    )

    object: Literal["job.statistics"] = "job.statistics"
    job_id: str
    sampled_items: int
    settled: list[SettledPoint] = Field(description="Up to 200 points, from the job's start on.")
    input_tokens: DistributionObject | None = Field(description="As they were estimated when the job was checked.")
    output_tokens: DistributionObject | None = Field(description="Of items that succeeded.")
    chunk_seconds: DistributionObject | None = Field(
        description="How long a worker had the chunk that the item ran in: what a result takes once its turn has come."
    )
    waited_seconds: DistributionObject | None = Field(description="From the job's creation to the start of that chunk.")
    failures: FailuresObject
    recipes: list[dict[str, Any]] = Field(
        description="What made the results: model and its revision, weights, tokenizer, engine and its version."
    )


@bp.get(
    "/<job_id>/statistics",
    operation_id="get_job_statistics",
    responses={200: StatisticsObject, **documented(401, 404, 503)},
)
def show(path: JobPath) -> Response:
    """See how a job goes

    Progress over time, lengths, latencies, failures by code, and what made the results. It costs about the same for
    jobs of any size, and it is not for polling every second.
    """
    with services().sessions() as session:
        job = jobs.get(session, tenant_id(), path.job_id)
        found = statistics.statistics(session, job)
    begun = [SettledPoint(at=_seconds(job.in_progress_at), items=0)] if job.in_progress_at is not None else []
    return answer(
        StatisticsObject(
            job_id=job.id,
            sampled_items=found.sampled,
            settled=[*begun, *(SettledPoint(at=_seconds(at), items=items) for at, items in found.settled)],
            input_tokens=DistributionObject.of(found.input_tokens),
            output_tokens=DistributionObject.of(found.output_tokens),
            chunk_seconds=DistributionObject.of(found.seconds),
            waited_seconds=DistributionObject.of(found.waited),
            failures=_failures(job.failed, found.failures),
            recipes=[dict(recipe) for recipe in found.recipes],
        )
    )


def _seconds(moment: datetime) -> float:
    return round(moment.timestamp(), 3)


def _failures(total: int, found: statistics.Failures) -> FailuresObject:
    groups = [FailureGroupObject.model_validate(group, from_attributes=True) for group in found.groups]
    return FailuresObject(total=total, counted=found.counted, groups=groups)
