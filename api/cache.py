"""The tenant's cache: results of its jobs that later ones may take."""

import logging
from typing import Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from api import auth
from api.errors import documented
from api.services import services, tenant_id
from api.wire import answer
from db import cache
from db.audit_log import Act

logger = logging.getLogger(__name__)

tag = Tag(name="cache", description="Results of your jobs with `cache`, which later ones need not compute again.")
bp = APIBlueprint("cache", __name__, url_prefix="/v1/cache", abp_tags=[tag])


class CacheObject(BaseModel):
    """How much there is to be taken. It takes no room of its own: entries only say where results are."""

    object: Literal["cache"] = "cache"
    entries: int = Field(description="Results that can be taken, each of another input, model or parameters.")
    has_more: bool = Field(description=f"There are more; counting stops at {cache.MOST_COUNTED:,}.")


class CacheCleared(BaseModel):
    """Said when the cache is empty."""

    object: Literal["cache"] = "cache"
    cleared: int = Field(description="Entries that were in it.")


@bp.get("", operation_id="get_cache", responses={200: CacheObject, **documented(401, 503)})
def show() -> Response:
    """Look at your cache"""
    with services().sessions() as session:
        found = cache.size(session, tenant_id(), cache.MOST_COUNTED + 1)
    return answer(CacheObject(entries=min(found, cache.MOST_COUNTED), has_more=found > cache.MOST_COUNTED))


@bp.delete("", operation_id="clear_cache", responses={200: CacheCleared, **documented(401, 503)})
def clear() -> Response:
    """Empty your cache

    Jobs and their results stay as they are; what they have is not taken any more. Jobs that run go on filling it.
    """
    with services().sessions.begin() as session:
        cleared = cache.clear(session, tenant_id())
        auth.note(session, Act.CACHE_CLEARED, "cache", entries=cleared)
    logger.info("a cache of %d entries was cleared", cleared, extra={"action": "cache_cleared", "entries": cleared})
    return answer(CacheCleared(cleared=cleared))
