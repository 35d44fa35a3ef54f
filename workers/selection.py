"""Which lines of its parent's input a child job takes: those that have not succeeded there."""

from collections.abc import Iterator

import msgspec

from db.errors import NotFound
from db.inputs import Problem
from db.intake import Unfinished, unfinished
from db.session import Sessions
from workers.formats import Line

BLOCK_ITEMS = 10_000


class ParentDeleted(Exception):
    """The parent is gone, and with it the knowledge of what succeeded."""


def selected(sessions: Sessions, parent_id: str | None, lines: Iterator[Line]) -> Iterator[Line]:
    """The lines that the parent has not succeeded with; a line of nothing stands for each of the others.

    Lines and the parent's items both come in the file's order, so that one pass over both in step is enough. Reading
    ends with the last line that is wanted. Raises ParentDeleted when the parent is, or is being, deleted.
    """
    if parent_id is None:
        raise ParentDeleted
    wanted = _unfinished(sessions, parent_id)
    next_one = next(wanted, None)
    for line in lines:
        if next_one is None:
            return
        if line.number != next_one.line:
            yield Line(line.number)
            continue
        yield line if next_one.duplicate is None else _duplicate(line, next_one.duplicate)
        next_one = next(wanted, None)


def _unfinished(sessions: Sessions, parent_id: str) -> Iterator[Unfinished]:
    after = -1
    while True:
        try:
            with sessions() as session:
                block = unfinished(session, parent_id, after, BLOCK_ITEMS)
        except NotFound as exc:
            raise ParentDeleted from exc
        yield from block
        if len(block) < BLOCK_ITEMS:
            return
        after = block[-1].idx


def _duplicate(line: Line, said: str) -> Line:
    """Refused again, though the line that has its id need not come along; the id itself stays that line's."""
    message = said.removeprefix(f"line {line.number}: ")
    problem = Problem("duplicate_custom_id", message, "", line=line.number, param="custom_id")
    return msgspec.structs.replace(line, problems=(problem,), custom_id=None)
