"""One client's event stream: where it is in the log, what it was told of jobs, and what it has not taken yet."""

import errno
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

from api import sse
from db.models import JobEvent
from db.passes import Pass

# A stream with as much unsent is told nothing until it takes some: it falls behind, and catches up from the ledger.
FULL_BYTES = 128 * 1024
# So does one that is to be told the state of so many jobs.
FULL_JOBS = 500
PING_SECONDS = 15.0
# Of a tenant's stream, the jobs whose last state is remembered. The oldest are forgotten, and may be sent once more.
_REMEMBERED = 1_000


class HandedOver(OSError):
    """Ends the request's thread without ending the answer. EPIPE, because gunicorn takes that without a traceback."""

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the connection was handed over")


class Connection(Protocol):
    """What a stream asks of a socket (api/paced.py)."""

    is_given_up: bool

    def fileno(self) -> int: ...
    def offer(self, data: bytes) -> int: ...
    def receive_now(self, size: int) -> bytes | None: ...
    def shutdown(self, how: int) -> None: ...
    def close(self) -> None: ...


class Stream:
    """Of one job, or with `job_id` None of all jobs of the tenant. Told by the hub's thread alone.

    What it is told is sent over `connection` by that thread, or else taken by `pieces` in the thread of the request.
    """

    def __init__(self, tenant_id: str, job_id: str | None, opened_with: Pass, position: int) -> None:
        self.tenant_id, self.job_id, self.opened_with = tenant_id, job_id, opened_with
        # The id of the log's entry up to which it was told everything.
        self.position = position
        # Jobs whose state it is to be told, in the order in which they came to be.
        self.owed: dict[str, None] = {}
        self.is_new, self.is_over = True, False
        self.connection: Connection | None = None
        self.is_chunked = False
        self.unsent = bytearray()
        # Bytes that its client sent, who has nothing to say any more.
        self.heard = 0
        self._shown: dict[str, int] = {}
        self._changed = threading.Condition()
        self.told_at = time.monotonic()
        # Since when the client takes nothing of what it was offered.
        self.stuck_since: float | None = None

    @property
    def is_full(self) -> bool:
        """It is told nothing before it has taken some of what it was told."""
        return self.is_over or len(self.unsent) >= FULL_BYTES

    @property
    def may_hear(self) -> bool:
        """Whether it is to be told more of the log: not before it has the states that came of the last entries."""
        return not self.is_full and len(self.owed) < FULL_JOBS

    def owe(self, ids: Iterable[str]) -> None:
        """Note that these jobs may look different now."""
        self.owed.update(dict.fromkeys(ids) if self.job_id is None else {id: None for id in ids if id == self.job_id})

    def show(self, job_id: str, data: bytes, is_final: bool) -> None:
        """Tell the state of a job, unless it was told the same before."""
        digest = hash(data)
        self.owed.pop(job_id, None)
        if self._shown.pop(job_id, None) != digest:
            self.tell(sse.frame("job", data))
        if not is_final or job_id == self.job_id:
            self._shown[job_id] = digest
        if len(self._shown) > _REMEMBERED:
            del self._shown[next(iter(self._shown))]

    def log(self, entry: JobEvent, data: bytes) -> None:
        """Tell an entry of the log, if it is of this stream and new to it."""
        if entry.id <= self.position or self.job_id not in (None, entry.job_id):
            return
        self.position = entry.id
        self.tell(sse.frame("log", data, entry.id))
        # The state that came of it follows.
        if self.job_id is None:
            self.owed[entry.job_id] = None

    def ping(self, now: float) -> None:
        if now - self.told_at >= PING_SECONDS and not self.unsent:
            self.tell(sse.PING)

    def tell(self, frame: bytes) -> None:
        with self._changed:
            self.unsent += sse.chunk(frame) if self.is_chunked else frame
            self.told_at = time.monotonic()
            self._changed.notify()

    def end(self, data: bytes) -> None:
        """Say that nothing more will come."""
        self.tell(sse.frame("end", data))
        if self.is_chunked:
            self.unsent += sse.chunk(b"")
        self.cut()

    def cut(self) -> None:
        """Nothing more is told; what is unsent may still be taken."""
        with self._changed:
            self.is_over = True
            self._changed.notify()

    def send(self) -> bool:
        """Hand over what the client takes now; whether anything is left."""
        assert self.connection is not None
        sent = self.connection.offer(bytes(self.unsent)) if self.unsent else 0
        del self.unsent[:sent]
        if sent or not self.unsent:
            self.stuck_since = None
        elif self.stuck_since is None:
            # Not from when it was told: in between the time was ours.
            self.stuck_since = time.monotonic()
        return bool(self.unsent)

    def pieces(self) -> Iterator[bytes]:
        """What it is told, as it is told, until it is over: for servers that give a stream a thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.unsent or self.is_over)
                data = bytes(self.unsent)
                self.unsent.clear()
            if not data:
                return
            yield data
