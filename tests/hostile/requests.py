"""Hostile requests as bytes on a wire: what no HTTP library would send, at every route there is."""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from tests.hostile import bodies, files, names, values
from tests.hostile.bodies import Route

Headers = list[tuple[bytes, bytes]]
# What asking for something of somebody else may get; anything else would say that there is such a thing.
_NONE = frozenset({400, 404, 415})


@dataclass(frozen=True, slots=True)
class Attack:
    """One request. `wire` is all of it; after it the sender either waits, or says that nothing more comes.

    `is_http` is False where the server cannot tell a request, and its answer is its own.
    """

    kind: str
    wire: bytes
    method: str = "GET"
    half_close: bool = False
    is_http: bool = True
    route: Route | None = None
    # Where a file was uploaded: how the job that reads it is told to.
    format: Mapping[str, Any] | None = None
    # Statuses that it may get and no other, where it must get none of those that tell something.
    only: frozenset[int] | None = None


@dataclass(frozen=True)
class Targets:
    """What there is to attack: the routes, ids of the attacker's own and of others, a port that must stay silent."""

    routes: Sequence[Route]
    key: str
    canary: str
    own: Mapping[str, str]
    # Of the attacker too: what is deleted and cancelled, so that the others stay there to be attacked.
    spare: Mapping[str, str]
    foreign: Mapping[str, str]
    silent_port: int
    templates: Mapping[Route, Any] = field(default_factory=dict)


