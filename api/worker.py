"""gunicorn's threaded worker, with threads that wait for no slow client.

A thread gets a request once its header and, up to a megabyte, its body are here: the event loop gathers them, for as
many connections as there are. It also delivers what a client is slow to take of a short answer, keeps idle connections,
and lingers over those that close. Left to threads are long transfers, at the pace that `paced` asks for; how many of
them at once, `transfers` says. Event streams are handed to the hub, which has one thread for all of them.
"""

import errno
import selectors
import socket
import time
from concurrent.futures import Future
from enum import StrEnum
from functools import partial
from typing import Any

from gunicorn.errors import ConfigError
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from api.config import APISettings
from api.errors import MEANINGS, RETRY_SECONDS, scattered
from api.gathering import Gathering
from api.paced import Allowance, PacedSocket, Pacing, TooSlow
from api.refusals import PlainErrors, refusal

# For requests that are gathered or wait for a thread, and as much for answers that are delivered: who does not take an
# answer must not be in the way of those who ask.
_HELD_BYTES = 32 * 2**20
_READ_BYTES = 64 * 1024
_PATROL_SECONDS = 0.25
# Closing at once would reset the connection, and what was answered might never be read (RFC 9112, 9.6).
_LINGER_SECONDS, _LINGER_BYTES = 3.0, 16 * 2**20
_UNREAD_BODY_SECONDS = 0.05


class Phase(StrEnum):
    """What the event loop waits for on a connection. One that a thread works on is in none of these."""

    IDLE = "idle"
    ARRIVING = "arriving"
    LEAVING = "leaving"
    LINGERING = "lingering"


