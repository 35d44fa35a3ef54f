"""Multipart bodies read part by part: the file goes straight into the store, and never lies in memory."""

from collections.abc import Callable, Iterator
from typing import IO

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from api.errors import InvalidRequest
from db.store import Writer

_READ = 256 * 1024
# Room for one read and the headers of a part; the decoder refuses to buffer more.
_BUFFER = 2 * _READ
_FIELD_BYTES = 1_024
_PARTS = 16


class Form:
    """What came with the file: text fields, and the file's own name.

    `part` is how the file must be sent. `ensure_room` is asked before anything is written, with the bytes that the file
    has then, and may raise.
    """

    def __init__(
        self,
        writer: Writer,
        max_bytes: int,
        part: str = "file",
        ensure_room: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._writer, self._max_bytes, self._part, self._ensure_room = writer, max_bytes, part, ensure_room
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._name = ""
        self._is_file = False
        self._value = b""

    def read(self, stream: IO[bytes], boundary: str) -> None:
        """Take in the whole body. InvalidRequest when it is malformed, or not exactly one file under its name."""
        try:
            for event in _events(stream, boundary):
                self._take(event)
        except ValueError as exc:
            raise InvalidRequest(f"the multipart body is malformed: {exc}", code="invalid_multipart") from exc
        if self.filename is None:
            message = f"there is no file; send one as the part `{self._part}`"
            raise InvalidRequest(message, param=self._part, code="missing_field")

    def _take(self, event: Event) -> None:
        match event:
            case File():
                self._begin_file(event)
            case Field():
                self._name, self._is_file, self._value = event.name or "", False, b""
            case Data() if self._is_file:
                if self._writer.bytes + len(event.data) > self._max_bytes:
                    raise RequestEntityTooLarge
                self._ensure_room(self._writer.bytes + len(event.data))
                self._writer.write(event.data)
            case Data():
                self._take_text(event)

    def _begin_file(self, event: File) -> None:
        part = self._part
        if event.name != part:
            message = f"the file was sent as {event.name!r}; send it as the part `{part}`"
            raise InvalidRequest(message, param=part, code="unknown_field")
        if self.filename is not None:
            raise InvalidRequest("there are two files; send one at a time", param=part, code="invalid_value")
        self._name, self._is_file, self.filename = part, True, event.filename

    def _take_text(self, event: Data) -> None:
        self._value += event.data
        if len(self._value) > _FIELD_BYTES:
            name = self._name[:64]
            raise InvalidRequest(f"the field `{name}` is too long", param=name, code="invalid_value")
        if event.more_data:
            return
        if self._name == self._part:
            message = f"`{self._part}` came as text; send it as a file, with a filename"
            raise InvalidRequest(message, param=self._part, code="invalid_value")
        self.fields[self._name] = self._value.decode()


def _events(stream: IO[bytes], boundary: str) -> Iterator[Event]:
    decoder = MultipartDecoder(boundary.encode("ascii"), _BUFFER, max_parts=_PARTS)
    while True:
        data = stream.read(_READ)
        decoder.receive_data(data or None)
        while not isinstance(event := decoder.next_event(), (Epilogue, NeedData)):
            yield event
        if not data:
            return
