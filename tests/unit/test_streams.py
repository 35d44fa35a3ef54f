"""What a stream tells its client, what it keeps to itself, and how little a client that takes nothing costs."""

import time
from datetime import UTC, datetime

import msgspec
import pytest

from api import sse
from api.streams import FULL_BYTES, FULL_JOBS, PING_SECONDS, Stream
from db.models import JobEvent
from db.passes import Pass

ANYBODY = Pass("key", "hash")


class Client:
    """A connection whose client takes so many bytes at a time."""

    is_given_up = False

    def __init__(self, at_once: int) -> None:
        self.at_once, self.taken = at_once, b""

    def offer(self, data: bytes) -> int:
        self.taken += data[: self.at_once]
        return min(self.at_once, len(data))

    def fileno(self) -> int:
        return -1

    def receive_now(self, size: int) -> bytes | None:
        return None

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None: ...


def stream(job_id: str | None = None, position: int = 0) -> Stream:
    return Stream("ten", job_id, ANYBODY, position)


def entry(id: int, job_id: str = "job_a") -> JobEvent:
    return JobEvent(id=id, job_id=job_id, created_at=datetime.now(UTC), type="paused", detail={})


def told(one: Stream) -> bytes:
    found = bytes(one.unsent)
    one.unsent.clear()
    return found


def test_a_state_is_told_when_it_is_another_than_before() -> None:
    one = stream()
    one.show("job_a", b'{"n":1}', is_final=False)
    one.show("job_a", b'{"n":1}', is_final=False)
    one.show("job_b", b'{"n":1}', is_final=False)
    one.show("job_a", b'{"n":2}', is_final=False)

    assert told(one).count(b"event: job\n") == 3


def test_what_a_job_is_like_at_its_end_is_not_remembered_for_ever() -> None:
    one = stream()
    for number in range(5_000):
        one.show(f"job_{number}", b"{}", is_final=number % 2 == 0)
        one.unsent.clear()

    assert len(one._shown) <= 1_000
    one.show("job_4999", b"{}", is_final=False)
    assert told(one) == b""


def test_an_entry_is_told_once_and_only_to_whom_it_is_for() -> None:
    all_jobs, of_a, of_b, later = stream(), stream("job_a"), stream("job_b"), stream("job_a", position=7)
    for one in (all_jobs, of_a, of_b, later):
        for id in (5, 7, 7, 9):
            one.log(entry(id), b"{}")

    assert told(all_jobs).count(b"event: log\n") == told(of_a).count(b"event: log\n") == 3
    assert told(of_b) == b""
    assert told(later) == sse.frame("log", b"{}", 9)
    # The state that came of it follows, where it is not watched anyway.
    assert list(all_jobs.owed) == ["job_a"]
    assert not of_a.owed


def test_a_stream_of_one_job_is_owed_no_other() -> None:
    one = stream("job_a")
    one.owe(["job_b", "job_a", "job_c"])

    assert list(one.owed) == ["job_a"]


def test_who_takes_nothing_is_told_nothing_more_and_hears_it_later() -> None:
    one = stream()
    while not one.is_full:
        one.tell(sse.frame("job", b"x" * 1_000))
    assert FULL_BYTES <= len(one.unsent) < FULL_BYTES + 2_000
    assert not one.may_hear

    one.unsent.clear()

    assert one.may_hear
    one.owe(f"job_{number}" for number in range(FULL_JOBS))
    assert not one.may_hear and not one.is_full


def test_bytes_go_out_as_they_are_taken_and_in_chunks_where_http_asks_for_them() -> None:
    one, client = stream("job_a"), Client(at_once=7)
    one.connection, one.is_chunked = client, True
    one.show("job_a", b'{"n":1}', is_final=True)
    one.end(b"{}")

    while one.send():
        assert one.unsent

    job, end = sse.frame("job", b'{"n":1}'), sse.frame("end", b"{}")
    assert client.taken == sse.chunk(job) + sse.chunk(end) + b"0\r\n\r\n"
    assert one.is_over and one.is_full


def test_a_client_is_stuck_from_when_it_first_takes_nothing() -> None:
    one, client = stream("job_a"), Client(at_once=0)
    one.connection = client
    one.tell(b"abc")
    assert one.stuck_since is None, "nobody has offered it yet"
    begun = time.monotonic()
    assert one.send()
    first = one.stuck_since
    assert first is not None and first >= begun
    assert one.send() and one.stuck_since == first

    client.at_once = 2

    assert one.send() and one.stuck_since is None
    assert not one.send() and one.stuck_since is None
    assert client.taken == b"abc"


def test_a_ping_is_sent_to_who_has_heard_nothing_and_taken_everything() -> None:
    one = stream()
    one.ping(time.monotonic() + PING_SECONDS - 1)
    assert told(one) == b""
    one.ping(time.monotonic() + PING_SECONDS + 1)
    assert told(one) == sse.PING
    one.tell(sse.frame("job", b"{}"))
    one.ping(time.monotonic() + PING_SECONDS + 1)

    assert told(one) == sse.frame("job", b"{}")


def test_pieces_end_when_the_stream_does() -> None:
    one = stream()
    one.show("job_a", b"{}", is_final=False)
    pieces = one.pieces()
    assert next(pieces) == sse.frame("job", b"{}")
    one.end(b"{}")

    assert list(pieces) == [sse.frame("end", b"{}")]


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"a\nid: 99", b"a\rid: 99", b"a\r\nevent: end\r\n\r\n", "a\u2028b\x85c".encode()]
)
def test_data_never_becomes_a_field(data: bytes) -> None:
    lines = sse.frame("log", data, 7)[:-2].split(b"\n")

    assert [line for line in lines if not line.startswith(b"data: ")] == [b"event: log", b"id: 7"]
    assert b"\r" not in b"".join(lines)
    assert sse.frame("log", data).endswith(b"\n\n")
    assert sse.frame("log", data).count(b"\n\n") == 1


def test_the_frames_of_a_job_are_one_line_of_json() -> None:
    hostile = {"name": "</script>\r\n\r\nevent: end\n", "text": "\u2028"}

    [_, data, *rest] = sse.frame("job", msgspec.json.encode(hostile)).split(b"\n")

    assert rest == [b"", b""]
    assert msgspec.json.decode(data.removeprefix(b"data: ")) == hostile
