"""The query of lists: `after` and `limit`."""

from pydantic import Field

from api.strict import Strict


class ListQuery(Strict):
    """A part of a list, newest first. To go on, send the `last_id` of the answer as `after`."""

    after: str | None = Field(None, description="Go on behind the element with this id.")
    limit: int = Field(20, ge=1, le=100, description="Most elements to return.")
