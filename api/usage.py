"""What the tenant used: items, tokens, time on devices, by day, model and task."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from api.errors import InvalidRequest, documented
from api.services import services, tenant_id
from api.strict import Strict
from api.wire import answer
from db import usage
from db.usage import Dimension, Used

tag = Tag(name="usage", description="What your tenant used.")
bp = APIBlueprint("usage", __name__, url_prefix="/v1/usage", abp_tags=[tag])

MOST_DAYS = 400
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_GROUPS = (Dimension.DAY, Dimension.MODEL, Dimension.TASK)


def _day(value: object) -> object:
    """Only this form: others that Python reads as a date, numbers among them, are rather a mistake."""
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError as exc:
            raise ValueError(f"must be a day that there is, not {value}") from exc
    if isinstance(value, date) or value is None:
        return value
    raise ValueError("must be a day, as 2026-11-24")


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def _known(value: str) -> str:
    known = [group.value for group in _GROUPS]
    if unknown := [name for name in _names(value) if name not in known]:
        raise ValueError(f"must be any of {', '.join(known)}, with commas between them, not {unknown[0]!r}")
    return value


Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]


class UsageQuery(Strict):
    """Days are those of UTC."""

    from_: Day | None = Field(None, alias="from", description="The first day; 29 days before the last, if not said.")
    to: Day | None = Field(None, description="The last day, itself included; today, if not said.")
    group_by: Annotated[str, AfterValidator(_known)] = Field(
        "day", description="Any of `day`, `model` and `task`, with commas between them; empty: the total."
    )

    @property
    def groups(self) -> list[Dimension]:
        return [group for group in _GROUPS if group in _names(self.group_by)]


class AmountsObject(BaseModel):
    """What was used."""

    succeeded: int = Field(description="Items with an output; repeated inputs that were computed once count each.")
    failed: int = Field(description="Items that were run and failed; those refused while a file was read do not count.")
    input_tokens: int
    output_tokens: int
    total_tokens: int
    device_seconds: float = Field(description="Time on a device, work that was thrown away included.")
    joules: float | None = Field(description="Energy of the devices in that time; null where none was measured.")


class UsageRow(AmountsObject):
    """What was used of a day, a model, a task; null is all of them."""

    day: date | None
    model: str | None
    task: str | None


class UsageObject(BaseModel):
    """Usage over some days. Deleting a job does not take away what it used."""

    model_config = ConfigDict(
        populate_by_name=True,
        json_schema_extra={
            "example": {
                "object": "usage",
                "from": "2026-11-23",
                "to": "2026-11-24",
                "group_by": ["model"],
                "data": [
                    {
                        "day": None,
                        "model": "translation-balanced",
                        "task": None,
                        "succeeded": 1_500_000,
                        "failed": 12,
                        "input_tokens": 16_500_210,
                        "output_tokens": 17_013_342,
                        "total_tokens": 33_513_552,
                        "device_seconds": 22_950.118,
                        "joules": None,
                    }
                ],
                "total": {
                    "succeeded": 1_500_000,
                    "failed": 12,
                    "input_tokens": 16_500_210,
                    "output_tokens": 17_013_342,
                    "total_tokens": 33_513_552,
                    "device_seconds": 22_950.118,
                    "joules": None,
                },
            }
        },
    )

    object: Literal["usage"] = "usage"
    from_: date = Field(alias="from")
    to: date
    group_by: list[Literal["day", "model", "task"]]
    data: list[UsageRow] = Field(description="Ordered by day, model, task. What was not used has no row.")
    total: AmountsObject


@bp.get("", operation_id="get_usage", responses={200: UsageObject, **documented(400, 401, 503)})
def show(query: UsageQuery) -> Response:
    """Look at your usage

    Of every chunk that was recorded, single requests included, in the transaction that stored its results.
    """
    first, last = _span(query)
    with services().sessions() as session:
        rows = usage.used(session, tenant_id(), first, last, query.groups)
    return answer(
        UsageObject(
            from_=first,
            to=last,
            group_by=[group.value for group in query.groups],
            data=[_row(row) for row in rows],
            total=AmountsObject(**usage.total(rows).shown()),
        )
    )


def _span(query: UsageQuery) -> tuple[date, date]:
    last = query.to or datetime.now(UTC).date()
    if query.from_ is None and last < date.min + timedelta(days=usage.USUAL_DAYS):
        raise InvalidRequest("`to` is too early a day", param="to", code="invalid_value")
    first = query.from_ or last - timedelta(days=usage.USUAL_DAYS - 1)
    if first > last:
        raise InvalidRequest(f"`from` ({first}) is after `to` ({last})", param="from", code="invalid_value")
    if (last - first).days >= MOST_DAYS:
        raise InvalidRequest(
            f"{(last - first).days + 1:,} days are asked for, and {MOST_DAYS} may be at once; ask in parts",
            param="from",
            code="invalid_value",
        )
    return first, last


def _row(row: Used) -> UsageRow:
    return UsageRow(day=row.day, model=row.model, task=row.task, **row.amounts.shown())
