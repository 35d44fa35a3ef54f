"""What a package says it needs, and whether a version will do. Pure, and as much of PEP 440 as our own pins use.

Not `packaging`: the command line alone does not bring it, and is examined as well.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)\s*(?:\[(?P<extras>[\w,\s.-]+)\])?\s*\(?(?P<versions>[^;()]*)\)?\s*"
    r"(?:;.*?extra == ['\"](?P<extra>[\w-]+)['\"].*)?"
)
_CONDITION = re.compile(r"(==|!=|>=|<=|>|<)\s*(\d+(?:\.\d+)*)(\.\*)?")


@dataclass(frozen=True, slots=True)
class Requirement:
    """`extra` is which extra of ours asks for it, empty: all installations do; `extras` are what it asks for of it."""

    name: str
    extras: tuple[str, ...]
    versions: str
    extra: str


def requirement(text: str) -> Requirement:
    """
    >>> requirement('psycopg[binary,pool]<3.4,>=3.3; extra == "ledger"')
    Requirement(name='psycopg', extras=('binary', 'pool'), versions='<3.4,>=3.3', extra='ledger')
    """
    match = _REQUIREMENT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not understood: {text}")
    extras = tuple(word.strip() for word in (match["extras"] or "").split(",") if word.strip())
    return Requirement(match["name"], extras, match["versions"].strip(), match["extra"] or "")


def needs(requirements: Sequence[Requirement], extra: str) -> list[Requirement]:
    """What an extra brings, that of our other extras which it asks for included; "" is what is always there."""
    found: list[Requirement] = []
    for each in requirements:
        if each.extra == extra:
            if each.name == "bushel":
                found += (inner for name in each.extras for inner in needs(requirements, name))
            else:
                found.append(each)
    return list(dict.fromkeys(found))


def fits(version: str, wanted: str) -> bool:
    """Whether the version is one of those wanted. Of the version only its numbers count.

    >>> fits("2.13.0+cpu", "==2.13.*"), fits("9.1.2.post2", ">=9.1,<10"), fits("3.2.0", ">=3.3"), fits("5.0", "")
    (True, True, False, True)
    """
    return all(_holds(_numbers(version), *condition.groups()) for condition in _CONDITION.finditer(wanted))


def _holds(have: tuple[int, ...], sign: str, wanted: str, star: str | None) -> bool:
    limit = _numbers(wanted)
    if star:
        return (have[: len(limit)] == limit) is (sign == "==")
    width = max(len(have), len(limit))
    mine, other = (each + (0,) * (width - len(each)) for each in (have, limit))
    return {
        "==": mine == other,
        "!=": mine != other,
        ">=": mine >= other,
        "<=": mine <= other,
        ">": mine > other,
        "<": mine < other,
    }[sign]


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
