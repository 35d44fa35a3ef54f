"""Points at which a process hurts itself when a test asks for it; without BUSHEL_FAULTS they do nothing.

BUSHEL_FAULTS is a list of orders, separated by semicolons:

    kill:after run:3        die by SIGKILL when the point `after run` is reached for the third time
    stop:before record:1    freeze by SIGSTOP, until somebody sends SIGCONT
    term:in finalize:1      send oneself SIGTERM, as a supervisor does, and go on
    no-fence                let results of lost leases in: the control that shows what the fence keeps out

A file after an `@` (`kill:after run:3@/tmp/done`) is made when the order is carried out, and while it is there nobody
carries it out again: a process started in the place of the dead one lives.
"""

import logging
import os
import signal
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from db.errors import ConfigError

logger = logging.getLogger(__name__)

VARIABLE = "BUSHEL_FAULTS"
_NO_FENCE = "no-fence"
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}

POINTS = frozenset(
    {
        "in upload",  # the bytes are in the store, their row is not committed
        "after submit",  # the job is committed, nobody is rung
        "in ingest",  # a window of lines is committed, more may follow
        "after claim",
        "after run",  # the device is done with the chunk
        "before record",  # the outputs are decoded
        "between insert and commit",
        "between commit and ring",
        "in finalize",  # the files are written, their rows are not
        "after finalize",  # the job is final, its webhooks are not rung for
        "in delivery",  # claimed, not sent
        "after delivery",  # sent, not settled
    }
)


@dataclass(slots=True)
class _Order:
    point: str
    signal: signal.Signals
    nth: int
    mark: Path | None
    seen: int = 0


@dataclass(slots=True)
class _Orders:
    given: list[_Order]
    has_fence: bool
    lock: threading.Lock = field(default_factory=threading.Lock)


def reached(point: str) -> None:
    """Carry out what was ordered for this point; usually nothing."""
    if (orders := _orders()) is None:
        return
    assert point in POINTS, f"the point {point!r} is not in the list"
    with orders.lock:
        for order in orders.given:
            if order.point == point:
                order.seen += 1
                if order.seen == order.nth and _is_first(order.mark):
                    logger.critical("%s at %r, as ordered", order.signal.name, point, extra={"action": "fault"})
                    os.kill(os.getpid(), order.signal)


def is_fenced() -> bool:
    """Whether results must carry the attempt under which their chunk is leased. They must."""
    orders = _orders()
    return orders is None or orders.has_fence


@cache
def _orders() -> _Orders | None:
    """Read once; None when there are none."""
    said = [word.strip() for word in os.environ.get(VARIABLE, "").split(";") if word.strip()]
    if not said:
        return None
    logger.critical("%s is set: this process will hurt itself", VARIABLE, extra={"action": "faults_on"})
    return _Orders([_read(word) for word in said if word != _NO_FENCE], has_fence=_NO_FENCE not in said)


def _read(word: str) -> _Order:
    order, _, mark = word.partition("@")
    action, _, rest = order.partition(":")
    point, _, nth = rest.rpartition(":")
    if action not in _SIGNALS or point not in POINTS or not nth.isdigit():
        raise ConfigError(f"{VARIABLE}: {word!r} is not ACTION:POINT:NUMBER; points are: {', '.join(sorted(POINTS))}")
    return _Order(point, _SIGNALS[action], int(nth), Path(mark) if mark else None)


def _is_first(mark: Path | None) -> bool:
    if mark is None:
        return True
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
