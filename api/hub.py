"""All event streams of a process: one thread looks into the ledger for them together, and writes to all of them.

Once a second, and soon after a word from the ledger, it asks what has moved of all that is watched. That question is
asked without the wall between tenants and brings ids only; whatever is shown of a job is read inside of the wall of the
tenant it is shown to. A client that takes nothing costs its buffer and is then cut off: it connects again and says how
far it came.
"""

import itertools
import logging
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Gauge
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.event_object import EventObject
from api.job_object import JobObject
from api.streams import Connection, Stream
from api.wire import encoded
from db import events, passes, watching
from db.models import Job
from db.notices import Listener
from db.outlook import surroundings
from db.passes import Pass
from db.session import Sessions, confined, connect, sessions
from db.states import JobStatus, is_final
from db.watching import Look
from models.catalog import Catalog

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
# After a word from the ledger, and after a stream has come: soon, and not for each one of hundreds.
SOON_SECONDS = 0.2
# What depends on others - when a job will end, why it waits - is looked at again every so many looks.
_ROUNDS = 5
_BACK_OFF_SECONDS = 2.0
_LOG_AT_ONCE, _JOBS_AT_ONCE = 500, 200
_READ_BYTES, _HEARD_BYTES = 4_096, 64 * 1024

OPEN = Gauge("bushel_event_streams", "Event streams that are open", multiprocess_mode="livesum")


class TooManyStreams(Exception):
    """As many streams are open as may be in this process, and the asking tenant has its share of them."""

    def __init__(self, count: int, mine: int) -> None:
        super().__init__(
            f"{count} event streams are open, {mine} of them yours, which is as many as may be at once; close some, "
            "or ask for the events as JSON now and then"
        )
        self.count, self.mine = count, mine


@dataclass(slots=True)
class _Known:
    """What was seen of a tenant at the last look: the end of its log that was told, and its jobs' versions."""

    tail: int
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _State:
    """A job as it is shown."""

    status: JobStatus
    data: bytes


