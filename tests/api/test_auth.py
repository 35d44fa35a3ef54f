"""Who gets in: every route, with every kind of key that should not open it."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import text

from api.scopes import PAGES, PUBLIC, SCOPES, needed
from db import keys
from db.keys import Scope
from db.session import Sessions
from tests.conftest import LiveAPI

Damage = Callable[[Sessions, str], str | None]


def routes(api: LiveAPI) -> Iterator[tuple[str, str, str]]:
    """Method, path and endpoint of all that is served; ids in the paths are of nothing."""
    for rule in api.app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            yield method, re.sub(r"<\w+>", "nonesuch", rule.rule), rule.endpoint


def revoked(sessions: Sessions, key: str) -> str:
    with sessions.begin() as session:
        keys.revoke_key(session, key)
    return key


def expired(sessions: Sessions, key: str) -> str:
    with sessions.begin() as session:
        session.execute(text("UPDATE api_keys SET expires_at = now() - interval '1 s'"))
    return key


def replaced(sessions: Sessions, key: str) -> str:
    with sessions.begin() as session:
        keys.rotate_key(session, key, timedelta(0))
    return key


def other_secret(_: Sessions, key: str) -> str:
    return keys._with_checksum(key[:17] + "0" * 43)


def with_scopes(*scopes: Scope) -> Damage:
    def make(sessions: Sessions, _: str) -> str:
        with sessions.begin() as session:
            return keys.issue_key(session, "default", "few", scopes=scopes)

    return make


def test_every_route_is_public_or_names_its_scope_and_every_name_is_a_route(api: LiveAPI) -> None:
    served = {endpoint for _, _, endpoint in routes(api)}

    assert served == PUBLIC | PAGES | set(SCOPES)
    assert set(SCOPES) & PUBLIC == set(SCOPES) & PAGES == PUBLIC & PAGES == set()


def test_looking_needs_read_and_nothing_that_changes_things_does(api: LiveAPI) -> None:
    for method, path, endpoint in routes(api):
        if endpoint in PUBLIC | PAGES or path.startswith(
            ("/v1/keys", "/v1/audit-log", "/v1/messages/count_tokens", "/metrics")
        ):
            continue
        assert (needed(endpoint) is Scope.READ) is (method == "GET"), (method, path)


def test_a_route_that_was_forgotten_opens_to_admin_alone() -> None:
    assert needed("new.route") is Scope.ADMIN


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        pytest.param(lambda sessions, key: None, "missing_api_key", id="none"),
        pytest.param(lambda sessions, key: "nonsense", "invalid_api_key", id="malformed"),
        pytest.param(
            lambda sessions, key: key[:-1] + ("0" if key[-1] != "0" else "1"), "invalid_api_key", id="checksum"
        ),
        pytest.param(other_secret, "invalid_api_key", id="wrong secret"),
        pytest.param(revoked, "invalid_api_key", id="revoked"),
        pytest.param(expired, "invalid_api_key", id="expired"),
        pytest.param(replaced, "invalid_api_key", id="replaced"),
    ],
)
def test_no_route_but_the_public_ones_opens_to_a_key_that_is_none(
    api: LiveAPI, sessions: Sessions, key: str, damage: Damage, code: str
) -> None:
    with api.client(damage(sessions, key)) as client:
        for method, path, endpoint in routes(api):
            answer = client.request(method, path)

            if endpoint in PAGES:
                # To the documentation, or to the door.
                assert answer.headers["location"].startswith(("/docs", "/sign-in")), (method, path)
                continue
            if endpoint in PUBLIC:
                # These forms are refused for where they do not come from, whoever sends them.
                is_form = (method, path) in (("POST", "/sign-in"), ("POST", "/sign-out"))
                assert answer.status_code == 403 if is_form else answer.status_code not in (401, 403), (method, path)
                continue
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            if path.startswith("/v1/messages"):
                error = answer.json()["error"]
                assert (error["type"], error["details"]["error_code"]) == ("authentication_error", code)
            else:
                error = answer.json()["error"]
                assert (error["type"], error["code"]) == ("authentication_error", code)


@pytest.mark.parametrize("lacking", Scope)
def test_a_key_without_the_scope_is_refused_and_told_which(api: LiveAPI, sessions: Sessions, lacking: Scope) -> None:
    key = with_scopes(*(scope for scope in Scope if scope is not lacking))(sessions, "")
    assert key is not None

    with api.client(key) as client:
        for method, path, endpoint in routes(api):
            if endpoint in PUBLIC | PAGES:
                continue
            answer = client.request(method, path)

            assert (answer.status_code == 403) is (needed(endpoint) is lacking), (method, path, answer.text)
            if answer.status_code == 403:
                error = answer.json()["error"]
                code = error["details"]["error_code"] if path.startswith("/v1/messages") else error["code"]
                assert (error["type"], code) == ("permission_error", "insufficient_scope")
                assert f"`{lacking}`" in error["message"]


def test_a_refusal_is_in_the_audit_log_once_however_often_it_is_asked_for(
    api: LiveAPI, client: httpx.Client, sessions: Sessions
) -> None:
    key = with_scopes(Scope.READ)(sessions, "")
    with api.client(key) as reader:
        for _ in range(3):
            reader.delete("/v1/files/file-x", headers={"x-request-id": "first"})
        reader.post("/v1/jobs", json={"task": "translation", "inputs": ["secret text"]})

    page = client.get("/v1/audit-log", params={"action": "scope.refused"})

    assert [(each["target"], each["actor"]) for each in page.json()["data"]] == [
        ("POST /v1/jobs", str(key)[4:16]),
        ("DELETE /v1/files/<file_id>", str(key)[4:16]),
    ]
    assert page.json()["data"][1]["request_id"] == "first"
    assert page.json()["data"][1]["detail"] == {"needed": "submit"}
    assert page.json()["data"][1]["address"] == "127.0.0.1"
    assert "secret" not in page.text
