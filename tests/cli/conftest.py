"""Installations for the doctor to look at."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack.valkey import Valkey
from tests.conftest import REGISTRY, LiveAPI


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No settings but those of the test; a data folder that nobody has used, and its path."""
    for name in [name for name in os.environ if name.startswith("BUSHEL_")]:
        monkeypatch.delenv(name)
    data = tmp_path / "data"
    monkeypatch.setenv("BUSHEL_DATA", str(data))
    return data


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def deployed(
    bare: Path, api: LiveAPI, key: str, valkey: Valkey, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """By settings: PostgreSQL, Valkey, the API, models that echo, a folder for files."""
    bare.mkdir(mode=0o700)
    (bare / "files").mkdir(mode=0o700)
    registry = bare / "registry.toml"
    registry.write_text(REGISTRY)
    monkeypatch.setenv("BUSHEL_DATABASE_URL", database_url)
    monkeypatch.setenv("BUSHEL_BROKER_URL", valkey.url)
    monkeypatch.setenv("BUSHEL_REGISTRY", str(registry))
    monkeypatch.setenv("BUSHEL_MIN_FREE_BYTES", "0")
    monkeypatch.setenv("BUSHEL_PAUSE_FREE_BYTES", "0")
    monkeypatch.setenv("BUSHEL_URL", api.url)
    monkeypatch.setenv("BUSHEL_API_KEY", key)
    return bare
