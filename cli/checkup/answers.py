"""Everything that the doctor asks of the API, as any client would."""

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from cli import wire
from db.safeguards import is_loopback

if TYPE_CHECKING:
    import httpx


class NoAnswer(Exception):
    """Nobody is at the URL, or nobody who speaks HTTP."""


class Stranger(Exception):
    """Somebody answers who is no Bushel."""


@dataclass(frozen=True, slots=True)
class Answers:
    """`readiness` is None where it says nothing in time, and so is `version`.

    `key_status` is what a request with the key got, `key_message` why if it was refused; None: no key, or no answer.
    """

    version: str | None
    readiness: wire.Readiness | None
    ahead_seconds: float | None
    key_status: int | None
    key_message: str


def ask(url: str, api_key: str | None, seconds: float) -> Answers:
    """NoAnswer or Stranger if it cannot be asked. One that is alive, and slow at all else, can.

    `seconds` are for connecting, and for every wait for more of an answer.
    """
    import httpx

    try:
        address = httpx.URL(url)
        # A proxy meant for the world outside must not come between us and our own machine.
        client = httpx.Client(base_url=url.rstrip("/"), timeout=seconds, trust_env=not is_loopback(address.host))
    except (httpx.InvalidURL, ValueError) as exc:
        raise NoAnswer(f"it is no URL: {exc}") from exc
    with client:
        try:
            ahead = _ahead(client)
        except httpx.HTTPError as exc:
            raise NoAnswer(str(exc).strip() or type(exc).__name__) from exc
        readiness, version = _readiness(client), _version(client)
        status, message = _try_key(client, api_key) if api_key else (None, "")
        return Answers(version, readiness, ahead, status, message)


def _ahead(client: "httpx.Client") -> float | None:
    """How far the server's clock is before ours, to the second; Stranger if the answer is none of Bushel's."""
    before = time.time()
    response = client.get("/healthz")
    after = time.time()
    if _object(response).get("status") != "ok":
        raise Stranger(f"{response.status_code} for /healthz")
    try:
        # It is cut to whole seconds.
        there = parsedate_to_datetime(response.headers["date"]).timestamp() + 0.5
    except (KeyError, ValueError):
        return None
    return there - (before + after) / 2


def _version(client: "httpx.Client") -> str | None:
    response = _tried(client, "/openapi.json")
    return None if response is None else wire.version(_object(response))


def _readiness(client: "httpx.Client") -> wire.Readiness | None:
    response = _tried(client, "/readyz")
    content = {} if response is None else _object(response)
    return wire.readiness(content) if "checks" in content else None


def _try_key(client: "httpx.Client", api_key: str) -> tuple[int | None, str]:
    """Read something harmless that a key with the scope `read` opens."""
    response = _tried(client, "/v1/models", authorization=f"Bearer {api_key}")
    if response is None:
        return None, "there was no answer"
    error = _object(response).get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return response.status_code, str(message or response.reason_phrase)


def _tried(client: "httpx.Client", path: str, **headers: str) -> "httpx.Response | None":
    """None if there is no answer in time."""
    import httpx

    try:
        return client.get(path, headers=headers)
    except httpx.HTTPError:
        return None


def _object(response: "httpx.Response") -> wire.JSON:
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
