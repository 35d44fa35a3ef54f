"""Where a list goes on: the id of the last element read, exclusive, valid even when that element is gone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import ColumnElement, Select, func, literal, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from db.errors import LedgerError

Order = Literal["asc", "desc"]
Row = TypeVar("Row")

_ID = re.compile(r"[a-z]+[_-]([0-9a-z]{9})[0-9a-z]{16}\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UnknownCursor(LedgerError):
    """`after` is no id of this list."""

    def __init__(self, after: str) -> None:
        super().__init__(f"after={after[:80]!r} is not the id of an element of this list")
        self.after = after


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """A part of a list, and whether more follows."""

    rows: Sequence[Row]
    has_more: bool


def is_id(text: str, prefix: str) -> bool:
    """Whether this could be an id of ours. What could not be is never sent to the database, which refuses NUL.

    >>> is_id("job_0mgcxk2l9abcdefghij012345", "job_"), is_id("job_x", "job_"), is_id("file-1", "job_")
    (True, False, False)
    """
    return text.startswith(prefix) and _ID.match(text) is not None


def born(id: str) -> datetime:
    """When an id was made, to the millisecond; rows take their `created_at` from it.

    So (created_at, id) can be told from the id alone, and a cursor survives the row it names.
    """
    match = _ID.match(id)
    assert match is not None, id
    return _EPOCH + timedelta(milliseconds=int(match[1], 36))


def beyond(
    query: Select[Any],
    tenant_id: str,
    table: Any,
    after: str | None,
    limit: int,
    order: Order,
    prefix: str,
) -> Select[Any]:
    """The query narrowed to what follows `after` in (created_at, id) order, and to one row more than `limit`."""
    created: InstrumentedAttribute[datetime] = table.created_at
    id: InstrumentedAttribute[str] = table.id
    if after is not None:
        if not is_id(after, prefix):
            raise UnknownCursor(after)
        row = select(created).where(table.tenant_id == tenant_id, id == after).scalar_subquery()
        place: ColumnElement[Any] = tuple_(func.coalesce(row, literal(born(after))), literal(after))
        here = tuple_(created, id)
        query = query.where(here < place if order == "desc" else here > place)
    ordering = (created.desc(), id.desc()) if order == "desc" else (created.asc(), id.asc())
    return query.order_by(*ordering).limit(limit + 1)


def page(rows: Sequence[Row], limit: int) -> Page[Row]:
    """What `beyond` selected, without the extra row that only says that there is more."""
    return Page(rows[:limit], len(rows) > limit)
