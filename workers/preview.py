"""What a dry run shows of how it read the input: its columns and its first items, cut to what a page can hold."""

from collections.abc import Iterable, Sequence
from typing import Any

from db.inputs import storable
from workers.drafts import Draft

MOST_ITEMS = 5
# It is kept in the job's row, which every look at the job reads.
MOST_COLUMNS, MOST_CHARS, MOST_TURNS = 50, 300, 10


def columns(header: Sequence[str] | None) -> list[str] | None:
    """The first columns of a CSV file; None for what has none."""
    return None if header is None else [cut(name) for name in header[:MOST_COLUMNS]]


def items(drafts: Iterable[Draft], most: int = MOST_ITEMS) -> list[dict[str, Any]]:
    """The first ones that would be run: {"line", "custom_id", "input", "reference", "cut"}.

    `input` is as in results; `cut` says that something of the item is not shown.
    """
    found: list[dict[str, Any]] = []
    for draft in drafts:
        if len(found) == most:
            break
        if draft.setup is not None:
            found.append(_item(draft))
    return found


def cut(text: str) -> str:
    """
    >>> cut("x" * 400) == "x" * 299 + "…"
    True
    """
    return text if len(text) <= MOST_CHARS else storable(text[: MOST_CHARS - 1]) + "…"


def _item(draft: Draft) -> dict[str, Any]:
    assert draft.line.input is not None
    body, references = draft.line.input.body, draft.line.input.reference or []
    whole: dict[str, Any] = {"input": body, "reference": references[0] if references else None}
    shown = {"input": _shown(body), "reference": cut(references[0]) if references else None}
    return {"line": draft.line.number, "custom_id": draft.custom_id, **shown, "cut": shown != whole}


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    if "messages" in body:
        turns = body["messages"][:MOST_TURNS]
        return {"messages": [{"role": turn["role"], "content": cut(turn["content"])} for turn in turns]}
    return {"text": cut(body["text"])} if "text" in body else {}