class Hub:
    """Thread and database connection are made by the first stream, so that a process without any has neither."""

    def __init__(
        self, database_url: str, listener: Listener, catalog: Catalog, most: int, idle_seconds: float = 20.0
    ) -> None:
        self._database_url, self._listener, self._catalog = database_url, listener, catalog
        self._most, self._idle_seconds = most, idle_seconds
        self._lock = threading.Lock()
        # Every stream that has a place, in the order in which they came; those that have begun; those that must go.
        self._places: dict[Stream, None] = {}
        self._begun: deque[Stream] = deque()
        self._ousted: deque[Stream] = deque()
        self._thread: threading.Thread | None = None
        self._is_stopping = self._is_urged = False
        self._nudge, self._nudged = socket.socketpair()
        self._nudge.setblocking(False)
        self._nudged.setblocking(False)
        # From here on of the thread alone.
        self._told: dict[Stream, None] = {}
        self._known: dict[str, _Known] = {}
        self._inside_of = ""
        self._round = 0

    # --- from requests ---------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many streams have a place."""
        return len(self._places)

    def open(self, tenant_id: str, job_id: str | None, opened_with: Pass, position: int) -> Stream:
        """Give a new stream a place. TooManyStreams where all are taken and no other tenant has clearly more of them.

        The caller lets it `begin`, or else must `leave`.
        """
        stream = Stream(tenant_id, job_id, opened_with, position)
        with self._lock:
            if len(self._places) >= self._most:
                self._make_room(tenant_id)
            self._places[stream] = None
            OPEN.inc()
        return stream

    def _make_room(self, tenant_id: str) -> None:
        """Places are shared evenly: who has more than a newcomer would have gives its last one up."""
        held = Counter(stream.tenant_id for stream in self._places)
        biggest, most = held.most_common(1)[0]
        if held[tenant_id] + 1 >= most:
            raise TooManyStreams(len(self._places), held[tenant_id])
        last = next(stream for stream in reversed(self._places) if stream.tenant_id == biggest)
        self._vacate(last)
        self._ousted.append(last)
        self._wake()

    def _vacate(self, stream: Stream) -> None:
        """Take its place from it, if it has one. The caller holds the lock."""
        if stream in self._places:
            del self._places[stream]
            OPEN.dec()

    def begin(self, stream: Stream, connection: Connection | None = None, is_chunked: bool = False) -> None:
        """Tell the stream what happens from now on; over the connection, which is the hub's from now on, if given."""
        stream.connection, stream.is_chunked = connection, is_chunked
        with self._lock:
            self._begun.append(stream)
            if self._thread is None and not self._is_stopping:
                self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
                self._thread.start()
                self._listener.follow(self._heard)
            self._is_urged = True
            self._wake()

    def leave(self, stream: Stream) -> None:
        """Give the place back; a stream that is gone already is no error."""
        stream.cut()
        with self._lock:
            self._vacate(stream)
            self._wake()

    def stop(self) -> None:
        """End all streams. None is begun after it."""
        with self._lock:
            if self._is_stopping:
                return
            self._is_stopping = True
            thread = self._thread
            self._wake()
        if thread is not None:
            thread.join()
        for stream in [*self._places, *self._begun]:
            stream.cut()
        self._nudge.close()
        self._nudged.close()

    def _heard(self, tenant_id: str) -> None:
        """From the listener's thread: the log of the tenant has grown; "": it may be anybody's."""
        if not tenant_id or tenant_id in self._known:
            self._is_urged = True
            with self._lock:
                self._wake()

    def _wake(self) -> None:
        """The caller holds the lock."""
        try:
            self._nudge.send(b"x")
        except BlockingIOError:
            # As many nudges as fit are on their way already.
            return
        except OSError:
            assert self._is_stopping, "only a hub that stops closes it"

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        engine = connect(self._database_url, pool=1, application="bushel streams")
        outside, inside = sessions(engine), confined(engine, lambda: self._inside_of)
        look_at = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._nudged, selectors.EVENT_READ)
            while not self._is_stopping:
                self._serve(selector, self._pause(look_at))
                self._settle(selector)
                now = time.monotonic()
                if self._told and now >= self._due(look_at):
                    self._is_urged = False
                    is_seen = self._look(outside, inside)
                    # From its end: a ledger that is slow is not asked all the time.
                    look_at = time.monotonic() + (LOOK_SECONDS if is_seen else _BACK_OFF_SECONDS)
                self._patrol(selector)
            for stream in list(self._told):
                self._drop(selector, stream)
        engine.dispose()

    def _due(self, look_at: float) -> float:
        return look_at - (LOOK_SECONDS - SOON_SECONDS) if self._is_urged else look_at

    def _pause(self, look_at: float) -> float | None:
        """For how long nothing is to be done unless something happens; None: until then."""
        return max(0.0, self._due(look_at) - time.monotonic()) if self._told else None

    def _serve(self, selector: selectors.BaseSelector, pause: float | None) -> None:
        """Wait for clients, and do for each what it is ready for."""
        for key, ready in selector.select(pause):
            if key.data is None:
                while _received(self._nudged):
                    continue
            elif ready & selectors.EVENT_READ and _is_gone(key.data):
                self._drop(selector, key.data)
            else:
                self._send(selector, key.data)

    def _settle(self, selector: selectors.BaseSelector) -> None:
        """Take in who has begun, and let go of who has left."""
        with self._lock:
            begun, ousted = list(self._begun), list(self._ousted)
            self._begun.clear()
            self._ousted.clear()
            places = set(self._places)
        for stream in begun:
            self._told[stream] = None
            if stream.connection is not None:
                selector.register(stream.connection, selectors.EVENT_READ, stream)
        for stream in ousted:
            logger.info("an event stream gave way to another tenant's", extra={"action": "stream_ousted"})
            stream.cut()
        for stream in [each for each in self._told if each not in places]:
            self._drop(selector, stream)

    def _drop(self, selector: selectors.BaseSelector, stream: Stream) -> None:
        """Let go of it at once, whatever it has not taken."""
        stream.cut()
        self._told.pop(stream, None)
        with self._lock:
            self._vacate(stream)
        if stream.connection is not None:
            selector.unregister(stream.connection)
            stream.connection.close()

    def _send(self, selector: selectors.BaseSelector, stream: Stream) -> None:
        if stream.connection is None or stream not in self._told:
            return
        try:
            is_left = stream.send()
            if stream.is_over and not is_left:
                stream.connection.shutdown(socket.SHUT_WR)
        except OSError:
            # The client is gone.
            self._drop(selector, stream)
            return
        if stream.is_over and not is_left:
            self._drop(selector, stream)
            return
        selector.modify(stream.connection, selectors.EVENT_READ | (selectors.EVENT_WRITE if is_left else 0), stream)

    def _patrol(self, selector: selectors.BaseSelector) -> None:
        """Send what was told, ping who has long heard nothing, and cut off who takes nothing."""
        now = time.monotonic()
        for stream in list(self._told):
            if not stream.is_over:
                stream.ping(now)
            if stream.unsent or stream.is_over:
                self._send(selector, stream)
            if stream.stuck_since is not None and now - stream.stuck_since > self._idle_seconds:
                self._cut_off(selector, stream)

    def _cut_off(self, selector: selectors.BaseSelector, stream: Stream) -> None:
        """Of a client that takes nothing."""
        if stream in self._told and stream.connection is not None:
            logger.info("an event stream was cut off: nothing of it was taken", extra={"action": "stream_cut_off"})
            stream.connection.is_given_up = True
            self._drop(selector, stream)

    # --- what is told ----------------------------------------------------------------------------

    def _look(self, outside: Sessions, inside: Sessions) -> bool:
        """See what has moved and tell it; False when that failed."""
        try:
            self._tell(outside, inside, [stream for stream in self._told if not stream.is_over])
        except (SQLAlchemyError, OSError) as exc:
            logger.warning("streams cannot see the ledger: %s", type(exc).__name__, extra={"action": "look_failed"})
            return False
        except Exception:
            # The edge of this thread, on which all streams hang.
            logger.exception("streams cannot tell what happened", extra={"action": "look_failed"})
            return False
        return True

    def _tell(self, outside: Sessions, inside: Sessions, streams: Sequence[Stream]) -> None:
        tenants = {stream.tenant_id for stream in streams}
        with outside() as session:
            good = passes.still_open(session, {stream.opened_with for stream in streams})
            look = watching.look(
                session,
                {stream.job_id for stream in streams if stream.job_id is not None},
                {stream.tenant_id for stream in streams if stream.job_id is None},
                tenants,
            )
        for stream in streams:
            if stream.opened_with not in good:
                logger.info("an event stream ended with its key", extra={"action": "stream_revoked"})
                stream.cut()
        self._known = {tenant: known for tenant, known in self._known.items() if tenant in tenants}
        self._round += 1
        for tenant in tenants:
            mine = [stream for stream in streams if stream.tenant_id == tenant and not stream.is_over]
            self._inside_of = tenant
            try:
                self._tell_tenant(inside, tenant, mine, look)
            except (SQLAlchemyError, OSError):
                raise
            except Exception:
                # A job that cannot be shown, which must not keep the streams of other tenants from going on.
                logger.exception("a tenant's streams are not told", extra={"action": "look_failed"})

    def _tell_tenant(self, inside: Sessions, tenant: str, streams: Sequence[Stream], look: Look) -> None:
        newest = look.newest.get(tenant, 0)
        known = self._known.setdefault(tenant, _Known(newest))
        versions = {id: seen.version for id, seen in look.jobs.items() if seen.tenant_id == tenant}
        moved = {id for id, version in versions.items() if known.versions.get(id) != version}
        moved |= {id for id in versions if hash(id) % _ROUNDS == self._round % _ROUNDS}
        known.versions = versions
        everything = sorted(versions, reverse=True)
        for stream in streams:
            stream.owe(everything if stream.is_new else moved)
            stream.is_new = False
            if stream.job_id is not None and stream.job_id not in versions:
                # It was deleted, and that is to be told too.
                stream.owe([stream.job_id])
        is_behind = any(stream.position < newest and stream.may_hear for stream in streams)
        if not is_behind and not any(stream.owed for stream in streams):
            return
        with inside() as session:
            self._tell_log(session, tenant, streams, known, newest)
            self._tell_jobs(session, tenant, streams)

    def _tell_log(self, session: Session, tenant: str, streams: Sequence[Stream], known: _Known, newest: int) -> None:
        """What is new to all is read once; who is further behind, or had no room, is read to from where it is."""
        if newest > known.tail:
            abreast = [stream for stream in streams if stream.position >= known.tail and stream.may_hear]
            page = events.listing(session, tenant, None, known.tail, _LOG_AT_ONCE, newest)
            known.tail = page.rows[-1].id if page.has_more else newest
            for entry in page.rows:
                data = encoded(EventObject.of(entry).model_dump(mode="json"))
                for stream in abreast:
                    stream.log(entry, data)
            for stream in abreast:
                stream.position = max(stream.position, known.tail)
        for stream in streams:
            if stream.position < known.tail and stream.may_hear:
                _catch_up(session, stream, known.tail)

    def _tell_jobs(self, session: Session, tenant: str, streams: Sequence[Stream]) -> None:
        hearing = [stream for stream in streams if not stream.is_full]
        wanted = _wanted(hearing)
        states = self._states(session, tenant, wanted)
        for stream in hearing:
            for id in [id for id in wanted if id in stream.owed]:
                state = states.get(id)
                if state is None:
                    # Deleted since.
                    del stream.owed[id]
                elif not stream.is_full:
                    stream.show(id, state.data, is_final(state.status))
            if stream.job_id is not None and stream.job_id in wanted and not stream.is_full:
                _end_if_over(session, stream, states.get(stream.job_id))

    def _states(self, session: Session, tenant: str, ids: Collection[str]) -> dict[str, _State]:
        if not ids:
            return {}
        rows = session.scalars(select(Job).where(Job.tenant_id == tenant, Job.id.in_(ids))).all()
        around, registry = surroundings(session, rows), self._catalog.current()
        return {
            job.id: _State(JobStatus(job.status), encoded(JobObject.of(job, around, registry).model_dump(mode="json")))
            for job in rows
        }


