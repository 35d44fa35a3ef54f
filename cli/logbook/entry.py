"""One line of a log, whoever wrote it: when, how grave, what, and about what. Pure: a line in, an entry out."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

LEVELS = ("debug", "info", "warning", "error", "critical")

# What Bushel's own parts write with BUSHEL_LOG_FORMAT=text; telemetry/logs.py says how.
_TEXT = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) "
    r"(?P<level>[A-Z]+) (?P<logger>[^\s:]+): (?P<message>.*)"
)
# PostgreSQL's, by the log_line_prefix of cli/stack/postgres.py; the cluster's owner may change its zone.
_POSTGRES = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) (?P<zone>\S+) "
    r"\[(?P<pid>\d+)\] \S*\s?(?P<level>[A-Z0-9]+):  ?(?P<message>.*)"
)
_POSTGRES_LEVELS = {
    "LOG": "info",
    "INFO": "info",
    "NOTICE": "info",
    "WARNING": "warning",
    "ERROR": "error",
    "FATAL": "critical",
    "PANIC": "critical",
    **{f"DEBUG{number}": "debug" for number in range(1, 6)},
}
# PostgreSQL explains a line in further ones, which have a time of their own.
_POSTGRES_MORE = frozenset({"DETAIL", "HINT", "CONTEXT", "STATEMENT", "QUERY", "LOCATION", "BACKTRACE"})
# Valkey's and Redis's: process and role, the local time, and a character for the level.
_VALKEY = re.compile(
    r"(?P<pid>\d+):(?P<role>[A-Z]) (?P<at>\d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d\.\d{3}) "
    r"(?P<level>[.\-*#]) (?P<message>.*)"
)
_VALKEY_LEVELS = {".": "debug", "-": "debug", "*": "info", "#": "warning"}
_KEY = re.compile(r"([^\s=\[\]]+)=")
_OWN = ("timestamp", "level", "logger", "message", "exception")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line, and those behind it that belong to it: of a traceback, say.

    `at` is in Unix seconds; None for lines at the beginning of a file that have no time.
    """

    at: float | None
    level: str
    message: str
    logger: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    more: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Everything that it says, for searching."""
        shown = [f"{name}={value}" for name, value in self.fields.items()]
        return "\n".join([self.message, *shown, *self.more])


def parsed(line: str) -> Entry | None:
    """The entry that the line begins; None if it belongs to the one before."""
    if line.startswith("{"):
        return _json(line)
    if match := _TEXT.fullmatch(line):
        return _text(match)
    if match := _POSTGRES.fullmatch(line):
        return _postgres(match)
    if match := _VALKEY.fullmatch(line):
        return _valkey(match)
    return None


def is_grave(level: str, least: str) -> bool:
    """Whether `level` is `least` or above.

    >>> is_grave("error", "warning"), is_grave("info", "warning")
    (True, False)
    """
    return LEVELS.index(level) >= LEVELS.index(least)


def _json(line: str) -> Entry | None:
    try:
        content = json.loads(line)
        at = datetime.fromisoformat(content["timestamp"])
        message = content["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    fields = {name: value for name, value in content.items() if name not in _OWN}
    more = tuple(str(content["exception"]).splitlines()) if content.get("exception") else ()
    return Entry(_seconds(at), _level(content.get("level")), str(message), str(content.get("logger", "")), fields, more)


def _text(match: re.Match[str]) -> Entry | None:
    try:
        at = datetime.fromisoformat(match["at"])
    except ValueError:
        return None
    message, fields = split_fields(match["message"])
    return Entry(_seconds(at), _level(match["level"]), message, match["logger"], fields)


def split_fields(text: str) -> tuple[str, dict[str, Any]]:
    """What stands behind a message in brackets, as telemetry/logs.py writes it, apart from it.

    >>> split_fields("chunk 5: done  [job_id=job_1 chunk_id=5 models=[\\"a b\\"]]")
    ('chunk 5: done', {'job_id': 'job_1', 'chunk_id': 5, 'models': ['a b']})
    >>> split_fields("a list  [1, 2]")
    ('a list  [1, 2]', {})
    """
    start = text.find("  [")
    while start >= 0:
        if text.endswith("]") and (fields := _fields(text[start + 3 : -1])) is not None:
            return text[:start], fields
        start = text.find("  [", start + 1)
    return text, {}


def _fields(text: str) -> dict[str, Any] | None:
    """`name=value name="a b"` as a dictionary; None if it is anything else. A number may have been a text of digits."""
    found: dict[str, Any] = {}
    at = 0
    while at < len(text):
        key = _KEY.match(text, at)
        if key is None:
            return None
        value, at = _value(text, key.end())
        if at < len(text) and text[at] != " ":
            return None
        found[key[1]] = value
        at += 1
    return found or None


def _value(text: str, start: int) -> tuple[Any, int]:
    """JSON, or else a word; and where it ends."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    else:
        if end == len(text) or text[end] == " ":
            return value, end
    end = text.find(" ", start)
    return (text[start:], len(text)) if end < 0 else (text[start:end], end)


def _postgres(match: re.Match[str]) -> Entry | None:
    level = _POSTGRES_LEVELS.get(match["level"])
    try:
        at = _zoned(datetime.fromisoformat(match["at"]), match["zone"])
    except ValueError:
        return None
    # What only explains, and words of other languages than English, belong to the line before.
    return Entry(_seconds(at), level, match["message"], "postgres", {"pid": int(match["pid"])}) if level else None


def explains(line: str) -> str | None:
    """What a line of PostgreSQL's says about the one before, without its prefix; None if it is no such line."""
    match = _POSTGRES.fullmatch(line)
    return f"{match['level']}:  {match['message']}" if match and match["level"] in _POSTGRES_MORE else None


def _zoned(at: datetime, zone: str) -> datetime:
    """PostgreSQL names its zone, or says how far it is from UTC; other names are taken for the zone of this machine."""
    if zone in ("UTC", "GMT", "Z"):
        return at.replace(tzinfo=UTC)
    if match := re.fullmatch(r"([+-])(\d\d)(?::?(\d\d))?", zone):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
        return at.replace(tzinfo=timezone(offset if match[1] == "+" else -offset))
    return at.astimezone()


def _valkey(match: re.Match[str]) -> Entry | None:
    try:
        # The months are English, as Python's are: nobody here sets another locale for times.
        at = datetime.strptime(match["at"], "%d %b %Y %H:%M:%S.%f").astimezone()
    except ValueError:
        return None
    return Entry(at.timestamp(), _VALKEY_LEVELS[match["level"]], match["message"], "valkey", {"pid": int(match["pid"])})


def _seconds(at: datetime) -> float:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _level(name: object) -> str:
    """One of LEVELS; info for names that nobody has heard of."""
    word = str(name).lower()
    return word if word in LEVELS else {"warn": "warning", "fatal": "critical"}.get(word, "info")