def message(method: str, target: bytes, headers: Headers, body: bytes = b"", *, length: bool = True) -> bytes:
    """A request of HTTP/1.1, after which the server is to close the connection."""
    lines = [
        method.encode("latin-1", "replace") + b" " + target + b" HTTP/1.1",
        b"Host: bushel.test",
        b"Connection: close",
    ]
    lines += [name + b": " + value for name, value in headers]
    if length:
        lines.append(b"Content-Length: " + str(len(body)).encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Attacks:
    """An endless supply, the same for the same seed."""

    def __init__(self, targets: Targets, seed: int) -> None:
        self._targets = targets
        self._rng = random.Random(seed)
        self._with_body = [route for route in targets.routes if route in targets.templates]
        self._by_id = [route for route in targets.routes if "<" in route[1]]
        self._lists = [route for route in targets.routes if route[0] == "GET"]
        self._multipart = [("POST", "/v1/files"), ("POST", "/v1/uploads/<upload_id>/parts")]

    def all(self, count: int) -> Iterator[Attack]:
        """`count` attacks: every kind at every route it fits before any comes again."""
        pairs = self._pairs()
        for number in range(count):
            if number % len(pairs) == 0:
                self._rng.shuffle(pairs)
            make, route = pairs[number % len(pairs)]
            yield make(route)

    def _pairs(self) -> list[tuple[Callable[[Route], Attack], Route]]:
        found: list[tuple[Callable[[Route], Attack], Route]] = []
        for kind in bodies.SPOILED:
            found += [(self._spoiled(kind), route) for route in self._with_body]
        found += [(self._file, ("POST", "/v1/files"))] * 40
        found += [(make, route) for make in (self._multipart_broken, self._named_part) for route in self._multipart * 4]
        found += [(self._address, ("POST", "/v1/webhooks"))] * 20
        found += [(make, route) for make in (self._odd_id, self._foreign_id) for route in self._by_id]
        found += [
            (self._foreign_in_body, route) for route in self._with_body if "<file_id>" in str(self._template(route))
        ]
        found += [(self._foreign_file, ("POST", "/v1/jobs"))] * 3
        found += [(self._query, route) for route in self._lists]
        every = (self._method, self._header, self._nobody)
        found += [(make, route) for make in every for route in self._targets.routes]
        found += [(make, route) for make in (self._content_type, self._lengths) for route in self._with_body]
        found += [(self._no_http, ("GET", "/v1/jobs"))] * 12
        return found

    def _template(self, route: Route) -> Any:
        return self._targets.templates.get(route)

    def _path(self, route: Route, ids: Mapping[str, str] | None = None) -> bytes:
        method, path = route
        ends = method == "DELETE" or path.endswith("/cancel")
        for name, id in {**(self._targets.spare if ends else self._targets.own), **(ids or {})}.items():
            path = path.replace(name, id)
        return re.sub("<[^>]*>", "none", path).encode()

    def _headers(self, content_type: bytes | None = b"application/json") -> Headers:
        found = [(b"Authorization", b"Bearer " + self._targets.key.encode())]
        return found + ([(b"Content-Type", content_type)] if content_type is not None else [])

    def _body(self, route: Route) -> Any:
        """The valid body with ids of things that are there."""

        def named(value: Any) -> Any:
            if isinstance(value, str):
                return self._targets.own.get(value, value)
            if isinstance(value, Mapping):
                return {name: named(each) for name, each in value.items()}
            return [named(each) for each in value] if isinstance(value, list) else value

        return named(self._template(route))

    def _spoiled(self, kind: str) -> Callable[[Route], Attack]:
        def make(route: Route) -> Attack:
            body = bodies.SPOILED[kind](self._rng, self._body(route))
            return Attack(kind, message(route[0], self._path(route), self._headers(), body), route[0], route=route)

        return make

    def _file(self, route: Route) -> Attack:
        return self.upload(files.any_file(self._rng))

    def upload(self, file: files.HostileFile) -> Attack:
        """A hostile file, properly sent; its job is the sender's to make."""
        name = file.name.encode(errors="replace").replace(b"\r", b"%0D").replace(b"\n", b"%0A").replace(b'"', b"%22")
        form = _form(b"b0undary", [(b'form-data; name="purpose"', b"batch"), (_as_file(name), file.data)])
        headers = self._headers(b"multipart/form-data; boundary=b0undary")
        wire = message("POST", b"/v1/files", headers, form)
        return Attack(file.kind, wire, "POST", route=("POST", "/v1/files"), format=file.format)

    def _named_part(self, route: Route) -> Attack:
        """A file whose name, or whose part's, breaks out of its header or of its folder."""
        name = names.header(self._rng).encode(errors="replace")
        part = b"data" if "parts" in route[1] else b"file"
        disposition = self._rng.choice(
            (
                b'form-data; name="' + part + b'"; filename="' + name + b'"',
                b'form-data; name="' + name + b'"; filename="a.txt"',
                b'form-data; name="' + part + b"\"; filename*=UTF-8''" + quote(name).encode(),
                b'form-data; name="' + part + b'"; filename="a.txt"\r\nX-More: ' + name,
            )
        )
        form = _form(b"b0undary", [(b'form-data; name="purpose"', b"batch"), (disposition, b"hello\n")])
        headers = self._headers(b"multipart/form-data; boundary=b0undary")
        return Attack("names of files", message("POST", self._path(route), headers, form), "POST", route=route)

    def _multipart_broken(self, route: Route) -> Attack:
        rng = self._rng
        part = b"data" if "parts" in route[1] else b"file"
        good = _form(b"b0undary", [(b'form-data; name="purpose"', b"batch"), (_as_file(b"a.txt", part), b"hello\n")])
        purpose = b'form-data; name="purpose"'
        form = rng.choice(
            (
                good[: rng.randrange(len(good))],
                good.replace(b"b0undary", b"other"),
                good.replace(b"\r\n", b"\n"),
                good + good,
                b"",
                b"--b0undary--\r\n",
                b"--b0undary" * 1_000,
                _form(b"b0undary", [(purpose, b"batch")]),
                _form(b"b0undary", [(purpose, b"x" * 100_000)]),
                _form(b"b0undary", [(purpose, b"batch")] * 200),
                _form(b"b0undary", [(purpose, b"\xff\0"), (_as_file(b"a", part), b"x")]),
                _form(b"b0undary", [(_as_file(b"a", part), b"x")] * 2),
                _form(b"b0undary", [(b'form-data; name="' + b"n" * 70_000 + b'"', b"x")]),
                _form(b"b0undary", [(b"form-data", b"x"), (_as_file(b"a", part), b"x")]),
                _form(
                    b"b0undary",
                    [
                        (b'form-data; name="expires_after[seconds]"', b"1e9"),
                        (purpose, b"batch"),
                        (_as_file(b"a", part), b"x"),
                    ],
                ),
                rng.randbytes(3_000),
            )
        )
        headers = self._headers(
            rng.choice((b"multipart/form-data; boundary=b0undary", b"multipart/form-data; boundary=x"))
        )
        wire = message("POST", self._path(route), headers, form)
        return Attack("multipart", wire, "POST", route=route)

    def _address(self, route: Route) -> Attack:
        url = self._rng.choice(names.addresses(self._targets.silent_port))
        body = values.encoded({"url": url})
        return Attack("webhook addresses", message("POST", b"/v1/webhooks", self._headers(), body), "POST", route=route)

    def _by_path(self, kind: str, route: Route, ids: Mapping[str, str]) -> Attack:
        body = values.encoded(self._body(route)) if self._template(route) is not None else b""
        return Attack(kind, message(route[0], self._path(route, ids), self._headers(), body), route[0], route=route)

    def _odd_id(self, route: Route) -> Attack:
        odd = self._rng.choice((*names.IDS, *names.PATHS))
        # What a request line cannot hold goes percent-encoded; the rest now and then too.
        target = quote(odd, safe="%" if self._rng.random() < 0.5 else "")
        return self._by_path("forged ids", route, dict.fromkeys(self._targets.own, target))

    def _foreign_id(self, route: Route) -> Attack:
        attack = self._by_path("ids of others", route, self._targets.foreign)
        # Models are everybody's.
        return attack if "<model>" in route[1] else replace(attack, only=_NONE)

    def _foreign_in_body(self, route: Route) -> Attack:
        body = values.encoded(self._template(route))
        for name, id in self._targets.foreign.items():
            body = body.replace(name.encode(), id.encode())
        wire = message(route[0], self._path(route), self._headers(), body)
        return Attack("ids of others", wire, route[0], route=route, only=_NONE)

    def _foreign_file(self, route: Route) -> Attack:
        body = {"task": "translation", "input_file_id": self._targets.foreign["<file_id>"], "format": "txt"}
        wire = message("POST", b"/v1/jobs", self._headers(), values.encoded(body))
        return Attack("ids of others", wire, "POST", route=route, only=_NONE)

    def _query(self, route: Route) -> Attack:
        rng = self._rng
        cursors = [
            f"{name}={id}" for id in self._targets.foreign.values() for name in ("after", "after_id", "before_id")
        ]
        query = rng.choice((*names.QUERIES, *cursors))
        wire = message("GET", self._path(route) + b"?" + query.encode(), self._headers(None))
        return Attack("queries and cursors", wire, route=route)

    def _method(self, route: Route) -> Attack:
        method = self._rng.choice(names.METHODS)
        wire = message(method, self._path((method, route[1])), self._headers(), b"{}")
        return Attack("methods", wire, method, route=route, is_http=method.isupper() and method != "CONNECT")

    def _header(self, route: Route) -> Attack:
        """Something hostile in a header that we read; CR and LF too, as a careless proxy would let them through."""
        name = self._rng.choice(
            (
                *(b"Idempotency-Key", b"X-Request-Id", b"X-Stainless-Retry-Count", b"Range", b"Accept-Encoding"),
                b"Cookie",
                b"X-Forwarded-For",
                b"X-HTTP-Method-Override",
                b"anthropic-version",
                b"If-None-Match",
                b"Content-Encoding",
            )
        )
        value = self._rng.choice((*names.BREAKS, *names.PATHS, *values.SQL_TEXTS, "bytes=0-,1-,2-", "gzip"))
        has_body = self._template(route) is not None
        body = values.encoded(self._body(route)) if has_body else b""
        sent = value.encode(errors="replace")
        wire = message(route[0], self._path(route), [*self._headers(), (name, sent)], body)
        # A header broken in two by CR LF may be a request that is none.
        is_http = not any(byte < 32 or byte == 127 for byte in sent) and len(sent) < 8_000
        return Attack("headers", wire, route[0], route=route, is_http=is_http, half_close=True)

    def _nobody(self, route: Route) -> Attack:
        right = self._targets.key
        bearers = ("", "k" * 4_000, "bsh_a_b", "\xff\xfe", right[:-1], f"{right}x", right.upper(), "' OR 1=1", "null")
        key = self._rng.choice(("", "Bearer", "Basic YTpi", right, *(f"Bearer {each}" for each in bearers)))
        headers: Headers = [(b"Authorization", key.encode("latin-1")), (b"Content-Type", b"application/json")]
        body = values.encoded(self._body(route)) if self._template(route) is not None else b""
        only = frozenset({401}) if route[1].startswith("/v1/") else None
        wire = message(route[0], self._path(route), headers, body)
        return Attack("keys", wire, route[0], route=route, only=only)

    def _content_type(self, route: Route) -> Attack:
        given = self._rng.choice(names.CONTENT_TYPES).encode("latin-1", "replace")
        body = values.encoded(self._body(route))
        wire = message(route[0], self._path(route), self._headers(given), body)
        return Attack("content types", wire, route[0], route=route, is_http=b"\0" not in given)

    def _lengths(self, route: Route) -> Attack:
        """A length that is not the body's, or two of them: whoever believes the wrong one smuggles a request."""
        body = values.encoded(self._body(route))
        size = str(len(body)).encode()
        smuggled = b"0\r\n\r\nGET /v1/files HTTP/1.1\r\nHost: a\r\n\r\n"
        chunked = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
        extra, sent = self._rng.choice(
            (
                ([(b"Content-Length", size), (b"Content-Length", b"0")], body),
                ([(b"Content-Length", size + b", 0")], body),
                ([(b"Content-Length", b"-1")], body),
                ([(b"Content-Length", b"+" + size)], body),
                ([(b"Content-Length", b"9" * 30)], body),
                ([(b"Content-Length", b"1e3")], body),
                ([(b"Content-Length", b"")], body),
                ([(b"Content-Length", str(len(body) + 10).encode())], body),
                ([(b"Content-Length", str(len(body) // 2).encode())], body),
                ([(b"Content-Length", size), (b"Transfer-Encoding", b"chunked")], smuggled),
                ([(b"Transfer-Encoding", b"chunked")], chunked),
                ([(b"Transfer-Encoding", b"chunked")], b"zz\r\n" + body),
                ([(b"Transfer-Encoding", b"chunked")], b"ffffffffffffffffff\r\n" + body),
                ([(b"Transfer-Encoding", b"chunked")], b"-1\r\n" + body),
                ([(b"Transfer-Encoding", b"chunked, chunked")], chunked),
                ([(b"Transfer-Encoding", b"gzip, chunked")], chunked),
                ([(b"Transfer-Encoding", b"xchunked")], chunked),
                ([(b"Transfer-Encoding", b"chunked")], chunked[:-7]),
                ([], body),
            )
        )
        headers = [*self._headers(), *extra]
        wire = message(route[0], self._path(route), headers, sent, length=False)
        return Attack("lengths", wire, route[0], half_close=True, is_http=False, route=route)

    def _no_http(self, route: Route) -> Attack:
        wire = self._rng.choice(
            (
                b"\r\n" * 50,
                b"GET\r\n\r\n",
                b"GET /v1/jobs\r\n\r\n",
                b"GET /v1/jobs HTTP/9.9\r\n\r\n",
                b"GET  /v1/jobs  HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET http://evil.example/v1/jobs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                b"GET /v1/jobs HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 300 + b"\r\n",
                b"GET /v1/jobs HTTP/1.1\r\n: empty\r\nHost: a\r\n\r\n",
                b"GET /v1/jobs HTTP/1.1\r\nA b: c\r\nHost: a\r\n\r\n",
                b"GET /v1/jobs HTTP/1.1\r\nHost: a\r\n folded: yes\r\n\r\n",
                b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                b"GET /v1/jobs%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self._rng.randbytes(200),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                self._rng.randbytes(500),
                b"*1\r\n$8\r\nFLUSHALL\r\n",
            )
        )
        return Attack("no HTTP", wire, half_close=True, is_http=False, route=route)


def _as_file(name: bytes, part: bytes = b"file") -> bytes:
    return b'form-data; name="' + part + b'"; filename="' + name + b'"'


def _form(boundary: bytes, parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    sent = b""
    for disposition, content in parts:
        sent += b"--" + boundary + b"\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + content + b"\r\n"
    return sent + b"--" + boundary + b"--\r\n"
