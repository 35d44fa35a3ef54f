"""`bushel usage` and what `bushel status` says of estimates, against the real API."""

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.main import run
from db import jobs, keys, usage
from db.usage import Spent
from tests.conftest import LiveAPI
from tests.ledger import Ledger

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def used(api: LiveAPI, key: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two models of one tenant, one of another; the commands find the server and the database."""
    monkeypatch.setenv("BUSHEL_URL", api.url)
    monkeypatch.setenv("BUSHEL_API_KEY", key)
    monkeypatch.setenv("BUSHEL_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("BUSHEL_DATABASE_URL", str(api.app.extensions["bushel"].settings.database_url))
    with ledger.sessions.begin() as session:
        other = keys.tenant(session, "other")
    for tenant, model, seconds in ((ledger.tenant, "a", 1.5), (ledger.tenant, "b", 1000.0), (other, "a", 8.0)):
        ledger.run(
            "INSERT INTO usage_days (tenant_id, day, model, task, succeeded, failed, input_tokens, device_seconds)"
            " VALUES (:tenant, now() AT TIME ZONE 'UTC', :model, 'translation', 1200, 1, 5000, :seconds)",
            tenant=tenant,
            model=model,
            seconds=seconds,
        )


def wide() -> list[str]:
    today = datetime.now(UTC).date()
    return ["--from", str(today - timedelta(days=1)), "--to", str(today + timedelta(days=1))]


def said(capfd: Captured, *arguments: str) -> str:
    assert run(["usage", *wide(), *arguments]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def test_usage_is_a_table_with_its_total(capfd: Captured) -> None:
    lines = said(capfd, "--by", "model,task").splitlines()

    assert [line.split() for line in lines] == [
        ["model", "task", "succeeded", "failed", "tokens", "in", "tokens", "out", "device", "time"],
        ["a", "translation", "1,200", "1", "5,000", "0", "1.5", "s"],
        ["b", "translation", "1,200", "1", "5,000", "0", "1,000.0", "s"],
        ["total", "2,400", "2", "10,000", "0", "1,001.5", "s"],
    ]


def test_energy_is_a_column_only_if_some_was_measured(capfd: Captured, ledger: Ledger) -> None:
    assert "energy" not in said(capfd)
    ledger.run("UPDATE usage_days SET joules = 7.6 WHERE model = 'a'")

    table = said(capfd, "--by", "model")

    assert "energy" in table and table.splitlines()[1].endswith("8 J") and table.splitlines()[-1].endswith("8 J")


def test_json_is_what_the_server_says(capfd: Captured) -> None:
    found = json.loads(said(capfd, "--by", "model", "--json"))

    assert [(row["model"], row["device_seconds"]) for row in found["data"]] == [("a", 1.5), ("b", 1000.0)]
    assert found["total"]["succeeded"] == 2400


def test_csv_has_a_row_for_every_group_and_no_total(capfd: Captured) -> None:
    rows = list(csv.reader(said(capfd, "--by", "task,model", "--csv").splitlines()))

    assert rows[0][:4] == ["model", "task", "succeeded", "failed"] and rows[0][-1] == "joules"
    assert [row[:3] for row in rows[1:]] == [["a", "translation", "1200"], ["b", "translation", "1200"]]
    assert {row[-1] for row in rows[1:]} == {""}


def test_all_tenants_are_read_from_the_database_in_the_same_form(capfd: Captured) -> None:
    own = json.loads(said(capfd, "--by", "model", "--json"))
    found = json.loads(said(capfd, "--all-tenants", "--by", "model,tenant", "--json"))

    assert [(row["tenant"], row["model"], row["device_seconds"]) for row in found["data"]] == [
        ("default", "a", 1.5),
        ("default", "b", 1000.0),
        ("other", "a", 8.0),
    ]
    assert found["total"]["succeeded"] == 3600
    assert found.keys() == own.keys() and found["total"].keys() == own["total"].keys()
    assert found["data"][0].keys() - own["data"][0].keys() == {"tenant"}


def test_without_groups_only_the_total_is_shown(capfd: Captured) -> None:
    lines = said(capfd, "--by", "").splitlines()

    assert len(lines) == 2 and lines[1].split()[0] == "2,400"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["--by", "tenant"], "--by tenant needs --all-tenants", id="a tenant of the server"),
        pytest.param(["--by", "hour"], "day, model, task, with commas between them, not 'hour'", id="no such group"),
        pytest.param(["--from", "monday"], "must be a day, as 2026-11-24", id="no day, to the server"),
        pytest.param(["--from", "monday", "--all-tenants"], "--from must be a day", id="no day, to the database"),
        pytest.param(["--all-tenants", "--from", "2026-02-02", "--to", "2026-02-01"], "is after", id="wrong way round"),
        pytest.param(["--json", "--csv"], "choose one", id="two forms"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(capfd: Captured, arguments: list[str], told: str) -> None:
    assert run(["usage", *arguments]) == 2

    assert told in capfd.readouterr().err


def running(ledger: Ledger) -> str:
    ledger.run(
        "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable)"
        " VALUES ('w', 'h', 1, 'cpu', '0', '[\"echo\"]', '[\"echo\"]', '{}')"
    )
    ledger.run(
        "INSERT INTO model_rates (model, tokens_per_second, output_per_input, low_factor, high_factor)"
        " VALUES ('echo', 10, 1, 0.5, 3)"
    )
    job_id = ledger.started(600)
    ledger.recut(job_id, 100)
    return job_id


def test_status_shows_the_band_and_how_often_bands_held(capfd: Captured, ledger: Ledger) -> None:
    job_id = running(ledger)

    run(["status", job_id])
    before = capfd.readouterr().out
    for high in (90, 150):
        ledger.run(
            "INSERT INTO estimates (job_id, model, progress, low_seconds, eta_seconds, high_seconds, made_at, ended_at)"
            " VALUES (:job, 'echo', 0, 1, 80, :high, now() - interval '100 s', now())",
            job=job_id,
            high=high,
        )
    run(["status", job_id])
    after = capfd.readouterr().out

    assert "done in 2m 00s (1m 00s to 6m 00s)" in before
    assert "estimates" not in before
    assert "of 2 such estimates in 30 days 50% held, and half of them were less than 20% off" in after


def test_a_job_that_has_ended_says_what_it_took(capfd: Captured, ledger: Ledger) -> None:
    job_id = ledger.started(2)
    claim = ledger.claim(job_id)
    assert claim
    ledger.record(claim)
    with ledger.sessions.begin() as session:
        usage.waste(session, job_id, "echo", Spent(12.34))
    ledger.finalize(job_id)
    with ledger.sessions() as session:
        assert jobs.get(session, ledger.tenant, job_id).status == "completed"

    assert run(["watch", job_id]) == 0

    assert "4 tokens in, 2 out, 12.3 s on a device" in capfd.readouterr().err
