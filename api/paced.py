"""Sockets whose peers must keep a pace: who sends or takes next to nothing is cut off, and holds no thread for long.

Time counts only while we wait for the peer; what the database or a disk takes is not held against it.
"""

import errno
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

logger = logging.getLogger(__name__)

# What one connection may leave unsent for the event loop to deliver, so that its thread is free again.
UNSENT_BYTES = 2**20
_AT_ONCE = 2**20
# Of an answer that goes on for hours: what the kernel holds for its client, and how long that may stay unacknowledged.
_ENDLESS_BUFFER = 64 * 1024
_DEAD_SECONDS = 60


class TooSlow(TimeoutError):
    """The peer keeps us waiting. EPIPE, because that is what gunicorn ends a connection for without a traceback."""

    def __init__(self, moved: int, seconds: float) -> None:
        super().__init__(errno.EPIPE, f"the client moved {moved:,} bytes in {seconds:.0f} s")


@dataclass(frozen=True, slots=True)
class Pacing:
    """What is asked of clients: a header within `header_seconds`, then `least_rate` bytes a second over `window`s."""

    header_seconds: float
    window: float
    least_rate: float


class Pace:
    """Pure: how much one peer moved over the time that we waited for it."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self._moved, self._waited = 0, 0.0

    def moved(self, count: int) -> None:
        self._moved += count

    def begin_wait(self) -> None:
        """What moved before we had to wait at all went into buffers, and tells nothing of the peer."""
        if not self._waited:
            self._moved = 0

    def waited(self, seconds: float) -> None:
        """Raise TooSlow at the end of a window in which too little moved.

        >>> pace = Pace(Pacing(20, window=10, least_rate=100))
        >>> pace.waited(9); pace.moved(1_000); pace.waited(1); pace.patience
        10.0
        >>> pace.moved(999); pace.waited(10)
        Traceback (most recent call last):
        api.paced.TooSlow: [Errno 32] the client moved 999 bytes in 10 s
        """
        self._waited += seconds
        if self._waited < self._pacing.window:
            return
        if self._moved < max(1.0, self._pacing.least_rate * self._waited):
            raise TooSlow(self._moved, self._waited)
        self._moved, self._waited = 0, 0.0

    @property
    def patience(self) -> float:
        """Seconds until the next judgement."""
        return self._pacing.window - self._waited


class Allowance:
    """Bytes that may lie in memory for all clients of a process together."""

    def __init__(self, count: int) -> None:
        self._free, self._lock = count, threading.Lock()

    def take(self, count: int) -> bool:
        with self._lock:
            if count > self._free:
                return False
            self._free -= count
            return True

    def give(self, count: int) -> None:
        with self._lock:
            self._free += count


class PacedSocket:
    """A connected socket for one thread at a time, with the methods that gunicorn uses of one.

    `is_arriving` tells the application that the body of the request was not here when its thread was given to it;
    `is_given_up`, that the client did not take its answer. With `hand_over` the application has the socket for itself
    once the request's thread is through.
    """

    def __init__(self, connection: socket.socket, pacing: Pacing, allowance: Allowance) -> None:
        self._socket, self._pacing, self._allowance = connection, pacing, allowance
        # The kernel never blocks us; waiting is done here, with one eye on the clock.
        connection.setblocking(False)
        self._timeout: float | None = None
        self.unsent = bytearray()
        self.is_arriving = False
        self.is_given_up = False
        self._heir: Callable[[], None] | None = None
        self.begin()

    def begin(self) -> None:
        """A new request: what was slow before is forgotten."""
        self.incoming, self.outgoing = Pace(self._pacing), Pace(self._pacing)

    def hand_over(self, heir: Callable[[], None]) -> None:
        """Let the event loop call `heir` instead of going on with the connection; what is unsent goes first then."""
        # A client that is gone for good is to be found out in a minute, and one that takes nothing is not to fill the
        # kernel's memory with what goes on for hours.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_SECONDS * 1_000)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ENDLESS_BUFFER)
        self._heir = heir

    @property
    def is_handed_over(self) -> bool:
        return self._heir is not None

    def inherit(self) -> bool:
        """Called by the event loop after each request: whether the connection is somebody else's from now on."""
        if self._heir is not None:
            self._heir()
        return self._heir is not None

    def offer(self, data: bytes) -> int:
        """Hand to the kernel what it takes now, after what was unsent; the number of these bytes that it took."""
        return self._send_now(data) if self.send_unsent() else 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, is_blocking: bool) -> None:
        """Of waiting, not of the kernel's socket."""
        self._timeout = None if is_blocking else 0.0

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        return self._timeout

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def close(self) -> None:
        if self.is_given_up:
            # What the kernel holds for a client that does not take it would be held for minutes: reset instead.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._allowance.give(len(self.unsent))
        self.unsent.clear()
        self._socket.close()

    def getsockname(self) -> Any:
        return self._socket.getsockname()

    def getpeername(self) -> Any:
        return self._socket.getpeername()

    def recv(self, size: int) -> bytes:
        """TooSlow when the client keeps us waiting; TimeoutError after the timeout that was set."""
        while (data := self.receive_now(size)) is None:
            self._wait(select.POLLIN, self.incoming)
        self.incoming.moved(len(data))
        return data

    def receive_now(self, size: int) -> bytes | None:
        """What has come, b"" at the end; None when there is nothing yet."""
        try:
            return self._socket.recv(size)
        except (BlockingIOError, InterruptedError):
            return None

    def send(self, data: bytes) -> int:
        self.sendall(data)
        return len(data)

    def sendall(self, data: bytes | memoryview) -> None:
        """Hand the bytes to the kernel, or keep a small rest of them in `unsent` for the event loop."""
        while not self.send_unsent():
            if self._keep(data):
                return
            self._wait(select.POLLOUT, self.outgoing)
        rest = memoryview(data)
        while rest and (sent := self._send_now(rest)) < len(rest):
            rest = rest[sent:]
            if self._keep(rest):
                return
            self._wait(select.POLLOUT, self.outgoing)

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """A part of a file from the disk to the network; the number of bytes sent."""
        left = os.fstat(file.fileno()).st_size - offset if count is None else count
        while not self.send_unsent():
            self._wait(select.POLLOUT, self.outgoing)
        begun_with = left
        while left:
            try:
                sent = os.sendfile(self.fileno(), file.fileno(), offset, min(left, _AT_ONCE))
            except (BlockingIOError, InterruptedError):
                self._wait(select.POLLOUT, self.outgoing)
                continue
            if not sent:
                raise ConnectionAbortedError(errno.EPIPE, "the file is shorter than it was")
            self.outgoing.moved(sent)
            offset, left = offset + sent, left - sent
        return begun_with

    def send_unsent(self) -> bool:
        """Send what was left, as far as the kernel takes it; True when nothing is left."""
        while self.unsent:
            # A copy of a piece: a view would forbid shortening the buffer.
            sent = self._send_now(bytes(self.unsent[:_AT_ONCE]))
            if not sent:
                return False
            del self.unsent[:sent]
            self._allowance.give(sent)
        return True

    def _send_now(self, data: bytes | memoryview) -> int:
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        self.outgoing.moved(sent)
        return sent

    def _keep(self, rest: bytes | memoryview) -> bool:
        """Whether there was room to leave the rest to the event loop."""
        if len(self.unsent) + len(rest) > UNSENT_BYTES or not self._allowance.take(len(rest)):
            return False
        self.unsent += rest
        return True

    def _wait(self, event: int, pace: Pace) -> None:
        limit = pace.patience if self._timeout is None else min(self._timeout, pace.patience)
        poll = select.poll()
        poll.register(self._socket, event)
        pace.begin_wait()
        begun = time.monotonic()
        is_ready = bool(poll.poll(max(0.0, limit) * 1_000))
        # Not less than was asked for: poll rounds, and a window that never quite ends would be asked for for ever.
        waited = time.monotonic() - begun if is_ready else max(limit, time.monotonic() - begun)
        try:
            pace.waited(waited)
        except TooSlow as exc:
            logger.info("a client was cut off: %s", exc.strerror, extra={"action": "client_cut_off"})
            self.is_given_up = event == select.POLLOUT
            raise
        if not is_ready and self._timeout is not None and limit >= self._timeout:
            raise TimeoutError("the client did not answer in time")
