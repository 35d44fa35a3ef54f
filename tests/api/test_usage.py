"""What a tenant is told of its usage, and of how good estimates were."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest

from db import keys, usage
from db.keys import Scope
from db.recording import record
from db.session import Sessions
from db.usage import Spent
from tests.conftest import LiveAPI
from tests.ledger import Ledger

NOTHING = {
    "succeeded": 0,
    "failed": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "device_seconds": 0,
    "joules": None,
}


def run(client: httpx.Client, ledger: Ledger, *texts: str, spent: Spent = Spent(0.5)) -> str:  # noqa: B008 - frozen
    """A job of the client's that has run, as its only chunk."""
    job_id = str(client.post("/v1/jobs", json={"task": "translation", "inputs": list(texts)}).json()["id"])
    ledger.ingest(job_id)
    claim = ledger.claim(job_id)
    assert claim
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim), spent=spent)
    ledger.finalize(job_id)
    return job_id


def ask(client: httpx.Client, **query: str) -> dict[str, Any]:
    answer = client.get("/v1/usage", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def wide(**query: str) -> dict[str, str]:
    """From yesterday to tomorrow: the test may run at midnight."""
    today = datetime.now(UTC).date()
    return {"from": str(today - timedelta(days=1)), "to": str(today + timedelta(days=1)), **query}


def test_usage_is_told_by_day_and_in_all(client: httpx.Client, ledger: Ledger) -> None:
    run(client, ledger, "a", "b", spent=Spent(0.25, 12.34))
    run(client, ledger, "c")

    found = ask(client, **wide())

    amounts = {
        "succeeded": 3,
        "failed": 0,
        "input_tokens": 6,
        "output_tokens": 3,
        "total_tokens": 9,
        "device_seconds": 0.75,
        "joules": 12.3,
    }
    [row] = found["data"]
    assert abs(date.fromisoformat(row.pop("day")) - datetime.now(UTC).date()) <= timedelta(days=1)
    assert row == {"model": None, "task": None, **amounts}
    assert found["total"] == amounts
    assert (found["object"], found["group_by"]) == ("usage", ["day"])


def test_groups_are_told_apart_in_a_fixed_order(client: httpx.Client, ledger: Ledger) -> None:
    run(client, ledger, "a")
    with ledger.sessions.begin() as session:
        # As if its worker had been late.
        usage.waste(session, run(client, ledger, "b"), "another", Spent(2.0))

    found = ask(client, **wide(group_by=" task,model "))

    assert found["group_by"] == ["model", "task"]
    assert [(row["day"], row["model"], row["task"], row["device_seconds"]) for row in found["data"]] == [
        (None, "another", "translation", 2.0),
        (None, "echo", "translation", 1.0),
    ]
    assert found["total"]["device_seconds"] == 3.0


def test_without_groups_there_is_the_total(client: httpx.Client, ledger: Ledger) -> None:
    run(client, ledger, "a")

    found = ask(client, **wide(group_by=""))

    [row] = found["data"]
    assert {name: value for name, value in row.items() if name in NOTHING} == found["total"]
    assert found["total"]["succeeded"] == 1


def test_the_last_thirty_days_are_told_if_none_are_named(client: httpx.Client) -> None:
    found = ask(client)

    first, last = (date.fromisoformat(found[name]) for name in ("from", "to"))
    assert (last - first).days == 29
    assert abs(last - datetime.now(UTC).date()) <= timedelta(days=1)
    assert (found["data"], found["total"]) == ([], NOTHING)


def test_one_day_can_be_asked_for(client: httpx.Client) -> None:
    found = ask(client, **{"from": "2026-02-28", "to": "2026-02-28"})

    assert (found["from"], found["to"], found["data"]) == ("2026-02-28", "2026-02-28", [])


@pytest.mark.parametrize(
    ("query", "param", "said"),
    [
        pytest.param({"from": "yesterday"}, "from", "must be a day, as 2026-11-24", id="a word"),
        pytest.param({"to": "0"}, "to", "must be a day, as", id="a number, which Python would take for 1970"),
        pytest.param({"to": "20260101"}, "to", "must be a day, as", id="another form"),
        pytest.param({"to": "2026-01-01T00:00:00"}, "to", "must be a day, as", id="a moment"),
        pytest.param({"to": "\u0662026-01-01"}, "to", "must be a day, as", id="other digits"),
        pytest.param({"from": "2026-02-30"}, "from", "a day that there is, not 2026-02-30", id="no such day"),
        pytest.param({"from": "2026-02-02", "to": "2026-02-01"}, "from", "is after `to`", id="the wrong way round"),
        pytest.param({"from": "2024-01-01", "to": "2026-01-01"}, "from", "732 days are asked for", id="too many"),
        pytest.param({"to": "0001-01-02"}, "to", "too early", id="before there were days"),
        pytest.param({"group_by": "day,tenant"}, "group_by", "not 'tenant'", id="other tenants"),
        pytest.param({"group_by": "day;model"}, "group_by", "day, model, task, with commas", id="no commas"),
        pytest.param({"groupby": "day"}, "groupby", "did you mean `group_by`?", id="mistyped"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_what_can(
    client: httpx.Client, query: dict[str, str], param: str, said: str
) -> None:
    answer = client.get("/v1/usage", params=query)

    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and said in error["message"]


def test_usage_is_the_asking_tenants_alone(client: httpx.Client, stranger: httpx.Client, ledger: Ledger) -> None:
    run(client, ledger, "a", "b")
    run(stranger, ledger, "c")

    assert [ask(each, **wide())["total"]["succeeded"] for each in (client, stranger)] == [2, 1]


def test_a_deleted_job_still_counts(client: httpx.Client, ledger: Ledger) -> None:
    job_id = run(client, ledger, "a")
    before = ask(client, **wide())

    assert client.delete(f"/v1/jobs/{job_id}").status_code == 200

    assert ask(client, **wide()) == before
    assert before["total"]["succeeded"] == 1


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/estimates"])
def test_reading_is_enough(api: LiveAPI, sessions: Sessions, path: str) -> None:
    with sessions.begin() as session:
        reader = keys.create_key(session, "default", "reader", None, [Scope.READ])
        writer = keys.create_key(session, "default", "writer", None, [Scope.SUBMIT])

    statuses = []
    for key in (reader, writer, None):
        with api.client(key) as client:
            statuses.append(client.get(path).status_code)
    assert statuses == [200, 403, 401]


def test_a_job_says_what_it_took(client: httpx.Client, ledger: Ledger) -> None:
    job_id = run(client, ledger, "a", spent=Spent(1.23456, 45.67))

    usage_of_job = client.get(f"/v1/jobs/{job_id}").json()["usage"]

    assert (usage_of_job["device_seconds"], usage_of_job["joules"]) == (1.235, 45.7)


def test_a_running_job_tells_when_it_ends_at_the_earliest_and_the_latest(client: httpx.Client, ledger: Ledger) -> None:
    ledger.run(
        "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable)"
        " VALUES ('w', 'h', 1, 'cpu', '0', '[\"echo\"]', '[\"echo\"]', '{}')"
    )
    ledger.run(
        "INSERT INTO model_rates (model, tokens_per_second, output_per_input, low_factor, high_factor)"
        " VALUES ('echo', 1, 1, 0.75, 2)"
    )
    job_id = client.post("/v1/jobs", json={"task": "translation", "inputs": ["some words"] * 4}).json()["id"]
    waiting = client.get(f"/v1/jobs/{job_id}").json()
    ledger.ingest(job_id)

    job = client.get(f"/v1/jobs/{job_id}").json()

    assert [waiting[name] for name in ("eta_low_seconds", "eta_seconds", "eta_high_seconds")] == [None] * 3
    eta = job["eta_seconds"]
    assert eta > 4
    assert (job["eta_low_seconds"], job["eta_high_seconds"]) == (0.75 * eta, 2 * eta)


def test_before_any_job_has_ended_there_is_no_record(client: httpx.Client) -> None:
    assert client.get("/v1/estimates").json() == {
        "object": "track_record",
        "days": 30,
        "aim": 0.8,
        "all": {"estimates": 0, "inside": None, "median_error": None},
        "data": [],
    }


def test_the_record_is_of_all_tenants_and_names_none(
    client: httpx.Client, stranger: httpx.Client, ledger: Ledger
) -> None:
    for each, high in ((client, 100), (stranger, 60)):
        ledger.run(
            "INSERT INTO estimates (job_id, model, progress, low_seconds, eta_seconds, high_seconds, made_at, ended_at)"
            " VALUES (:job, 'echo', 0, 40, 50, :high, now() - interval '80 s', now())",
            job=run(each, ledger, "a"),
            high=high,
        )

    found = client.get("/v1/estimates").json()

    assert found["all"] == {"estimates": 2, "inside": 0.5, "median_error": 0.375}
    assert found["data"] == [{"model": "echo", **found["all"]}]
    assert stranger.get("/v1/estimates").json() == found
