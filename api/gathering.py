"""What has come of a request so far, and whether a thread should be spent on it. Pure: bytes in, verdict out."""

import re

# A header of ours is short; what is longer is an attack or a mistake, and answered with 431.
HEADER_BYTES = 64 * 1024
# Bodies up to this size are whole before a thread sees them. Larger ones are read by their thread, as transfers.
BODY_BYTES = 2**20

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*(?=\r\n)", re.IGNORECASE)
# Of these only a thread can tell where the body ends, or it is to be asked for first.
_UNTOLD = re.compile(rb"\r\n(transfer-encoding|expect):", re.IGNORECASE)


class Gathering:
    """The bytes of one request, as they come.

    The lengths read here only decide when a thread takes over: it is gunicorn's parser that says what the request is,
    and a header that the two read differently costs at most a thread's wait.

    >>> request = Gathering(b"POST /a HTTP/1.1\\r\\ncontent-length: 2\\r\\n\\r\\n{")
    >>> request.has_header, request.is_whole, request.is_for_thread
    (True, False, False)
    >>> request.feed(b"}"); request.is_whole
    True
    """

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray()
        self._header_bytes: int | None = None
        # None: not to be told from the header.
        self._body_bytes: int | None = 0
        self.feed(data)

    def feed(self, data: bytes) -> None:
        searched = max(0, len(self.data) - len(_END) + 1)
        self.data += data
        if self._header_bytes is not None:
            return
        if not searched:
            # Empty lines before a request are nothing (RFC 9112, 2.2), and must not pass for the end of a header.
            del self.data[: len(self.data) - len(self.data.lstrip(b"\r\n"))]
        end = self.data.find(_END, searched)
        if end >= 0:
            self._header_bytes = end + len(_END)
            self._body_bytes = _body_bytes(bytes(self.data[: end + 2]))

    @property
    def has_header(self) -> bool:
        return self._header_bytes is not None

    @property
    def is_header_too_large(self) -> bool:
        return len(self.data) > HEADER_BYTES if self._header_bytes is None else self._header_bytes > HEADER_BYTES

    @property
    def is_whole(self) -> bool:
        """Header and body are here."""
        if self._header_bytes is None or self._body_bytes is None:
            return False
        return len(self.data) >= self._header_bytes + self._body_bytes

    @property
    def is_for_thread(self) -> bool:
        """Nothing is gained by waiting for more: it is whole, or so large that a thread must read it."""
        return self.has_header and (self.is_whole or self._body_bytes is None or self._body_bytes > BODY_BYTES)


def _body_bytes(header: bytes) -> int | None:
    if _UNTOLD.search(header):
        return None
    lengths = _LENGTH.findall(header)
    return int(lengths[0]) if lengths else 0
