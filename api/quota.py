"""What the tenant may have at once, and what it has."""

from typing import Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from api.errors import documented
from api.services import services, tenant_id
from api.wire import answer
from db import quotas

tag = Tag(name="quota", description="How much your tenant may have, and how much it has.")
bp = APIBlueprint("quota", __name__, url_prefix="/v1/quota", abp_tags=[tag])


class QuotaLine(BaseModel):
    """One limit, and how much of it is taken."""

    limit: int | None = Field(description="null: no limit.")
    used: int


class RateLine(BaseModel):
    limit: int | None = Field(description="null: no limit. What is left of it is in the `RateLimit` header of answers.")


class QuotaObject(BaseModel):
    """Limits, and what is used of them: given back as jobs end, are cancelled or deleted, and as files go."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "quota",
                "open_jobs": {"limit": 10_000, "used": 3},
                "queued_items": {"limit": 5_000_000, "used": 12_400},
                "queued_tokens": {"limit": None, "used": 310_000},
                "stored_bytes": {"limit": 10_000_000_000, "used": 52_311},
                "requests_per_second": {"limit": None},
            }
        }
    )

    object: Literal["quota"] = "quota"
    open_jobs: QuotaLine = Field(description="Jobs and batches that have not ended.")
    queued_items: QuotaLine = Field(description="Their items that no worker has begun.")
    queued_tokens: QuotaLine = Field(description="The tokens of those items, as estimated.")
    stored_bytes: QuotaLine = Field(description="Files, result files too, uploads under way, and inputs sent inline.")
    requests_per_second: RateLine


@bp.get("", operation_id="get_quota", responses={200: QuotaObject, **documented(401, 503)})
def show() -> Response:
    """Look at your quotas"""
    with services().sessions() as session:
        limits = quotas.limits(session, tenant_id(), services().settings.quotas)
        used = quotas.used(session, tenant_id())
    lines = {quota.value: QuotaLine(limit=limits.of(quota), used=used.of(quota)) for quota in quotas.COUNTED}
    return answer(
        QuotaObject.model_validate(lines | {"requests_per_second": RateLine(limit=limits.requests_per_second)})
    )
