"""Server-sent events as bytes, as the HTML standard has them. Pure."""

import re

MIMETYPE = "text/event-stream"
# How long a browser waits before it connects again.
RETRY = b"retry: 2000\n\n"
PING = b": ping\n\n"

_LINE_END = re.compile(rb"\r\n|\r|\n")


def frame(event: str, data: bytes, id: int | None = None) -> bytes:
    r"""One event. With an id a client that connects again says how far it came.

    >>> frame("log", b'{"type":"created"}', 7)
    b'event: log\nid: 7\ndata: {"type":"created"}\n\n'
    >>> frame("job", b"one\r\ntwo")
    b'event: job\ndata: one\ndata: two\n\n'
    """
    lines = [b"event: " + event.encode()]
    if id is not None:
        lines.append(b"id: %d" % id)
    # JSON of ours has no line ends; were there one, what follows must not pass for a field.
    lines += [b"data: " + line for line in _LINE_END.split(data)]
    return b"\n".join(lines) + b"\n\n"


def chunk(data: bytes) -> bytes:
    r"""As HTTP/1.1 frames a piece of a body whose length nobody knows; of b"" it is the end.

    >>> chunk(b"ping\n"), chunk(b"")
    (b'5\r\nping\n\r\n', b'0\r\n\r\n')
    """
    return b"%x\r\n%b\r\n" % (len(data), data)
