"""How good the estimates of when jobs end have been."""

from typing import Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from api.errors import documented
from api.services import services
from api.wire import answer
from db import estimates
from db.bands import SHARE
from db.estimates import Record

tag = Tag(name="estimates", description="When jobs were said to end, and when they did.")
bp = APIBlueprint("estimates", __name__, url_prefix="/v1/estimates", abp_tags=[tag])


class RecordObject(BaseModel):
    """What became of estimates."""

    estimates: int = Field(description="How many there were whose job has run to its end; up to five of a job.")
    inside: float | None = Field(description="The share of them whose job ended inside the band; null: there are none.")
    median_error: float | None = Field(
        description="How far off the middle one was, as a share of the time that it really took."
    )


class ModelRecord(RecordObject):
    model: str | None = Field(description="null: of jobs that use several.")


class TrackRecord(BaseModel):
    """Estimates of the last days of all tenants' jobs, without whose they were."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "track_record",
                "days": 30,
                "aim": 0.8,
                "all": {"estimates": 412, "inside": 0.8155, "median_error": 0.094},
                "data": [
                    {"model": "translation-balanced", "estimates": 412, "inside": 0.8155, "median_error": 0.094},
                ],
            }
        }
    )

    object: Literal["track_record"] = "track_record"
    days: int
    aim: float = Field(description="The share of estimates that bands are made to hold for.")
    all: RecordObject
    data: list[ModelRecord] = Field(description="Model by model.")


@bp.get("", operation_id="get_track_record", responses={200: TrackRecord, **documented(401, 503)})
def show() -> Response:
    """Look at how good estimates were

    A running job's estimate is kept at 0, 10, 25, 50 and 75 % of its items, and compared with when its last result
    came. Jobs that were cancelled, paused, failed or ran out of time are left out.
    """
    with services().sessions() as session:
        found = estimates.track_record(session)
    models = [ModelRecord(model=each.model, **_shown(each)) for each in found if not each.is_all]
    everything = next((RecordObject(**_shown(each)) for each in found if each.is_all), None)
    none = RecordObject(estimates=0, inside=None, median_error=None)
    return answer(TrackRecord(days=estimates.DAYS, aim=SHARE, all=everything or none, data=models))


def _shown(record: Record) -> dict[str, int | float]:
    return {
        "estimates": record.estimates,
        "inside": round(record.inside, 4),
        "median_error": round(record.median_error, 4),
    }
