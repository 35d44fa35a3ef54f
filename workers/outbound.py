"""Requests to addresses that strangers chose: only where it is allowed, in bounded time, for a bounded answer."""

import contextlib
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Protocol

import httpcore
import httpx

from db.targets import BadTarget, check_url, may_reach

SECONDS = 15.0
# One address that swallows packets must not cost the time for the others.
_CONNECT_SECONDS = 5.0
# Read so that a polite receiver is not cut off while it answers; beyond this it is.
_MOST_ANSWER_BYTES = 64 * 1024


class Undelivered(Exception):
    """There is no answer; the message says why, for whoever owns the URL."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The status of the answer, and the seconds it asks to wait before the next request."""

    status: int
    retry_after: float | None = None


class Resolver(Protocol):
    def addresses(self, host: str, port: int, seconds: float) -> Sequence[str]:
        """The addresses of a name, best first; Undelivered when there are none, or none in time."""
        ...


class SystemResolver:
    """The operating system's own."""

    def addresses(self, host: str, port: int, seconds: float) -> Sequence[str]:
        # In a thread that may be left behind: getaddrinfo cannot be told to hurry, and a name's owner decides
        # how long its servers take.
        found: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()
        threading.Thread(target=lambda: found.put(_looked_up(host, port)), name="resolver", daemon=True).start()
        try:
            answer = found.get(timeout=seconds)
        except queue.Empty:
            raise Undelivered(f"the name {host} was not resolved in time") from None
        if isinstance(answer, Exception):
            raise Undelivered(f"the name {host} does not resolve: {getattr(answer, 'strerror', None) or answer}")
        return answer


def _looked_up(host: str, port: int) -> list[str] | OSError | UnicodeError:
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        return exc
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


class Outbound:
    """Sends one request at a time on a connection of its own. May be used from several threads.

    A name is looked up once a request. All of its addresses must be allowed, and the connection goes to one
    of just those, so that a name cannot lead elsewhere between the check and the connection. TLS still
    asks for the name. No proxy, no redirect, no cookie, nothing from the environment.
    """

    def __init__(
        self,
        allow_private: bool,
        resolver: Resolver | None = None,
        network: httpcore.NetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self._allow_private, self._seconds = allow_private, seconds
        self._resolver = resolver or SystemResolver()
        self._network = network or httpcore.SyncBackend()
        self._given_tls = tls

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = httpx.create_ssl_context(trust_env=False)
        # The machine's own authorities too: a company has its internal ones there.
        context.load_default_certs()
        return context

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST, and what came back; Undelivered when nothing did within the time for all of it."""
        try:
            target = check_url(url, self._allow_private)
        except BadTarget as exc:
            raise Undelivered(f"the URL {exc}") from exc
        deadline = _Deadline(self._seconds)
        try:
            return self._post(target, headers, body, deadline)
        except httpcore.TimeoutException as exc:
            raise Undelivered(f"no answer within {self._seconds:g} s") from exc
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError) as exc:
            raise Undelivered(_reason(exc)) from exc

    def _post(self, target: httpx.URL, headers: Mapping[str, str], body: bytes, deadline: "_Deadline") -> Answer:
        url = httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
        network = _Pinned(self._network, self._resolver, self._allow_private, deadline)
        tls = (self._given_tls or self._tls) if target.scheme == "https" else None
        with (
            httpcore.HTTPConnection(url.origin, ssl_context=tls, network_backend=network) as connection,
            connection.stream("POST", url, headers=list(headers.items()), content=body) as response,
        ):
            _read_some(response)
            return Answer(response.status, _retry_after(response.headers))


class _Deadline:
    """When everything must be over. httpcore's own timeouts begin anew with every packet."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self, at_most: float = float("inf")) -> float:
        left = self._at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return min(left, at_most)


class _Pinned(httpcore.NetworkBackend):
    """Connects to the checked address of a name, and puts every wait under one deadline."""

    def __init__(
        self, network: httpcore.NetworkBackend, resolver: Resolver, allow_private: bool, deadline: _Deadline
    ) -> None:
        self._network, self._resolver = network, resolver
        self._allow_private, self._deadline = allow_private, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._resolver.addresses(host, port, self._deadline.left())
        for address in addresses:
            if not may_reach(ipaddress.ip_address(address.partition("%")[0]), self._allow_private):
                raise Undelivered(f"{host} leads to {address}, where nothing is sent")
        failure: Exception = Undelivered(f"the name {host} has no address")
        for address in addresses:
            try:
                stream = self._network.connect_tcp(
                    address, port, self._deadline.left(_CONNECT_SECONDS), socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
                continue
            return _Timed(stream, self._deadline)
        raise failure


class _Timed(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _Timed(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _read_some(response: httpcore.Response) -> None:
    """The body says nothing to us. One that does not end, or is broken, does not make the status untrue."""
    read = 0
    with contextlib.suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        for chunk in response.iter_stream():
            read += len(chunk)
            if read > _MOST_ANSWER_BYTES:
                return


def _retry_after(headers: Sequence[tuple[bytes, bytes]]) -> float | None:
    """Seconds, from a number or a date; None if there is neither.

    >>> _retry_after([(b"Retry-After", b"120")]), _retry_after([(b"retry-after", b"soon")])
    (120.0, None)
    """
    for name, value in headers:
        if name.lower() == b"retry-after":
            return _seconds(value.decode("latin-1").strip())
    return None


def _seconds(text: str) -> float | None:
    if text.isascii() and text.isdigit():
        # More digits than any sensible wait has are as good as this.
        return float(min(int(text[:12]), 10**9))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _reason(exc: Exception) -> str:
    """What went wrong on the way, without our own addresses in it."""
    cause: BaseException = exc
    while not isinstance(cause, OSError) and (cause.__cause__ or cause.__context__) is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the receiver's certificate is not valid: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS with the receiver: {cause.reason or 'broken off'}"
    if isinstance(cause, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(cause, ConnectionError) or isinstance(exc, httpcore.RemoteProtocolError):
        return "the receiver broke the connection off, or does not speak HTTP"
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)[:200]