def _wanted(streams: Sequence[Stream]) -> dict[str, None]:
    """The jobs whose states are told now: those with streams of their own, and of the others who waited longest."""
    own = {stream.job_id: None for stream in streams if stream.job_id is not None and stream.owed}
    others: Iterator[str] = itertools.chain.from_iterable(stream.owed for stream in streams if stream.job_id is None)
    return own | dict.fromkeys(itertools.islice(others, _JOBS_AT_ONCE))


def _end_if_over(session: Session, stream: Stream, state: _State | None) -> None:
    """End the stream of a job that has ended, once all of its log is told; or of one that was deleted."""
    if state is None:
        stream.end(encoded({"id": stream.job_id, "status": None}))
    elif is_final(state.status):
        # Read after the state: what ended the job is in the log by now.
        if _catch_up(session, stream, None):
            stream.end(encoded({"id": stream.job_id, "status": state.status}))
        else:
            stream.owe([stream.job_id or ""])


def _catch_up(session: Session, stream: Stream, upto: int | None) -> bool:
    """Tell a part of the log from where the stream is; whether it has all of it now."""
    page = events.listing(session, stream.tenant_id, stream.job_id, stream.position, _LOG_AT_ONCE, upto)
    for entry in page.rows:
        stream.log(entry, encoded(EventObject.of(entry).model_dump(mode="json")))
    if not page.has_more and upto is not None:
        stream.position = max(stream.position, upto)
    return not page.has_more


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(_READ_BYTES)
    except BlockingIOError:
        return b""


def _is_gone(stream: Stream) -> bool:
    """Whether the client has closed, or goes on sending; a little of that is nothing to us."""
    assert stream.connection is not None
    try:
        data = stream.connection.receive_now(_READ_BYTES)
    except OSError:
        return True
    stream.heard += len(data or b"")
    return data == b"" or stream.heard > _HEARD_BYTES
