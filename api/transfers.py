"""Requests that hold a thread for as long as their client takes: only so many at once, so that others find a thread.

A request is a transfer when its body is still on its way as its handler begins, or its answer is too large to be left
to the event loop. Whoever finds no place is told at once; nobody queues, because a queue would hold threads too.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any, cast

from flask import Flask, request

from api.gathering import BODY_BYTES

# Answers up to this size are handed over whole and delivered without a thread.
SMALL_BYTES = 2**20
_ENDS = "bushel.ends"


class TooManyTransfers(Exception):
    """As many uploads and downloads run as may at once in this process."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count} large uploads and downloads are under way, which is as many as may be at once; "
            "try again in a moment"
        )
        self.count = count


class Transfers:
    """Places for transfers in this process."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = threading.BoundedSemaphore(count)

    def begin(self) -> None:
        """Take a place for the request that is being served, until its answer is sent or given up.

        A second call for the same request takes no second place. TooManyTransfers when there is none.
        """
        ends: list[Callable[[], None]] = request.environ[_ENDS]
        if ends:
            return
        if not self._free.acquire(blocking=False):
            raise TooManyTransfers(self.count)
        ends.append(self._free.release)

    def install(self, app: Flask) -> None:
        """Give every request whose body is still arriving a place, and every place back."""
        app.before_request(self._begin_if_arriving)
        # Around all of Flask, whose own hooks are through before the first byte of an answer is sent.
        app.wsgi_app = _Ending(app.wsgi_app)  # type: ignore[method-assign]

    def _begin_if_arriving(self) -> None:
        if _is_arriving():
            self.begin()


def places(wanted: int, threads: int, waiting: int) -> int:
    """How many threads may be in transfers, when `waiting` of them may wait for workers; one is left if there can be.

    >>> places(6, 16, 8), places(6, 8, 7), places(6, 1, 1)
    (6, 1, 1)
    """
    return max(1, min(wanted, threads - waiting - 1))


def _is_arriving() -> bool:
    """Our worker knows; of another server, the request's size tells."""
    connection = request.environ.get("gunicorn.socket")
    if (is_arriving := getattr(connection, "is_arriving", None)) is not None:
        return cast("bool", is_arriving)
    return (request.content_length or 0) > BODY_BYTES or "Transfer-Encoding" in request.headers


def at_end(end: Callable[[], None]) -> None:
    """Call `end` when the answer to the request that is being served was sent or given up, also if none was made."""
    ends: list[Callable[[], None]] = request.environ[_ENDS]
    ends.append(end)


class _Ending:
    """WSGI in between: calls what a request has put on its list of ends, once, when its answer is closed."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        ends: list[Callable[[], None]] = []
        environ[_ENDS] = ends
        try:
            answer = cast("Any", self._app(environ, start_response))
        except BaseException:
            _call(ends)
            raise
        if ends:
            close = getattr(answer, "close", None)

            def end() -> None:
                try:
                    if close is not None:
                        close()
                finally:
                    _call(ends)

            # Of the answer itself and not of one around it: a server sends only its own kind of file from the kernel.
            answer.close = end
        return cast("Iterable[bytes]", answer)


def _call(ends: list[Callable[[], None]]) -> None:
    while ends:
        ends.pop()()
