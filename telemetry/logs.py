"""A line for every log record: text for people or JSON for machines, with what it is about, and with nothing secret.

All parts of the service set their logging up here, whoever made the logger: `set_up` for a process of ours, `dress` for
handlers that gunicorn or Celery made. The fields of a line are those that are bound to what the thread is doing
(`about`), and over them those of the record itself (`extra=`).
"""

import json
import logging
import math
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO, cast

from structlog import contextvars
from structlog.processors import format_exc_info
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.typing import EventDict, WrappedLogger

from db.discretion import Discreet, redacted

# Of these every line has one; they stand before its fields.
TIMESTAMP, LEVEL, LOGGER, MESSAGE, EXCEPTION = "timestamp", "level", "logger", "message", "exception"
_OWN = (TIMESTAMP, LEVEL, LOGGER, MESSAGE, EXCEPTION)
# Whoever could put these into a message could write lines of their own, or move the cursor of who reads them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN = re.compile(r"[\w.:/@+-]+\Z", re.ASCII)


class LogFormat(StrEnum):
    """What a line looks like."""

    TEXT = "text"
    JSON = "json"


def set_up(format: LogFormat, level: str, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Log to `stream` (default: standard error), unless the process has a log already, as tests and embedders do."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(format, secrets))
    root.addHandler(handler)
    root.setLevel(level.upper())


def dress(logger: logging.Logger, format: LogFormat, secrets: Iterable[str] = ()) -> None:
    """Let every handler that the logger has by now write our lines; once is enough, twice does no harm."""
    for handler in logger.handlers:
        handler.setFormatter(formatter(format, secrets))


def formatter(format: LogFormat, secrets: Iterable[str] = ()) -> logging.Formatter:
    """Of whole lines. Secrets go twice: from each value before it is put into JSON's spelling, and from the line."""
    known = tuple(secrets)
    hidden = Discreet(None, known).secrets

    def rendered(logger: WrappedLogger, name: str, event: EventDict) -> str:
        fields = {str(key): plain(value, hidden) for key, value in event.items() if not str(key).startswith("_")}
        return _as_json(fields) if format is LogFormat.JSON else _as_text(fields)

    lines = ProcessorFormatter(
        foreign_pre_chain=[_keep_message, contextvars.merge_contextvars, ExtraAdder(), _stamp, format_exc_info],
        processors=[rendered],
    )
    return Discreet(lines, known)


def about(**ids: object) -> AbstractContextManager[None]:
    """Lines that this thread logs inside of it have these fields."""
    return cast("AbstractContextManager[None]", contextvars.bound_contextvars(**ids))


def begin(**ids: object) -> None:
    """From here on this thread's lines have these fields and no others."""
    contextvars.clear_contextvars()
    contextvars.bind_contextvars(**ids)


def add(**ids: object) -> None:
    """Lines of what the thread is doing have these fields from here on, too."""
    contextvars.bind_contextvars(**ids)


def plain(value: object, secrets: Iterable[str] = ()) -> Any:
    """What JSON can hold of any value, without secrets. Logging must not fail, so whatever else there is becomes text.

    >>> plain({"at": {1.5, }, "of": (1, None), "rate": float("nan")})
    {'at': '{1.5}', 'of': [1, None], 'rate': 'nan'}
    """
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            # A plain one also of an enumeration's member.
            return redacted(str(value), secrets)
        case Mapping():
            return {redacted(str(key), secrets): plain(each, secrets) for key, each in value.items()}
        case list() | tuple():
            return [plain(each, secrets) for each in value]
        case _:
            return redacted(str(value), secrets)


def _keep_message(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Under a name that no field can have: `logging` itself refuses a field called `message`."""
    event[MESSAGE] = event.pop("event")
    return event


def _stamp(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    event[TIMESTAMP] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    event[LEVEL], event[LOGGER] = record.levelname.lower(), record.name
    return event


def _as_json(fields: dict[str, Any]) -> str:
    ordered = {name: fields[name] for name in _OWN if name in fields} | fields
    # All of it in ASCII: no character can break the line, and none is beyond the stream's encoding.
    return json.dumps(ordered, separators=(",", ":"))


def _as_text(fields: dict[str, Any]) -> str:
    line = f"{fields[TIMESTAMP]} {fields[LEVEL].upper()} {fields[LOGGER]}: {escaped(fields[MESSAGE])}"
    shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items() if name not in _OWN)
    line = f"{line}  [{shown}]" if shown else line
    return f"{line}\n{fields[EXCEPTION]}" if EXCEPTION in fields else line


def escaped(text: str) -> str:
    """On one line, whatever is in it.

    >>> escaped("refused\\nERROR forged")
    'refused\\\\nERROR forged'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _shown(value: object) -> str:
    return value if isinstance(value, str) and _PLAIN.match(value) else json.dumps(value)
