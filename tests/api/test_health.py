"""Alive, ready, and what is missing."""

import shutil

import httpx
import psycopg

from api.app import create_app
from api.config import APISettings
from db.doorbell import RecordingDoorbell
from tests.conftest import LiveAPI
from tests.ledger import Ledger


def test_the_process_is_alive_whatever_else_is_not(api: LiveAPI) -> None:
    with api.client(None) as client:
        assert client.get("/healthz").json() == {"status": "ok"}


def test_ready_without_broker_and_workers_which_are_only_told(client: httpx.Client) -> None:
    answer = client.get("/readyz")

    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["missing"]) == ("ready", [])
    assert {name: (check["ok"], check["required"]) for name, check in body["checks"].items()} == {
        "database": (True, True),
        "migrations": (True, True),
        "store": (True, True),
        "disk": (True, True),
        "broker": (False, False),
        "workers": (False, False),
    }


def test_live_workers_are_counted_and_dead_ones_are_not(client: httpx.Client, ledger: Ledger) -> None:
    for id, models, age in (("io", "[]", 0), ("model", '["echo"]', 0), ("dead", '["echo"]', 60)):
        ledger.run(
            "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable, heartbeat_at)"
            " VALUES (:id, 'h', 1, 'cpu', '0', CAST(:models AS jsonb), '[]', '{}', now() - :age * interval '1 s')",
            id=id,
            models=models,
            age=age,
        )

    assert client.get("/readyz").json()["checks"]["workers"]["message"] == "2 running, 1 of them serve models"


def test_a_database_without_its_tables_is_not_ready(postgres: str, settings: APISettings) -> None:
    plain = postgres.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    app = create_app(
        settings.model_copy(update={"database_url": postgres.replace("/bushel?", "/empty?")}), RecordingDoorbell()
    )

    answer = app.test_client().get("/readyz")

    assert answer.status_code == 503
    body = answer.get_json()
    assert (body["status"], body["missing"]) == ("not_ready", ["migrations"])
    assert "python -m migrations" in body["error"]["message"]
    app.close()


def test_a_database_that_is_away_is_named(settings: APISettings) -> None:
    away = settings.model_copy(update={"database_url": "postgresql+psycopg://u@127.0.0.1:1/none"})
    app = create_app(away, RecordingDoorbell())

    answer = app.test_client().get("/readyz")

    assert answer.status_code == 503
    assert answer.get_json()["missing"] == ["database", "migrations"]
    assert app.test_client().get("/healthz").status_code == 200
    app.close()


def test_a_store_that_cannot_be_written_or_is_full_is_named(settings: APISettings) -> None:
    shutil.rmtree(settings.data / "files", ignore_errors=True)
    (settings.data / "files").write_text("in the way")
    full = settings.model_copy(update={"min_free_bytes": 2**62, "store_url": (settings.data / "other").as_uri()})
    for broken, names, said in (
        (settings, ["store", "disk"], "cannot be written"),
        (full, ["disk"], "BUSHEL_MIN_FREE_BYTES"),
    ):
        app = create_app(broken, RecordingDoorbell())
        body = app.test_client().get("/readyz").get_json()
        assert body["missing"] == names
        assert said in body["checks"][names[0]]["message"]
        app.close()
