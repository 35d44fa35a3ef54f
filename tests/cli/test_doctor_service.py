"""`bushel doctor` on what a service needs beside its servers: models, workers, settings, keys, and where files are."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from db import keys
from tests.cli.examining import examine, hear
from tests.ledger import Ledger

Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("bare")


def test_models_that_are_not_here_not_served_or_cannot_be_loaded_are_told(
    deployed: Path, ledger: Ledger, capfd: Captured
) -> None:
    far = '[models.far]\ntask = "translation"\nsource = "nobody/nothing"\nrevision = "main"\n'
    (deployed / "models.toml").write_text(far)
    hear(ledger, "io", [])
    hear(ledger, "one", ["echo", "echo-many"], {"echo-many": "the disk is wet"})
    hear(ledger, "gone", ["echo"], ago=120)

    found = examine(capfd, "models", "workers")
    (deployed / "models.toml").write_text("[models.far]\n")
    spoiled = examine(capfd, "models")

    assert found.code == spoiled.code == 1
    assert "problem: far: nobody/nothing is not downloaded -> bushel models pull far" in found.told("models")
    assert "warning: echo-chat: here, and no worker serves it" in found.told("models")
    assert "problem: echo-many: no worker can load it: the disk is wet -> bushel models check echo-many" in found.told(
        "models"
    )
    assert "warning: gone has not been heard of for 12" in found.told("workers")
    assert "far" in spoiled.told("models") and "models/registry.toml explains" in spoiled.told("models")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        pytest.param("BUSHEL_DATABSE_POOL", "3", "did you mean BUSHEL_DATABASE_POOL?", id="mistyped"),
        pytest.param("BUSHEL_LOG_LEVLE_FILE", "x", "did you mean BUSHEL_LOG_LEVEL_FILE?", id="mistyped, of a file"),
        pytest.param("BUSHEL_SOMETHING_ELSE", "3", "nobody reads it -> unset it", id="unknown"),
        pytest.param("BUSHEL_POLL_SECONDS", "often", "problem: BUSHEL_POLL_SECONDS: Input should be", id="bad value"),
        pytest.param("BUSHEL_MAX_UPLOAD_BYTES", "0", "problem: BUSHEL_MAX_UPLOAD_BYTES: ", id="too small, of the API"),
        pytest.param("BUSHEL_API_KEY_FILE", "/none/key", "BUSHEL_API_KEY", id="a file that is not there"),
    ],
)
def test_settings_that_are_wrong_are_named(
    deployed: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    before = examine(capfd, "settings")
    monkeypatch.setenv(name, value)

    after = examine(capfd, "settings")

    assert before.checks["settings"]["outcome"] == "ok", before.text
    assert said in after.told("settings")
    assert after.code == (0 if said.endswith("unset it") or said.startswith("did") else 1)


def test_a_key_that_opens_nothing_or_little_is_told(
    deployed: Path, ledger: Ledger, key: str, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger.sessions.begin() as session:
        little = keys.issue_key(session, "default", "little", scopes=[keys.Scope.SUBMIT])
    monkeypatch.setenv("BUSHEL_API_KEY", little)
    lacking = examine(capfd, "key")
    with ledger.sessions.begin() as session:
        keys.revoke_key(session, little)
    revoked = examine(capfd, "key")
    monkeypatch.delenv("BUSHEL_API_KEY")
    none = examine(capfd, "key")

    assert lacking.code == 0 and "the scopes of this key: submit" in lacking.told("key")
    assert revoked.code == 1 and "little of tenant default, scopes submit: revoked" in revoked.told("key")
    assert little not in lacking.text + revoked.text
    assert "there is none" in none.told("key")


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own, as small or as closed as the options say."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED, a full or closed disk: no tmpfs can be mounted here ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_and_one_that_cannot_be_written_are_told(
    deployed: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BUSHEL_MIN_FREE_BYTES")
    monkeypatch.delenv("BUSHEL_PAUSE_FREE_BYTES")
    with mounted(deployed / "files", "size=256m"):
        little = examine(capfd, "store")
        (deployed / "files" / "big").write_bytes(bytes(200 * 2**20))
        full = examine(capfd, "store")
    with mounted(deployed / "files", "ro"):
        closed = examine(capfd, "store")
    monkeypatch.setenv("BUSHEL_STORE_URL", (deployed / "registry.toml").as_uri())
    no_folder = examine(capfd, "store")

    assert little.code == full.code == closed.code == no_folder.code == 1
    assert "uploads and jobs are refused below" in little.told("store")
    assert "workers pause below" in full.told("store")
    assert "cannot be written" in closed.told("store")
    assert "is no folder" in no_folder.told("store")


def test_a_store_elsewhere_is_looked_at_and_not_written(
    deployed: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSHEL_STORE_URL", "memory://doctor")
    empty = examine(capfd, "store")
    monkeypatch.setenv("BUSHEL_STORE_URL", "nonesuch://bucket/prefix")
    unknown = examine(capfd, "store")

    assert empty.code == 0 and "has nothing in it yet" in empty.told("store")
    assert unknown.code == 1 and "BUSHEL_STORE_URL cannot be used" in unknown.told("store")
