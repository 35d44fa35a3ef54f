"""Bytes to a server and its answer back, whatever either is."""

import http.client
import socket
import time
from dataclasses import dataclass, field

from tests.hostile.requests import Attack


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` 0: the connection ended without an answer. `hung`: neither came within the time."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    hung: bool = False


def send(port: int, attack: Attack, seconds: float) -> Answer:
    """On a connection of its own. Servers may answer, and hang up, before they have read everything."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(attack.wire)
            if attack.half_close:
                connection.shutdown(socket.SHUT_WR)
        except TimeoutError:
            return Answer(0, seconds=time.monotonic() - began, hung=True)
        except OSError:
            # Hung up on while sending; the answer may be there all the same.
            pass
        return _answer(connection, attack.method, began)


def _answer(connection: socket.socket, method: str, began: float) -> Answer:
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = response.read()
    except TimeoutError:
        return Answer(0, seconds=time.monotonic() - began, hung=True)
    except (OSError, http.client.HTTPException):
        return Answer(0, seconds=time.monotonic() - began)
    finally:
        response.close()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body, time.monotonic() - began)
