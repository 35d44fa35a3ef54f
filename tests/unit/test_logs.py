"""A log line has what it is about and nothing secret, and is one line, whatever is logged."""

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cli.stack.parts import _IMPORTANT
from telemetry import logs
from telemetry.logs import LogFormat, formatter

PASSWORD = 'h"ünter\\22'
KEY = "bsh_0123456789ab_0123456789abcdef0123456789abcdef"


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    return made(logging.INFO, message, *args, **extra)


def made(severity: int, message: str, *args: object, **extra: object) -> logging.LogRecord:
    logger = logging.Logger("some.module")
    return logger.makeRecord(logger.name, severity, __file__, 1, message, args, None, extra=extra)


def as_json(one: logging.LogRecord, *secrets: str) -> dict[str, Any]:
    line = formatter(LogFormat.JSON, secrets).format(one)
    assert "\n" not in line and line.isascii()
    found: dict[str, Any] = json.loads(line)
    return found


def as_text(one: logging.LogRecord, *secrets: str) -> str:
    return formatter(LogFormat.TEXT, secrets).format(one)


def test_a_line_of_json_has_the_message_and_every_field() -> None:
    found = as_json(
        record("chunk %s: %d results", 5, 20, action="chunk_recorded", chunk_id=5, seconds=0.5, of=[1, None])
    )

    assert found.pop("timestamp").endswith("+00:00")
    assert found == {
        "level": "info",
        "logger": "some.module",
        "message": "chunk 5: 20 results",
        "action": "chunk_recorded",
        "chunk_id": 5,
        "seconds": 0.5,
        "of": [1, None],
    }


def test_a_line_of_text_has_the_same() -> None:
    line = as_text(record("chunk %s is lost", 5, action="lease_lost", chunk_id=5, why="took too long"))

    assert line.endswith(' INFO some.module: chunk 5 is lost  [action=lease_lost chunk_id=5 why="took too long"]')


@pytest.mark.parametrize("name", ["event", "level", "logger", "timestamp", "exception"])
def test_a_field_takes_no_place_of_the_line_s_own(name: str) -> None:
    """Deliveries are logged with their `event`, which is what structlog calls the message."""
    found = as_json(record("it was sent", **{name: "job.completed"}))

    assert found["message"] == "it was sent"
    assert (found["level"], found["logger"]) == ("info", "some.module")


def test_what_is_bound_is_in_every_line_of_the_thread_and_of_no_other() -> None:
    elsewhere: list[dict[str, Any]] = []
    with logs.about(job_id="job_1", chunk_id=5):
        other = threading.Thread(target=lambda: elsewhere.append(as_json(record("other"))))
        other.start()
        other.join()
        inside = as_json(record("inside", chunk_id=6))
    after = as_json(record("after"))

    assert (inside["job_id"], inside["chunk_id"]) == ("job_1", 6)
    assert "job_id" not in after and "job_id" not in elsewhere[0]


def test_a_request_leaves_nothing_bound_for_the_next_one_of_its_thread() -> None:
    logs.begin(request_id="one")
    logs.add(trace_id="a")
    assert as_json(record("first"))["trace_id"] == "a"
    logs.begin(request_id="two")

    second = as_json(record("second"))
    logs.begin()

    assert second["request_id"] == "two" and "trace_id" not in second
    assert "request_id" not in as_json(record("third"))


@pytest.mark.parametrize("shown", [lambda *all: json.dumps(as_json(*all)), as_text], ids=["json", "text"])
def test_no_secret_is_in_a_line_in_no_spelling(shown: Callable[..., str]) -> None:
    url = f"postgresql://bushel:{PASSWORD}@host/db"
    try:
        raise ValueError(f"cannot connect to {url} with {KEY}")
    except ValueError as exc:
        one = record("at %s", url, tried=[url, {KEY: PASSWORD}], key=KEY)
        one.exc_info = (type(exc), exc, exc.__traceback__)

    line = shown(one, PASSWORD)

    assert "ValueError" in line and "***" in line
    for secret in (PASSWORD, json.dumps(PASSWORD)[1:-1], "nter", KEY, KEY[-32:]):
        assert secret not in line


@pytest.mark.parametrize("hostile", ["a\nERROR forged", "a\rb", "\x1b[2J", "\u2028", "\x00", "\ud800", "a\x85b"])
def test_a_message_cannot_begin_a_line_of_its_own_nor_move_the_cursor(hostile: str) -> None:
    as_json(record("%s", hostile, field=hostile))
    line = as_text(record("%s", hostile, field=hostile))

    assert line.encode().decode().isprintable()
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", float("nan"), float("inf"), {3: object()}, 10**400])
def test_whatever_is_logged_is_json(value: object) -> None:
    as_json(record("odd", value=value))


@pytest.mark.parametrize("form", LogFormat)
def test_an_error_is_shown_at_the_terminal_of_up(form: LogFormat) -> None:
    assert _IMPORTANT.search(formatter(form).format(made(logging.ERROR, "no")))
    assert not _IMPORTANT.search(formatter(form).format(record("yes")))


def test_a_process_that_has_a_log_keeps_it(capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]

    logs.set_up(LogFormat.JSON, "DEBUG")

    assert before and logging.getLogger().handlers == before