class Connection(TConn):  # type: ignore[misc]
    """A client's connection, in the hands of the event loop or of one thread."""

    def __init__(self, cfg: Any, sock: PacedSocket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self.phase = Phase.IDLE
        self.since = self.judged_at = time.monotonic()
        self.gathering = Gathering()
        self.held = self.drained = 0
        self.is_kept = True


class PatientWorker(PlainErrors, ThreadWorker):  # type: ignore[misc]
    """`worker_class` of the API."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = APISettings.from_environment()
        self._pacing = Pacing(settings.header_seconds, settings.upload_idle_seconds, settings.min_bytes_per_second)
        self._body_seconds = settings.body_seconds
        self._for_requests, self._for_answers = Allowance(_HELD_BYTES), Allowance(_HELD_BYTES)
        # In the order in which they began to wait.
        self._watched: dict[Connection, None] = {}
        self._idle_seconds = float(self.cfg.keepalive)
        self._patrolled_at = 0.0

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        if cfg.is_ssl:
            raise ConfigError("TLS is for the proxy in front; this worker speaks plain HTTP")

    # --- from the network to a thread ----------------------------------------------------------

    def accept(self, listener: socket.socket) -> None:
        try:
            connection, client = listener.accept()
        except OSError as exc:
            if exc.errno in (errno.EMFILE, errno.ENFILE):
                self.log.warning("no file descriptor for a new connection; another one is closed")
                self._close_longest_waiting()
            elif exc.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            # Before the new one is among them.
            self._close_longest_waiting()
        paced = PacedSocket(connection, self._pacing, self._for_answers)
        self._watch(Connection(self.cfg, paced, client, listener.getsockname()), Phase.IDLE)

    def _receive(self, conn: Connection) -> None:
        data = conn.sock.receive_now(_READ_BYTES)
        if data is None:
            return
        if not data:
            self._drop(conn)
            return
        if conn.phase is Phase.IDLE:
            self._unwatch(conn)
            self._watch(conn, Phase.ARRIVING)
        conn.sock.incoming.moved(len(data))
        conn.gathering.feed(data)
        self._look_at(conn, len(data))

    def _look_at(self, conn: Connection, new_bytes: int) -> None:
        """Give a request that is ready to a thread; the connection is watched."""
        if conn.gathering.is_header_too_large:
            self._refuse(conn, 431, "the request's header is too large")
        elif not self._hold(conn, new_bytes):
            self._refuse_for_now(conn)
        elif conn.gathering.is_for_thread:
            self._unwatch(conn)
            self.enqueue_req(conn)

    def _hold(self, conn: Connection, count: int) -> bool:
        """Take memory for what has come; of those that are still arriving, who began first gives way to the others."""
        while not self._for_requests.take(count):
            arriving = (each for each in self._watched if each.phase is Phase.ARRIVING and (each.held or each is conn))
            if (longest := next(arriving)) is conn:
                return False
            self._refuse_for_now(longest)
        conn.held += count
        return True

    def enqueue_req(self, conn: Connection) -> None:
        conn.sock.begin()
        conn.sock.is_arriving = not conn.gathering.is_whole
        conn.init()
        conn.parser.unreader.unread(bytes(conn.gathering.data))
        conn.gathering = Gathering()
        conn.data_ready = True
        super().enqueue_req(conn)

    def handle(self, conn: Connection) -> Any:
        """In a thread, of which there are few: what waited for it in memory is no longer counted."""
        self._let_go(conn)
        return super().handle(conn)

    def _let_go(self, conn: Connection) -> None:
        self._for_requests.give(conn.held)
        conn.held, conn.gathering = 0, Gathering()

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """A body that nobody read is not waited for: its connection is closed, by the loop, with patience."""
        if not keepalive or (conn.sock.is_arriving and not _is_read(conn.parser.mesg.body)):
            return False
        return bool(conn.parser.finish_body(deadline=time.monotonic() + _UNREAD_BODY_SECONDS))

    # --- from a thread to the network ----------------------------------------------------------

    def finish_request(self, conn: Connection, done: Future[bool]) -> None:
        conn.is_kept = not done.cancelled() and done.exception() is None and bool(done.result())
        if conn.sock.inherit():
            # An event stream: not waited for when the worker stops, and its client comes again.
            self.nr_conns -= 1
        else:
            self._deliver(conn)

    def _deliver(self, conn: Connection) -> None:
        """Send what is left of the answer, now or as the client takes it; then go on with the connection."""
        if conn.sock.is_given_up:
            self._forget(conn)
            return
        try:
            is_sent = conn.sock.send_unsent()
            if is_sent:
                self._settle(conn)
            else:
                self._watch(conn, Phase.LEAVING)
        except (OSError, ValueError):
            # Gone, or closed by the thread already.
            self._forget(conn)

    def _settle(self, conn: Connection) -> None:
        if not conn.is_kept:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.drained = 0
            self._watch(conn, Phase.LINGERING)
            return
        conn.sock.begin()
        # Of a client that sends without waiting for answers, the next request may be here already.
        came = conn.parser.unreader.take_buffered()
        conn.gathering = Gathering(came)
        self._watch(conn, Phase.ARRIVING if conn.gathering.data else Phase.IDLE)
        if conn.gathering.data:
            self._look_at(conn, len(conn.gathering.data))

    def _send(self, conn: Connection) -> None:
        if conn.sock.send_unsent():
            self._unwatch(conn)
            self._settle(conn)

    def _drain(self, conn: Connection) -> None:
        data = conn.sock.receive_now(_READ_BYTES)
        if data is not None:
            conn.drained += len(data)
            if not data or conn.drained > _LINGER_BYTES:
                self._drop(conn)

    def _refuse_for_now(self, conn: Connection) -> None:
        message = "as much of requests waits in memory as may; try again in a moment"
        self._refuse(conn, 503, message, scattered(RETRY_SECONDS))

    def _refuse(self, conn: Connection, status: int, message: str, retry_after: int | None = None) -> None:
        """Answer from the event loop; the connection is watched, and ends."""
        self.log.info("a client was cut off: %s", message)
        self._unwatch(conn)
        self._let_go(conn)
        conn.is_kept = False
        try:
            conn.sock.sendall(refusal(status, MEANINGS[status][1], message, retry_after))
        except OSError:
            self._forget(conn)
            return
        self._deliver(conn)

    # --- the event loop ------------------------------------------------------------------------

    def _watch(self, conn: Connection, phase: Phase) -> None:
        conn.phase = phase
        conn.since = conn.judged_at = time.monotonic()
        event = selectors.EVENT_WRITE if phase is Phase.LEAVING else selectors.EVENT_READ
        self.poller.register(conn.sock, event, partial(self._on_event, conn))
        self._watched[conn] = None

    def _unwatch(self, conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        del self._watched[conn]

    def _on_event(self, conn: Connection, _: object) -> None:
        if conn not in self._watched:
            # Closed by an event before this one, of the same round.
            return
        steps = {Phase.LEAVING: self._send, Phase.LINGERING: self._drain}
        try:
            steps.get(conn.phase, self._receive)(conn)
        except OSError:
            self._lose(conn)

    def _lose(self, conn: Connection) -> None:
        """End a connection that failed, whether it is still watched or not."""
        if conn in self._watched:
            self._drop(conn)
        elif conn.sock.fileno() >= 0:
            self._forget(conn)

    def _drop(self, conn: Connection) -> None:
        self._unwatch(conn)
        self._forget(conn)

    def _forget(self, conn: Connection) -> None:
        self._let_go(conn)
        self.nr_conns -= 1
        conn.close()

    def _close_longest_waiting(self) -> None:
        """Of those that we have nothing to do for: who is quick was served long before, who is idle comes again.

        How much of a request has come tells nothing: its last byte can be kept back for as long as its first.
        """
        waiting = (Phase.IDLE, Phase.ARRIVING, Phase.LINGERING)
        if (longest := next((conn for conn in self._watched if conn.phase in waiting), None)) is not None:
            self._drop(longest)

    def murder_pending(self) -> None:
        """Called after every round of events: end what has waited too long."""
        now = time.monotonic()
        if now - self._patrolled_at < _PATROL_SECONDS:
            return
        self._patrolled_at = now
        for conn in list(self._watched):
            try:
                self._judge(conn, now)
            except OSError:
                self._lose(conn)

    def _judge(self, conn: Connection, now: float) -> None:
        waited = now - conn.since
        match conn.phase:
            case Phase.IDLE if waited > self._idle_seconds:
                self._drop(conn)
            case Phase.LINGERING if waited > _LINGER_SECONDS:
                self._drop(conn)
            case Phase.ARRIVING if not conn.gathering.has_header:
                if waited > self._pacing.header_seconds:
                    self._refuse(conn, 408, f"the request's header took longer than {waited:.0f} s")
            case Phase.ARRIVING if waited > self._body_seconds:
                self._refuse(conn, 408, f"the request's body took longer than {waited:.0f} s")
            case Phase.ARRIVING:
                self._judge_pace(conn, now)
            case Phase.LEAVING:
                self._judge_reader(conn, now)
            case _:
                return

    def _judge_reader(self, conn: Connection, now: float) -> None:
        try:
            conn.sock.outgoing.waited(now - conn.judged_at)
            conn.judged_at = now
        except TooSlow as exc:
            self.log.info("a client was cut off: %s", exc.strerror)
            conn.sock.is_given_up = True
            self._drop(conn)

    def _judge_pace(self, conn: Connection, now: float) -> None:
        try:
            conn.sock.incoming.waited(now - conn.judged_at)
            conn.judged_at = now
        except TooSlow as exc:
            self._refuse(conn, 408, f"the request came too slowly: {exc.strerror}")

    def murder_keepalived(self, force: bool = False) -> None:
        """Idle connections are among those that `murder_pending` looks at; at the very end all are closed."""
        if force:
            for conn in list(self._watched):
                self._drop(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """The worker stops: a request that is being sent is still served, and then it is enough."""
        self._idle_seconds = min(self._idle_seconds, STOP_KEEPALIVE_LINGER)


def _is_read(body: Any) -> bool:
    """Whether gunicorn's body has nothing left to come: a length that is used up, or a last chunk that was seen."""
    reader = body.reader
    return getattr(reader, "length", None) == 0 or getattr(reader, "parser", body) is None
