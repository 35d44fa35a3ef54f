"""HTTP to one server: waits that are bounded, tries again where that is safe, and answers read as they come."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx

from cli import wire
from cli.errors import CLIError, Refused, ServerBusy, Unreachable
from db.safeguards import is_loopback

# The server may be long checking a large upload, or seeking the first line of a long result.
SLOW = httpx.Timeout(300.0, connect=5.0)
_USUAL = httpx.Timeout(30.0, connect=5.0)
_IMPATIENT = httpx.Timeout(10.0, connect=5.0)
_BUSY = frozenset({429, 502, 503, 504})
# A mistyped URL should be told at once; a server that answered a moment ago is probably being restarted.
_PATIENCE_AT_FIRST, _PATIENCE_LATER = 1.5, 60.0
_NO_BUSHEL = "what answers there is not Bushel"


class CutOff(Exception):
    """The body of a response ended before its end."""


class Connection:
    """One server, one key. Raises only CLIError and its kinds, and CutOff where it says so.

    What is repeatable is tried again while the server is away or busy; anything else only if it cannot have arrived.
    With `is_patient` off nothing is tried again.
    """

    def __init__(self, url: str, api_key: str | None, transport: httpx.BaseTransport | None, is_patient: bool) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=_USUAL if is_patient else _IMPATIENT,
                transport=transport,
                # A proxy meant for the world outside must not come between us and our own machine.
                trust_env=not is_loopback(httpx.URL(self.url).host),
            )
        except (httpx.InvalidURL, ValueError) as exc:
            raise Refused(0, f"{url} is not a URL: {exc}") from exc
        self._patience, self._patience_later = (_PATIENCE_AT_FIRST, _PATIENCE_LATER) if is_patient else (0.0, 0.0)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, str] | None = None, **how: Any) -> wire.JSON:
        return self.object("GET", path, repeatable=True, params=dict(params or {}), **how)

    def post(self, path: str, body: wire.JSON | None = None) -> wire.JSON:
        return self.object("POST", path, repeatable=False, json=body)

    def object(self, method: str, path: str, repeatable: bool, **said: Any) -> wire.JSON:
        """What the server answers, an object of JSON; `said` is as httpx takes it."""
        response = self.request(method, path, repeatable, **said)
        found = content(response)
        if not found:
            raise self.stranger(response)
        return found

    def request(self, method: str, path: str, repeatable: bool, **said: Any) -> httpx.Response:
        return self._try(partial(self._http.request, method, path, **said), repeatable)

    def pages(self, path: str, params: Mapping[str, str]) -> Iterator[wire.JSON]:
        """The objects of a list, each page of it when it is needed."""
        after: dict[str, str] = {}
        while True:
            page = self.get(path, {**params, **after})
            rows = wire.objects(page.get("data"))
            yield from rows
            if not page.get("has_more") or not rows:
                return
            after = {"after": str(rows[-1]["id"])}

    @contextmanager
    def stream(
        self, path: str, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """A response whose body is still to be read. CutOff when it breaks off while the caller reads."""
        request = self._http.build_request(
            "GET", path, params=dict(params or {}), headers=dict(headers or {}), timeout=SLOW
        )

        def send() -> httpx.Response:
            response = self._http.send(request, stream=True)
            if response.is_error:
                response.read()
            return response

        response = self._try(send, repeatable=True)
        try:
            yield response
        except httpx.TransportError as exc:
            raise CutOff(_reason(exc)) from exc
        finally:
            response.close()

    @contextmanager
    def once(
        self, path: str, headers: Mapping[str, str] | None = None, timeout: httpx.Timeout | None = None
    ) -> Iterator[httpx.Response]:
        """Whatever is answered, its body still to be read; Unreachable where nothing is, or where it breaks off."""
        request = self._http.build_request(
            "GET", path, headers=dict(headers or {}), timeout=timeout or self._http.timeout
        )
        try:
            response = self._http.send(request, stream=True)
            try:
                yield response
            finally:
                response.close()
        except httpx.TransportError as exc:
            raise Unreachable(self.url, _reason(exc)) from exc

    def stranger(self, response: httpx.Response) -> CLIError:
        """Of an answer that is not what a Bushel says: why, by its own word if it has one."""
        return _failure(response) or Unreachable(self.url, _NO_BUSHEL)

    def patience(self) -> "Patience":
        """As much as a server deserves that was there a moment ago, or was not."""
        return Patience(self._patience)

    def _try(self, send: Callable[[], httpx.Response], repeatable: bool) -> httpx.Response:
        patience = self.patience()
        while True:
            try:
                response = send()
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                patience.wait_or_raise(Unreachable(self.url, _reason(exc)))
            except httpx.TransportError as exc:
                lost = Unreachable(self.url, _reason(exc))
                if not repeatable:
                    raise lost from exc
                patience.wait_or_raise(lost)
            except httpx.InvalidURL as exc:
                raise Refused(0, f"{self.url} is not a URL: {exc}") from exc
            else:
                self._patience = self._patience_later
                said = _failure(response)
                if said is None:
                    return response
                if not (repeatable and _may_pass(said)):
                    raise said
                patience.wait_or_raise(said, _retry_after(response))


class Patience:
    """Waits, longer each time, until the time is over."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._pause = 0.2

    def wait_or_raise(self, failure: CLIError, at_least: float = 0.0) -> None:
        # The random part keeps many waiting clients from coming back in the same moment.
        pause = max(at_least, self._pause * random.uniform(0.7, 1.3))
        if time.monotonic() + pause > self._until:
            raise failure
        # A server that is away or busy cannot tell when to come back, but by the `retry-after` in `at_least`.
        time.sleep(pause)
        self._pause = min(5.0, self._pause * 2)


def text_lines(response: httpx.Response) -> Iterator[str]:
    """Lines by newline alone: httpx's own iterator also splits at U+2028, which JSON leaves inside strings.

    A last line without its newline was cut off, and is not given out.
    """
    rest = b""
    for chunk in response.iter_bytes():
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("utf-8") + "\n" for line in whole if line)
    if rest:
        raise CutOff("the last line is not whole")


def content(response: httpx.Response) -> wire.JSON:
    """The object of JSON that was answered; empty if it is none."""
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _failure(response: httpx.Response) -> ServerBusy | Refused | None:
    if not response.is_error:
        return None
    found = content(response).get("error")
    error = found if isinstance(found, dict) else {}
    message = str(error.get("message") or response.reason_phrase or "no reason given")
    request_id = response.headers.get("x-request-id")
    if response.status_code >= 500 or response.status_code == 429:
        return ServerBusy(response.status_code, message, request_id)
    if response.status_code == 401:
        message += "; set BUSHEL_API_KEY, or name the folder of the `bushel up` here by --data, "
        message += "or make a key: bushel keys create --save"
    code, param = error.get("code"), error.get("param")
    return Refused(
        response.status_code, message, str(code) if code else None, str(param) if param else None, request_id
    )


def _may_pass(failure: ServerBusy | Refused) -> bool:
    if isinstance(failure, ServerBusy):
        return failure.status in _BUSY
    # The first of our own attempts is still being worked on.
    return failure.status == 409 and "idempotency" in (failure.code or "")


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0


def _reason(exc: Exception) -> str:
    return str(exc).strip().lower() or type(exc).__name__
