"""Events over HTTP: the log page by page, and streams that go on while something happens."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.config import APISettings
from api.hub import Hub
from api.services import EXTENSION
from db import jobs, keys
from db.doorbell import RecordingDoorbell
from db.keys import Scope
from db.session import Sessions
from tests.conftest import LiveAPI, served
from tests.following import following
from tests.ledger import Ledger
from tests.waiting import eventually

STREAM = {"accept": "text/event-stream"}


@pytest.fixture
def hub(api: LiveAPI) -> Hub:
    found: Hub = api.app.extensions[EXTENSION].hub
    return found


def finish(ledger: Ledger, job_id: str) -> None:
    while (claim := ledger.claim(job_id)) is not None:
        ledger.record(claim)
    assert ledger.finalize(job_id)


def log_of(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = client.get(path, params={"limit": "3"} | ({"after": found[-1]["id"]} if found else {})).json()
        found += page["data"]
        if not page["has_more"]:
            return found


# --- pages --------------------------------------------------------------------------------------


def test_the_log_is_read_page_by_page(client: httpx.Client, ledger: Ledger) -> None:
    one, other = ledger.started(2), ledger.started(2)
    finish(ledger, one)

    mine = log_of(client, f"/v1/jobs/{one}/events")
    everything = log_of(client, "/v1/events")

    assert [entry["type"] for entry in mine] == ["created", "started", "finalizing", "completed"]
    assert {entry["object"] for entry in mine} == {"job.event"}
    assert mine[-1]["detail"] == {"succeeded": 2, "failed": 0, "cancelled": 0, "expired": 0}
    assert [entry for entry in everything if entry["job_id"] == one] == mine
    assert {entry["job_id"] for entry in everything} == {one, other}
    assert [int(entry["id"]) for entry in everything] == sorted(int(entry["id"]) for entry in everything)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/event-stream;q=0.5, application/json", "text/*"])
def test_only_who_asks_for_a_stream_by_name_gets_one(client: httpx.Client, ledger: Ledger, accept: str) -> None:
    ledger.started(1)

    answer = client.get("/v1/events", headers={"accept": accept})

    assert answer.headers["content-type"] == "application/json"
    assert len(answer.json()["data"]) == 2


@pytest.mark.parametrize("headers", [{}, STREAM], ids=["page", "stream"])
def test_what_cannot_be_followed_is_told(
    client: httpx.Client, stranger: httpx.Client, ledger: Ledger, hub: Hub, headers: dict[str, str]
) -> None:
    job_id = ledger.started(1)
    unknown = "job_0mgcxk2l9h4t8v2c6y0q1w5r3"

    for path, status, code in (
        (f"/v1/jobs/{unknown}/events", 404, "job_not_found"),
        (f"/v1/jobs/{job_id}/events?after=x", 400, "unknown_cursor"),
        (f"/v1/jobs/{job_id}/events?limit=1000", 400, "invalid_value"),
        ("/v1/events?after=-1", 400, "unknown_cursor"),
        ("/v1/events?since=1", 400, "unknown_parameter"),
    ):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status, (path, answer.text)
        assert answer.headers["content-type"] == "application/json"
        if code in ("job_not_found", "unknown_cursor"):
            assert answer.json()["error"]["code"] == code
    foreign = stranger.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "job_not_found")
    assert httpx.get(f"{client.base_url}/v1/events", headers=headers).status_code == 401
    assert hub.count == 0


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_tells_the_state_at_once_and_every_change_and_ends_with_the_job(
    client: httpx.Client, ledger: Ledger, hub: Hub
) -> None:
    job_id = ledger.started(6)
    ledger.recut(job_id, 2)
    with following(client, f"/v1/jobs/{job_id}/events") as seen:
        eventually(lambda: seen.jobs and len(seen.log) == 2)
        assert seen.response is not None
        assert seen.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert seen.response.headers["cache-control"] == "no-store"
        assert seen.response.headers["x-accel-buffering"] == "no"
        assert seen.jobs[0] == client.get(f"/v1/jobs/{job_id}").json()
        # The log of it all, also of what was before.
        assert seen.types == ["created", "started"]
        for done in (2, 4):
            claim = ledger.claim(job_id)
            assert claim is not None
            ledger.record(claim)
            eventually(lambda done=done: seen.jobs[-1]["counts"]["succeeded"] == done, 20)  # type: ignore[misc]
        finish(ledger, job_id)
        eventually(lambda: seen.is_closed, 20)

    assert seen.retry == 2000
    assert seen.jobs[-1] == client.get(f"/v1/jobs/{job_id}").json()
    assert seen.types == ["created", "started", "finalizing", "completed"]
    assert seen.end == {"id": job_id, "status": "completed"}
    assert all(before != after for before, after in zip(seen.jobs, seen.jobs[1:], strict=False)), "told twice"
    eventually(lambda: hub.count == 0)


def test_the_stream_of_a_job_that_has_ended_tells_how_and_ends(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(1)
    with ledger.sessions.begin() as session:
        jobs.cancel(session, ledger.tenant, job_id)
    ledger.finalize(job_id)

    for after, entries in (({}, 4), ({"after": log_of(client, "/v1/events")[2]["id"]}, 1)):
        with following(client, str(httpx.URL(f"/v1/jobs/{job_id}/events", params=after))) as seen:
            eventually(lambda seen=seen: seen.is_closed, 20)  # type: ignore[misc]
        assert seen.statuses == ["cancelled"]
        assert len(seen.log) == entries
        assert seen.end == {"id": job_id, "status": "cancelled"}


def test_a_stream_goes_on_where_the_one_before_was_cut(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(1)
    path = f"/v1/jobs/{job_id}/events"
    with following(client, path) as first:
        eventually(lambda: len(first.log) == 2)
    for is_paused in (True, False):
        with ledger.sessions.begin() as session:
            jobs.set_paused(session, ledger.tenant, job_id, is_paused)

    # A browser sends the header beside the `after` with which it was told to begin.
    with following(client, f"{path}?after=0", **{"last-event-id": first.ids[-1]}) as second:
        eventually(lambda: len(second.log) == 2)
        finish(ledger, job_id)
        eventually(lambda: second.is_closed, 20)

    assert second.types == ["paused", "resumed", "finalizing", "completed"]
    assert [entry["id"] for entry in log_of(client, path)] == first.ids + second.ids


def test_a_stream_of_all_jobs_begins_with_the_open_ones_and_goes_on_with_what_comes(
    client: httpx.Client, stranger: httpx.Client, ledger: Ledger
) -> None:
    over, first = ledger.started(1), ledger.started(2)
    finish(ledger, over)
    foreign = stranger.post("/v1/jobs", json={"task": "translation", "inputs": ["theirs"]}).json()["id"]
    with following(client, "/v1/events") as seen, following(stranger, "/v1/events") as theirs:
        eventually(lambda: seen.jobs and theirs.jobs)
        assert [job["id"] for job in seen.jobs] == [first]
        assert seen.log == [], "only what comes"

        second = client.post("/v1/jobs", json={"task": "translation", "inputs": ["mine"]}).json()["id"]
        ledger.ingest(second)
        finish(ledger, second)
        finish(ledger, first)
        eventually(lambda: {"completed"} == {job["status"] for job in _last(seen.jobs).values()}, 20)
        ledger.run("UPDATE jobs SET priority = 5 WHERE id = :job", job=foreign)
        eventually(lambda: theirs.jobs[-1]["priority"] == 5, 20)

    assert _last(seen.jobs).keys() == {first, second}
    assert [entry["type"] for entry in seen.log if entry["job_id"] == second] == [
        *("created", "started", "finalizing", "completed")
    ]
    assert seen.end is None
    assert {job["id"] for job in theirs.jobs} == {foreign}
    assert theirs.log == []


def _last(shown: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {job["id"]: job for job in shown}


def test_a_client_that_was_away_hears_of_all_that_ended_meanwhile(client: httpx.Client, ledger: Ledger) -> None:
    with following(client, "/v1/events") as seen:
        job_id = ledger.started(1)
        eventually(lambda: len(seen.log) == 2)
    finish(ledger, job_id)

    with following(client, f"/v1/events?after={seen.ids[-1]}") as again:
        eventually(lambda: len(again.log) == 2 and again.jobs)

    assert again.types == ["finalizing", "completed"]
    assert again.statuses == ["completed"]


def test_an_id_from_before_a_restore_is_where_the_log_ends(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(1)
    with following(client, "/v1/events?after=9000000000000000000") as seen:
        eventually(lambda: seen.jobs)
        with ledger.sessions.begin() as session:
            jobs.set_paused(session, ledger.tenant, job_id, is_paused=True)
        eventually(lambda: seen.log)

    assert seen.types == ["paused"]


def test_single_requests_are_on_no_stream(client: httpx.Client, ledger: Ledger) -> None:
    visible = ledger.started(1)
    ledger.run("UPDATE jobs SET interactive = true WHERE id = :job", job=ledger.started(1))
    with following(client, "/v1/events") as seen:
        eventually(lambda: seen.jobs)
        finish(ledger, visible)
        eventually(lambda: seen.statuses[-1] == "completed", 20)

    assert {job["id"] for job in seen.jobs} == {visible}


def test_the_stream_of_a_job_that_is_deleted_ends(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(1)
    with following(client, f"/v1/jobs/{job_id}/events") as seen:
        eventually(lambda: seen.jobs)
        ledger.run("DELETE FROM jobs WHERE id = :job", job=job_id)
        eventually(lambda: seen.is_closed, 20)

    assert seen.end == {"id": job_id, "status": None}


def test_a_head_request_takes_no_place(client: httpx.Client, ledger: Ledger, hub: Hub) -> None:
    path = f"/v1/jobs/{ledger.started(1)}/events"

    for headers in ({}, STREAM):
        answer = client.head(path, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].partition(";")[0] == (headers.get("accept") or "application/json")
    assert hub.count == 0


def test_the_examples_of_the_page_work(api: LiveAPI, key: str, ledger: Ledger) -> None:
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    [curl] = re.findall(r"\$ (curl -N .*?/events\")\n", page, re.DOTALL)
    job_id = ledger.started(2)
    environment = os.environ | {"BUSHEL_URL": api.url, "BUSHEL_API_KEY": key, "JOB": job_id}
    commands = [[sys.executable, "-c", example, job_id], ["bash", "-c", curl.replace("http://127.0.0.1:8000", api.url)]]
    following = [subprocess.Popen(each, env=environment, stdout=subprocess.PIPE, text=True) for each in commands]
    eventually(lambda: api.app.extensions[EXTENSION].hub.count == 2, 30)
    finish(ledger, job_id)
    said, streamed = (each.communicate(timeout=60)[0] for each in following)

    assert [each.returncode for each in following] == [0, 0]
    assert "completed: 100%" in said
    assert "  started {'items': 2, 'problems': 0}" in said
    assert streamed.startswith("retry: 2000\n\n")
    assert streamed.endswith(f'event: end\ndata: {{"id":"{job_id}","status":"completed"}}\n\n')


# --- who may ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["revoked", "replaced", "expired"])
def test_a_stream_ends_with_its_key(
    api: LiveAPI, client: httpx.Client, sessions: Sessions, ledger: Ledger, how: str
) -> None:
    with sessions.begin() as session:
        mine = keys.issue_key(session, "default", "mine", scopes={Scope.READ})
    ledger.started(1)
    with api.client(mine) as own, following(own, "/v1/events") as seen, following(client, "/v1/events") as other:
        eventually(lambda: seen.jobs and other.jobs)
        with sessions.begin() as session:
            if how == "revoked":
                keys.revoke_key(session, mine)
            elif how == "replaced":
                keys.rotate_key(session, mine, timedelta(0))
            else:
                keys.get(session, None, mine).expires_at = keys.get(session, None, mine).created_at
        eventually(lambda: seen.is_closed, 20)

        assert own.get("/v1/events", headers=STREAM).status_code == 401
        ledger.started(1)
        eventually(lambda: len(other.log) == 2)

    # Not the end of what there is to hear: whoever has another key goes on with that.
    assert seen.end is None
    assert seen.log == []


def test_a_key_without_the_scope_follows_nothing(api: LiveAPI, sessions: Sessions, ledger: Ledger, hub: Hub) -> None:
    job_id = ledger.started(1)
    with sessions.begin() as session:
        submitter = keys.issue_key(session, "default", "submitter", scopes={Scope.SUBMIT})
    with api.client(submitter) as client:
        for path in ("/v1/events", f"/v1/jobs/{job_id}/events"):
            for headers in ({}, STREAM):
                assert client.get(path, headers=headers).status_code == 403
    assert hub.count == 0


# --- how many -----------------------------------------------------------------------------------


@pytest.fixture
def cramped(settings: APISettings) -> Iterator[LiveAPI]:
    with served(settings.model_copy(update={"max_streams": 4}), RecordingDoorbell()) as api:
        yield api


def test_more_streams_than_there_may_be_are_refused_and_told_when_to_come_back(
    cramped: LiveAPI, key: str, ledger: Ledger
) -> None:
    job_id = ledger.started(1)
    path = f"/v1/jobs/{job_id}/events"
    with cramped.client(key) as client:
        with ExitStack() as stack:
            open_ones = [stack.enter_context(following(client, path)) for _ in range(4)]
            eventually(lambda: all(seen.jobs for seen in open_ones))

            refused = client.get(path, headers=STREAM)

            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "too_many_streams"
            assert "4 event streams are open, 4 of them yours" in refused.json()["error"]["message"]
            assert int(refused.headers["retry-after"]) >= 30
            # Everything else goes on.
            assert client.get(path).status_code == 200
            finish(ledger, job_id)
            eventually(lambda: all(seen.end for seen in open_ones), 20)
        # Places come back, whichever way streams end.
        for _ in range(3):
            with ExitStack() as stack:
                again = [stack.enter_context(following(client, "/v1/events")) for _ in range(4)]
                assert [seen.response.status_code for seen in again if seen.response] == [200] * 4
            # A thread of this server finds out that its client is gone when it writes to it.
            ledger.started(1)
            eventually(lambda: cramped.app.extensions[EXTENSION].hub.count == 0, 40)


def test_places_are_shared_evenly_between_tenants(
    cramped: LiveAPI, key: str, sessions: Sessions, ledger: Ledger
) -> None:
    with sessions.begin() as session:
        other = keys.issue_key(session, "stranger", "tests")
    ledger.started(1)
    with cramped.client(key) as client, cramped.client(other) as stranger, ExitStack() as stack:
        mine = [stack.enter_context(following(client, "/v1/events")) for _ in range(4)]
        eventually(lambda: all(seen.jobs for seen in mine))
        theirs = []
        for _ in range(2):
            theirs.append(stack.enter_context(following(stranger, "/v1/events")))
            # The last that came is the first to go.
            eventually(lambda: sum(seen.is_closed for seen in mine) == len(theirs), 20)

        assert [seen.is_closed for seen in mine] == [False, False, True, True]
        for each in (client, stranger):
            refused = each.get("/v1/events", headers=STREAM)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams")
        assert not any(seen.is_closed for seen in theirs)
        ledger.started(1)
        eventually(lambda: len(mine[0].log) == 2)
        assert [seen.log for seen in theirs] == [[], []]


# --- when things break --------------------------------------------------------------------------


def test_a_stream_outlives_its_connections_to_the_database(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(2)
    with following(client, f"/v1/jobs/{job_id}/events") as seen:
        eventually(lambda: seen.jobs)
        for turn in range(3):
            ledger.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name IN ('bushel streams', 'bushel listener') AND datname = current_database()"
            )
            with ledger.sessions.begin() as session:
                jobs.set_paused(session, ledger.tenant, job_id, is_paused=turn % 2 == 0)
        with ledger.sessions.begin() as session:
            jobs.set_paused(session, ledger.tenant, job_id, is_paused=False)
        finish(ledger, job_id)
        eventually(lambda: seen.is_closed, 30)

    assert seen.types == ["created", "started", "paused", "resumed", "paused", "resumed", "finalizing", "completed"]
    assert seen.end is not None


def test_streams_end_with_the_process(settings: APISettings, key: str, ledger: Ledger) -> None:
    ledger.started(1)
    with (
        served(settings, RecordingDoorbell()) as api,
        api.client(key) as client,
        following(client, "/v1/events") as seen,
    ):
        eventually(lambda: seen.jobs)
        api.app.close()
        eventually(lambda: seen.is_closed, 20)

    assert seen.end is None
