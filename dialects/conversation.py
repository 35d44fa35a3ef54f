"""The turns of a chat as both APIs write them: a role, and a text or a list of parts."""

from collections.abc import Collection, Mapping

from db.inputs import MAX_LISTED, MAX_MESSAGES, Problem
from dialects.fields import Draft, checked_turn, missing, shown, unknown, unsupported, wrong

Turn = dict[str, str]


def turns(
    draft: Draft, name: str, value: object, roles: Mapping[str, str], others: Collection[str], of_part: Collection[str]
) -> list[Turn]:
    """The turns in our own shape, with the problems of those that are wrong left in `draft`.

    `roles` maps what the API knows to ours. `others` are fields that a turn may have besides role and content as
    long as they are empty; `of_part` are fields that a part may have, whatever they hold.
    """
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        found = f"a list of {len(value):,}" if isinstance(value, list) else shown(value)
        hint = f"it must be a list of 1 to {MAX_MESSAGES:,} messages"
        draft.problems.append(Problem("invalid_value", f"{name} is {found}", hint, param=name))
        return []
    read: list[Turn] = []
    for number, raw in enumerate(value):
        where = f"{name}[{number}]"
        if not isinstance(raw, Mapping):
            draft.problems.append(wrong(where, raw, "an object with role and content"))
        else:
            turn = _turn(draft, where, raw, roles, others, of_part)
            if turn is not None:
                read.append(turn)
        if len(draft.problems) >= MAX_LISTED:
            break
    return read


def _turn(
    draft: Draft,
    where: str,
    raw: Mapping[str, object],
    roles: Mapping[str, str],
    others: Collection[str],
    of_part: Collection[str],
) -> Turn | None:
    if len(raw) > 2:
        draft.problems += _of_the_others(where, raw, others)
    role, content = raw.get("role"), raw.get("content")
    ours = roles.get(role) if isinstance(role, str) else None
    if ours is None:
        draft.problems.append(_wrong_role(f"{where}.role", role, roles))
        return None
    if content is None:
        draft.problems.append(missing(f"{where}.content"))
        return None
    text = content if isinstance(content, str) else joined(draft, f"{where}.content", content, of_part)
    draft.problems += checked_turn(text, f"{where}.content")
    return {"role": ours, "content": text}


def joined(draft: Draft, where: str, parts: object, of_part: Collection[str]) -> str:
    """The texts of a list of parts, joined as they stand."""
    if not isinstance(parts, list):
        draft.problems.append(wrong(where, parts, "a string or a list of text parts"))
        return ""
    texts = []
    for number, part in enumerate(parts):
        problem = _of_the_part(f"{where}[{number}]", part, of_part)
        if problem is None:
            texts.append(part["text"])
            continue
        draft.problems.append(problem)
        if len(draft.problems) >= MAX_LISTED:
            break
    return "".join(texts)


def _of_the_part(where: str, part: object, of_part: Collection[str]) -> Problem | None:
    if not isinstance(part, Mapping):
        return wrong(where, part, 'an object like {"type": "text", "text": "…"}')
    if "type" not in part:
        return missing(f"{where}.type")
    if part["type"] != "text":
        return unsupported(f"{where}.type", f"{where} is {shown(part['type'])}", "only text can be sent")
    if not isinstance(part.get("text"), str):
        return wrong(f"{where}.text", part.get("text"), "a string")
    for name, value in part.items():
        if name not in ("type", "text") and name not in of_part and value not in (None, []):
            return unsupported(f"{where}.{name}", f"{where}.{name[:64]} cannot be honoured")
    return None


def _of_the_others(where: str, raw: Mapping[str, object], others: Collection[str]) -> list[Problem]:
    problems = []
    for name, value in raw.items():
        if name in ("role", "content"):
            continue
        if name not in others:
            problems.append(unknown(name, others, f"{where}."))
        elif value not in (None, [], ""):
            problems.append(unsupported(f"{where}.{name}", f"{where}.{name} cannot be honoured"))
        if len(problems) >= MAX_LISTED:
            break
    return problems


def _wrong_role(where: str, role: object, roles: Mapping[str, str]) -> Problem:
    expected = f"one of {', '.join(roles)}"
    if role is None:
        return missing(where)
    if role in ("tool", "function"):
        return unsupported(where, f"{where} is {shown(role)}, and models here call no tools", f"it must be {expected}")
    return wrong(where, role, expected)
