"""Which of the database's errors tell of its state and not of our request: they pass, and one tries again."""

from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout


@dataclass(frozen=True, slots=True)
class Outage:
    """`code` is for programs; `is_full` when room has to be made first; `retry_after` in seconds."""

    code: str
    message: str
    retry_after: float
    is_full: bool = False


_AWAY = Outage("database_unavailable", "the database cannot be reached or is busy; try again", 2)
_LOST = Outage("database_unavailable", "the connection to the database was lost; try again", 2)
_BUSY = Outage("database_busy", "other requests were in the way of this one in the database; try again", 1)
_POOL = Outage("database_busy", "all connections to the database are in use; try again", 2)

# By SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
_KNOWN = {
    "53100": Outage(
        "insufficient_storage",
        "the disk of the database is full: delete files or jobs, or give it room, and try again",
        60,
        is_full=True,
    ),
    "53200": Outage("database_busy", "the database is out of memory; try again", 10),
    "53300": Outage("database_busy", "the database has as many connections as it takes; try again", 5),
    "25006": Outage(
        "database_read_only", "the database takes no writes now: it is a standby, or made read-only; try again", 10
    ),
    "57014": Outage("database_busy", "the database took too long over this request; try again", 10),
    "55P03": Outage("database_busy", "other requests held what this one needs for too long; try again", 5),
    "40P01": _BUSY,
    "40001": _BUSY,
}


def outage(exc: BaseException) -> Outage | None:
    """What is the matter with the database; None when the error is about what was asked of it.

    A connection is not given up for most of these: the next try may use it.
    """
    if isinstance(exc, PoolTimeout):
        return _POOL
    if not isinstance(exc, DBAPIError):
        return None
    known = _KNOWN.get(getattr(exc.orig, "sqlstate", None) or "")
    if known is not None:
        return known
    if exc.connection_invalidated:
        return _LOST
    return _AWAY if isinstance(exc, (OperationalError, InterfaceError)) else None
