"""What the supervisor says at the terminal, kept in a log of its own that looks like those of its parts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.stack.logs import Log
from cli.stack.supervisor import Announce, Tone
from telemetry.logs import LogFormat, formatter

NAME = "bushel"
_LEVELS = {
    Tone.INFO: logging.INFO,
    Tone.GOOD: logging.INFO,
    Tone.WARNING: logging.WARNING,
    Tone.BAD: logging.ERROR,
}


@contextmanager
def journal(logs: Path, format: LogFormat, announce: Announce) -> Iterator[Announce]:
    """An `announce` that also writes it down, in `logs`/bushel.log, while the block lasts."""
    log = Log(logs / f"{NAME}.log")
    log.rotate()
    logger = logging.Logger("cli.stack.supervisor")
    with open(log.open(), "w", encoding="utf-8") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(formatter(format))
        logger.addHandler(handler)

        def both(name: str, text: str, tone: Tone) -> None:
            logger.log(_LEVELS[tone], "%s: %s", name, text, extra={"part": name})
            announce(name, text, tone)

        yield both
