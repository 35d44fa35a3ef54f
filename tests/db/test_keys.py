"""API keys: issued once, kept as hashes, checked, revoked."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from db import keys
from db.errors import Conflict, NotFound
from db.session import Sessions
from tests.waiting import eventually

NOW = datetime.now(UTC)


def issue(sessions: Sessions, tenant: str = "default", name: str = "k", lifetime: timedelta | None = None) -> str:
    with sessions.begin() as session:
        return keys.issue_key(session, tenant, name, lifetime)


def verify(sessions: Sessions, key: str, now: datetime = NOW) -> str | None:
    with sessions.begin() as session:
        found = keys.verify(session, key, now)
        return found and found.tenant_id


def test_a_key_has_the_promised_form_and_no_two_are_alike(sessions: Sessions) -> None:
    issued = {issue(sessions) for _ in range(20)}

    assert len(issued) == 20
    for key in issued:
        assert re.fullmatch(r"bsh_[0-9a-z]{12}_[0-9A-Za-z]{49}", key)


def test_a_key_opens_its_tenant(sessions: Sessions, tenant: str) -> None:
    assert verify(sessions, issue(sessions)) == tenant
    assert verify(sessions, issue(sessions, "other")) not in (None, tenant)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda key: "", id="nothing"),
        pytest.param(lambda key: key[:-1], id="cut"),
        pytest.param(lambda key: key + "0", id="longer"),
        pytest.param(lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"), id="wrong checksum"),
        pytest.param(lambda key: key.swapcase(), id="case"),
        pytest.param(lambda key: keys._with_checksum(key[:17] + "0" * 43), id="wrong secret, right checksum"),
        pytest.param(lambda key: keys._with_checksum("bsh_" + "0" * 12 + key[16:-6]), id="wrong id, right checksum"),
        pytest.param(lambda key: f" {key}", id="space"),
        pytest.param(lambda key: key + "\n", id="newline"),
        pytest.param(lambda key: "bsh_\0" + key[5:], id="NUL"),
        pytest.param(lambda key: "bsh_é" + key[5:], id="not ASCII"),
    ],
)
def test_a_damaged_key_opens_nothing(sessions: Sessions, damage: object) -> None:
    key = issue(sessions)

    assert verify(sessions, damage(key)) is None  # type: ignore[operator]


def test_a_mistyped_key_is_refused_without_asking_the_database(sessions: Sessions) -> None:
    key = issue(sessions)

    # A session that cannot be used: asking it anything would raise.
    assert keys.verify(None, key[:-1] + ("0" if key[-1] != "0" else "1"), NOW) is None  # type: ignore[arg-type]


def test_nothing_of_the_secret_is_stored(sessions: Sessions) -> None:
    key = issue(sessions)

    with sessions() as session:
        [row] = session.execute(text("SELECT api_keys::text FROM api_keys")).scalars()

    assert key[17:] not in row
    assert key[17:-6] not in row


def test_a_revoked_key_opens_nothing_at_once_and_revoking_again_changes_nothing(sessions: Sessions) -> None:
    key = issue(sessions)
    id = key.split("_")[1]

    for words in (id, key):
        with sessions.begin() as session:
            keys.revoke_key(session, words)

    assert verify(sessions, key) is None
    with sessions() as session, pytest.raises(NotFound):
        keys.revoke_key(session, "nonesuch")


def test_an_expired_key_opens_nothing(sessions: Sessions) -> None:
    key = issue(sessions, lifetime=timedelta(hours=1))

    assert verify(sessions, key) is not None
    assert verify(sessions, key, NOW + timedelta(hours=2)) is None


def test_last_use_is_noted_at_most_once_a_minute(sessions: Sessions) -> None:
    key = issue(sessions)

    def last_used(now: datetime) -> datetime | None:
        verify(sessions, key, now)
        with sessions() as session:
            return keys.list_keys(session)[0].last_used_at

    assert last_used(NOW) == NOW
    assert last_used(NOW + timedelta(seconds=59)) == NOW
    assert last_used(NOW + timedelta(seconds=61)) == NOW + timedelta(seconds=61)


def test_keys_are_listed_by_tenant(sessions: Sessions) -> None:
    issue(sessions, "a", "first")
    issue(sessions, "b", "second")

    with sessions() as session:
        assert [(key.tenant, key.name) for key in keys.list_keys(session)] == [("a", "first"), ("b", "second")]
        assert [key.name for key in keys.list_keys(session, "b")] == ["second"]


def test_two_processes_starting_at_once_make_one_first_key(sessions: Sessions) -> None:
    def first(_: int) -> str | None:
        with sessions.begin() as session:
            return keys.first_key(session)

    with ThreadPoolExecutor(8) as pool:
        made = [key for key in pool.map(first, range(8)) if key]

    assert len(made) == 1
    assert verify(sessions, made[0]) is not None


def test_the_last_key_there_may_be_is_made_once(sessions: Sessions) -> None:
    with sessions.begin() as session:
        for _ in range(keys.MOST_KEYS - 1):
            keys.issue_key(session)

    def another() -> str | None:
        with sessions.begin() as session:
            try:
                return keys.issue_key(session)
            except Conflict:
                return None

    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            keys.issue_key(session)
            second = pool.submit(another)
            # Made, and not yet for others to see: the second one must wait to know.
            eventually(lambda: second.done() or _is_waiting(sessions))
        assert second.result() is None


def _is_waiting(sessions: Sessions) -> bool:
    with sessions() as session:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool(session.execute(text(query)).scalar_one())


def test_the_command_prints_a_first_key_and_later_nothing(database_url: str) -> None:
    def run(*words: str, url: str = database_url) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "BUSHEL_DATABASE_URL": url, "BUSHEL_BROKER_URL": "redis://127.0.0.1:1"}
        command = [sys.executable, "-m", "db.keys", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    first, second, wrong = run("--first"), run("--first"), run()

    assert (first.returncode, second.returncode, wrong.returncode) == (0, 0, 2)
    assert keys._KEY.match(first.stdout.strip())
    assert second.stdout == ""
    assert "BUSHEL_DATABASE_URL" in run("--first", url="mysql://x").stderr
