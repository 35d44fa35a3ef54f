"""`bushel watch`: told by the server where that can be had, asking where it cannot, and in between."""

import json
import threading
from pathlib import Path

import httpx
import pytest

from api.config import APISettings
from api.services import EXTENSION
from cli import wire
from cli.client import Client
from cli.results import tail
from cli.watch import wait
from db.doorbell import RecordingDoorbell
from tests.conftest import LiveAPI, served
from tests.following import following
from tests.ledger import Ledger
from tests.waiting import eventually

STREAM = {"content-type": "text/event-stream"}


class Watched:
    """A job that is waited for in a thread, with the states that were seen."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.seen: list[wire.Job] = []
        self.last: wire.Job | None = None
        self._thread = threading.Thread(target=self._wait, args=(client, job_id))
        self._thread.start()

    def _wait(self, client: Client, job_id: str) -> None:
        self.last = wait(client, client.job(job_id), self.seen.append)

    @property
    def done(self) -> int:
        return self.seen[-1].counts.succeeded if self.seen else -1

    def join(self) -> wire.Job:
        self._thread.join(60)
        assert self.last is not None
        return self.last


def step(ledger: Ledger, job_id: str) -> None:
    claim = ledger.claim(job_id)
    assert claim is not None
    ledger.record(claim)


def counted(transport: httpx.BaseTransport) -> tuple[httpx.BaseTransport, list[str]]:
    """The transport, and the paths that were asked for through it."""
    paths: list[str] = []

    class Counting(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            paths.append(request.url.path)
            return transport.handle_request(request)

        def close(self) -> None:
            transport.close()

    return Counting(), paths


def test_states_are_told_until_the_job_has_ended(api: LiveAPI, key: str, ledger: Ledger) -> None:
    transport, asked = counted(httpx.HTTPTransport())
    job_id = ledger.started(6)
    ledger.recut(job_id, 2)
    with Client(api.url, key, transport) as client:
        watched = Watched(client, job_id)
        for done in (2, 4):
            step(ledger, job_id)
            eventually(lambda done=done: watched.done == done, 20)  # type: ignore[misc]
        step(ledger, job_id)
        ledger.finalize(job_id)
        last = watched.join()

    assert (last.status, last.counts.succeeded) == ("completed", 6)
    assert watched.seen[-1] == last
    # Once to begin with, and never again.
    assert asked == [f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/events"]


def test_where_streams_are_refused_it_asks(settings: APISettings, key: str, ledger: Ledger) -> None:
    transport, asked = counted(httpx.HTTPTransport())
    job_id = ledger.started(2)
    with (
        served(settings.model_copy(update={"max_streams": 1}), RecordingDoorbell()) as api,
        api.client(key) as other,
        following(other, "/v1/events") as taken,
        Client(api.url, key, transport) as client,
    ):
        eventually(lambda: taken.jobs)
        watched = Watched(client, job_id)
        step(ledger, job_id)
        eventually(lambda: watched.done == 2, 20)
        ledger.finalize(job_id)
        last = watched.join()

    assert last.status == "completed"
    assert asked.count(f"/v1/jobs/{job_id}/events") == 1
    assert asked.count(f"/v1/jobs/{job_id}") > 2


def test_results_are_followed_as_they_are_told_and_come_once(
    api: LiveAPI, key: str, ledger: Ledger, tmp_path: Path
) -> None:
    transport, asked = counted(httpx.HTTPTransport())
    job_id = ledger.started(6)
    ledger.recut(job_id, 2)
    out = tmp_path / "out.jsonl"
    with Client(api.url, key, transport) as client:
        follower = threading.Thread(target=tail, args=(client, client.job(job_id), out, False))
        follower.start()
        for done in (2, 4, 6):
            step(ledger, job_id)
            eventually(lambda done=done: out.exists() and out.read_text().count("\n") == done, 60)  # type: ignore[misc]
        ledger.finalize(job_id)
        follower.join(60)

    assert sorted(json.loads(line)["index"] for line in out.read_text().splitlines()) == list(range(6))
    # Its results are asked for when the server says that there are some; the job itself never again.
    assert asked[:2] == [f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/results"]
    assert (asked.count(f"/v1/jobs/{job_id}"), asked.count(f"/v1/jobs/{job_id}/events")) == (1, 1)


class Strange(httpx.BaseTransport):
    """A server that answers who wants a stream with this, and whose job ends when it is asked for the third time."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer, self._asked = answer, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return self._answer
        self._asked += 1
        status = "completed" if self._asked == 3 else "in_progress"
        return httpx.Response(200, json={"id": "job_a", "object": "job", "status": status, "counts": {"total": 1}})


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(404, json={"error": {"message": "no such route"}}), id="an older server"),
        pytest.param(httpx.Response(200, html="<html>hello</html>"), id="a proxy with a page of its own"),
        pytest.param(httpx.Response(200, text="event: job\ndata: {broken\n\n", headers=STREAM), id="broken JSON"),
        pytest.param(httpx.Response(200, text="event: job\ndata: [1]\n\n", headers=STREAM), id="no job"),
        pytest.param(httpx.Response(200, text="event: job\ndata: {", headers=STREAM), id="half a line"),
    ],
)
def test_where_there_are_no_streams_it_asks(answer: httpx.Response) -> None:
    with Client("http://127.0.0.1:1", "key", Strange(answer)) as client:
        assert wait(client, client.job("job_a"), lambda job: None).status == "completed"


def test_a_stream_that_breaks_off_is_taken_up_again(api: LiveAPI, key: str, ledger: Ledger) -> None:
    transport, asked = counted(httpx.HTTPTransport())
    job_id = ledger.started(4)
    ledger.recut(job_id, 2)
    with Client(api.url, key, transport) as client:
        watched = Watched(client, job_id)
        eventually(lambda: len(asked) == 2 and len(watched.seen) > 1, 20)
        hub = api.app.extensions[EXTENSION].hub
        for stream in list(hub._places):
            hub.leave(stream)
        step(ledger, job_id)
        eventually(lambda: watched.done == 2, 20)
        step(ledger, job_id)
        ledger.finalize(job_id)
        last = watched.join()

    assert last.counts.succeeded == 4
    assert asked == [f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/events"] * 2
