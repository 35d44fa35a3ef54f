"""An entry of a job's log as the API shows it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.job_object import EXAMPLE_ID
from db.models import JobEvent
from db.states import JobEventType


class EventObject(BaseModel):
    """Something that happened to a job."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "4711",
                "object": "job.event",
                "job_id": EXAMPLE_ID,
                "at": 1_790_000_000.123,
                "type": "completed",
                "detail": {"succeeded": 1499, "failed": 1, "cancelled": 0, "expired": 0},
            }
        }
    )

    id: str = Field(description="A number; it grows from event to event.")
    object: Literal["job.event"] = "job.event"
    job_id: str
    at: float = Field(description="Unix seconds.")
    type: JobEventType
    detail: dict[str, Any] = Field(description="What there is to say of it: numbers, ids, fixed words.")

    @classmethod
    def of(cls, event: JobEvent) -> "EventObject":
        return cls(
            id=str(event.id),
            job_id=event.job_id,
            at=event.created_at.timestamp(),
            type=JobEventType(event.type),
            detail=event.detail,
        )


class EventList(BaseModel):
    """A part of the log, the oldest first."""

    object: Literal["list"] = "list"
    data: list[EventObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
