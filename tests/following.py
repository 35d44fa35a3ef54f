"""Reading event streams in tests."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec


@dataclass
class Followed:
    """What came over one stream so far."""

    jobs: list[dict[str, Any]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    end: dict[str, Any] | None = None
    retry: int | None = None
    response: httpx.Response | None = None
    is_closed: bool = False

    @property
    def types(self) -> list[str]:
        return [entry["type"] for entry in self.log]

    @property
    def statuses(self) -> list[str]:
        """As they were told, each as often as it was."""
        return [job["status"] for job in self.jobs]

    def take(self, lines: Iterable[str]) -> None:
        said: dict[str, str] = {}
        for line in lines:
            if line:
                name, _, value = line.partition(":")
                said[name] = value.removeprefix(" ")
                continue
            self._note(said)
            said = {}

    def _note(self, said: Mapping[str, str]) -> None:
        if "" in said:
            self.comments.append(said[""])
        if "retry" in said:
            self.retry = int(said["retry"])
        if "event" not in said:
            return
        data = msgspec.json.decode(said["data"])
        match said["event"]:
            case "job":
                assert "id" not in said, "a state has no place in the log"
                self.jobs.append(data)
            case "log":
                assert said["id"] == data["id"]
                self.log.append(data)
                self.ids.append(data["id"])
            case "end":
                self.end = data
            case other:
                raise AssertionError(f"an event named {other}")


@contextmanager
def following(client: httpx.Client, path: str, **headers: str) -> Iterator[Followed]:
    """The stream, read in a thread; closed with the block."""
    followed, is_open = Followed(), threading.Event()
    # Of its own, so that closing it ends the read.
    mine = httpx.Client(
        base_url=client.base_url, headers=dict(client.headers), timeout=60, trust_env=False, verify=False
    )

    def read() -> None:
        wanted = {"accept": "text/event-stream", **headers}
        try:
            with mine.stream("GET", path, headers=wanted) as response:
                followed.response = response
                is_open.set()
                if response.status_code == 200:
                    followed.take(response.iter_lines())
                else:
                    response.read()
        except (httpx.TransportError, httpx.StreamError, OSError, RuntimeError):
            # Cut, by the server or by us.
            pass
        finally:
            followed.is_closed = True
            is_open.set()

    thread = threading.Thread(target=read, name=f"reader of {path}", daemon=True)
    thread.start()
    assert is_open.wait(60)
    try:
        yield followed
    finally:
        _shut(followed.response)
        thread.join(60)
        mine.close()
        assert not thread.is_alive()


def _shut(response: httpx.Response | None) -> None:
    """From another thread than the reader's only the socket itself can be ended."""
    stream = None if response is None else response.extensions.get("network_stream")
    connection = None if stream is None else stream.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        try:
            connection.shutdown(2)
        except OSError:
            # It was at its end already.
            return
