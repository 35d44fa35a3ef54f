"""What gunicorn itself says: the API as it is really served, spoken to byte by byte."""

import json
import socket
import sys
from collections.abc import Iterator

import pytest

from api.headers import EVERYWHERE
from cli.stack.valkey import Valkey
from tests.conftest import fresh_database
from tests.stack.conftest import Stack, built
from tests.waiting import eventually

pytestmark = pytest.mark.slow


def started(stack: Stack) -> Stack:
    stack.start(
        "api",
        [
            *(sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "--bind", f"127.0.0.1:{stack.port}"),
            *("--no-control-socket", "api.app:create_app()"),
        ],
    )
    eventually(stack._is_healthy, 60)
    return stack


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, postgres: str, valkey: Valkey) -> Iterator[Stack]:
    """The API with the settings it is shipped with."""
    with fresh_database(postgres) as url, built(tmp_path_factory.mktemp("front"), url, valkey) as stack:
        yield started(stack)


def spoken(stack: Stack, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of the one answer to what may be no request."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [line.split(": ", 1) for line in lines]
    assert len({name.lower() for name, _ in headers}) == len(headers), "a header twice"
    return int(first.split()[1]), {name.lower(): value for name, value in headers}, body


HOST = b"Host: x\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n", 200, id="a good one"),
        pytest.param(b"NONSENSE\r\n\r\n", 400, id="no request line"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", 400, id="an unknown version"),
        pytest.param(b"GET /<script> HTTP/1.1\r\nBad Header: 1\r\n\r\n", 400, id="a malformed header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n", 400, id="a folded header"),
        pytest.param(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, id="a long line"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(99)) + b"\r\n", 431, id="many headers"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 9_000 + b"\r\n\r\n", 431, id="a long header"),
        pytest.param(
            b"POST /v1/jobs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 400, id="a body without an end"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            id="two lengths",
        ),
        pytest.param(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400, id="a negative length"),
        pytest.param(b"POST / HTTP/1.1\r\n" + HOST + b"Expect: tea\r\n\r\n", 417, id="an unknown expectation"),
    ],
)
def test_the_server_refuses_in_the_one_shape_and_with_all_headers(front: Stack, request_: bytes, status: int) -> None:
    found, headers, body = spoken(front, request_)

    assert found == status
    assert {name: headers.get(name.lower()) for name in EVERYWHERE} == dict(EVERYWHERE)
    assert headers["content-type"] == "application/json"
    assert headers["server"] == "bushel"
    assert b"gunicorn" not in body.lower() and b"<" not in body and b"Traceback" not in body
    if status >= 400:
        error = json.loads(body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert int(headers["content-length"]) == len(body)
