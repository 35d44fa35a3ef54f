"""A proxy on a Unix socket that takes the place of the one it leads to: slow, deaf, shut, cutting."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Weather:
    """What happens to bytes. May be changed at any time.

    `delay`: seconds before every piece. `is_deaf`: pieces are swallowed, and connections stay open. `is_shut`: new
    connections are closed at once. `cut_after`: a connection is closed once so many bytes of answers went through,
    in the middle of a piece if need be.
    """

    delay: float = 0.0
    is_deaf: bool = False
    is_shut: bool = False
    cut_after: int | None = None


class Proxy:
    """Stands in for the server at `path` while the block lasts. Connections that exist already pass it by."""

    def __init__(self, path: Path) -> None:
        self.weather = Weather()
        self._path, self._behind = path, path.with_name(f"{path.name}.behind")
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> "Proxy":
        # Without a moment in which nobody is there: who connects meets one or the other.
        fresh = self._path.with_name(f"{self._path.name}.fresh")
        self._server.bind(str(fresh))
        fresh.chmod(0o777)
        self._server.listen(128)
        self._behind.hardlink_to(self._path)
        fresh.rename(self._path)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._behind.rename(self._path)
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Close every connection."""
        with self._lock:
            gone, self._open = self._open, set()
        for one in gone:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if self.weather.is_shut:
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                far.connect(str(self._behind))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink, is_answer in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._carry, args=(source, sink, is_answer), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        carried = 0
        # Either end may close at any time, and the pair of threads closes both.
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if self.weather.is_deaf:
                    continue
                if self.weather.delay:
                    time.sleep(self.weather.delay)
                limit = self.weather.cut_after
                if is_answer and limit is not None and carried + len(piece) > limit:
                    sink.sendall(piece[: max(0, limit - carried)])
                    break
                sink.sendall(piece)
                carried += len(piece)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        with self._lock:
            self._open -= {source, sink}


@contextmanager
def standing_before(path: Path) -> Iterator[Proxy]:
    with Proxy(path) as proxy:
        yield proxy
