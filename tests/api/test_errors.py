"""One shape for everything that goes wrong, whatever is sent."""

import logging
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from api.config import APISettings
from tests.conftest import LiveAPI

JSON = {"Content-Type": "application/json"}


def error(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer that has the one shape."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert body.keys() == {"error"}
    assert (
        {"message", "type", "param", "code"} <= body["error"].keys() <= {"message", "type", "param", "code", "details"}
    )
    assert isinstance(body["error"]["message"], str) and isinstance(body["error"]["code"], str)
    assert "Traceback" not in answer.text and "<html" not in answer.text
    return dict(body["error"])


def post(client: httpx.Client, content: bytes, headers: dict[str, str] = JSON) -> httpx.Response:
    return client.post("/v1/jobs", content=content, headers=headers)


@pytest.mark.parametrize(
    ("content", "headers", "status", "code", "said"),
    [
        pytest.param(b"", JSON, 400, "invalid_json", "empty", id="empty"),
        pytest.param(b'{"task": "tran', JSON, 400, "invalid_json", "truncated", id="cut off"),
        pytest.param(b'{"task":\n "a" "b"}', JSON, 400, "invalid_json", "line 2", id="the place is told"),
        pytest.param(b'{"priority": NaN}', JSON, 400, "invalid_json", "invalid", id="NaN"),
        pytest.param(b'{"priority": 1e999}', JSON, 400, "invalid_json", "range", id="1e999"),
        pytest.param(b'{"priority": ' + b"9" * 5000 + b"}", JSON, 400, "invalid_json", "range", id="5,000 digits"),
        pytest.param(b"[" * 100_000, JSON, 400, "invalid_json", "deep", id="depth 100,000"),
        pytest.param(b'{"task": "\xff"}', JSON, 400, "invalid_json", "", id="not UTF-8"),
        pytest.param(b'{"task": "\\ud800"}', JSON, 400, "invalid_json", "", id="a lone surrogate"),
        pytest.param(b'{"ta\\u0000sk": "\\u0000"}', JSON, 400, "invalid_request", "task", id="NUL"),
        pytest.param(b'{"priority": 99999999999999999999}', JSON, 400, "invalid_request", "100", id="a huge number"),
        pytest.param(b"[]", JSON, 400, "invalid_value", "an object", id="a list"),
        pytest.param(b"null", JSON, 400, "invalid_value", "an object", id="null"),
        pytest.param(b'"{}"', JSON, 400, "missing_field", "task", id="JSON in a string"),
        pytest.param(b"{}", {}, 415, "unsupported_media_type", "application/json", id="no content type"),
        pytest.param(b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type", "text/plain", id="text"),
        pytest.param(b" " * (2**20 + 1), JSON, 413, "request_too_large", "1,048,576", id="too large"),
    ],
)
def test_a_malformed_body_is_refused(
    client: httpx.Client, content: bytes, headers: dict[str, str], status: int, code: str, said: str
) -> None:
    answer = post(client, content, headers)

    found = error(answer)
    assert (answer.status_code, found["code"]) == (status, code)
    assert said in found["message"]


@pytest.fixture
def settings(settings: APISettings) -> APISettings:
    return settings.model_copy(update={"max_request_bytes": 2**20})


def test_every_fault_of_a_request_is_told_at_once(client: httpx.Client) -> None:
    found = error(client.post("/v1/jobs", json={"task": "x", "inputs": 5, "priority": 500, "colour": "red"}))

    assert {each["param"] for each in found["details"]} == {"task", "inputs", "priority", "colour"}
    for name in ("`task`", "`inputs`", "`priority`", "`colour`"):
        assert name in found["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "route_not_found"),
        ("GET", "/v1/nothing/%00", 404, "route_not_found"),
        ("PUT", "/v1/jobs", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/jobs/job_1", 404, "job_not_found"),
        ("GET", "/v1/jobs/%00", 404, "job_not_found"),
        ("GET", "/v1/jobs/%ed%a0%80", 404, "job_not_found"),
        ("GET", "/v1/files/file-1/content", 404, "file_not_found"),
        ("GET", "/v1/files/" + "x" * 5000, 404, "file_not_found"),
        ("DELETE", "/v1/files/%27%20OR%201=1", 404, "file_not_found"),
    ],
)
def test_an_unknown_thing_or_method_has_the_shape_too(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)

    assert (answer.status_code, error(answer)["code"]) == (status, code)
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/chat/completions", "/v1/chat/completions"),
        ("GET", "/files/file-1/content", "/v1/files/file-1/content"),
        ("POST", "/v1/v1/messages", "/v1/messages"),
        ("GET", "/chat/completions", None),
        ("GET", "/v1/nothing", None),
        ("GET", "/%2e%2e", None),
    ],
)
def test_a_wrong_base_url_is_told(client: httpx.Client, method: str, path: str, meant: str | None) -> None:
    message = error(client.request(method, path))["message"]

    assert ("base_url" in message) == (meant is not None)
    if meant is not None:
        assert message.startswith(f"there is no {path}, but {meant}: ")


def test_a_field_in_the_wrong_place_is_not_suggested_for_itself(client: httpx.Client) -> None:
    body = {"task": "translation", "inputs": ["a"], "text_column": "b"}

    assert error(client.post("/v1/jobs", json=body))["message"] == "`text_column` is unknown here"


def test_slashes_at_the_end_are_no_redirect(client: httpx.Client) -> None:
    assert client.get("/v1/files/", follow_redirects=False).status_code == 200


def test_head_and_options_are_answered_without_a_body(client: httpx.Client) -> None:
    assert client.head("/v1/jobs").content == b""
    assert "POST" in client.options("/v1/jobs").headers["allow"]


@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [("abc-123", True), ("a" * 128, True), ("a" * 129, False), ("with space", False), ("", False), ("<b>", False)],
)
def test_a_sane_request_id_of_the_client_is_kept(client: httpx.Client, sent: str, is_kept: bool) -> None:
    answer = client.get("/v1/jobs", headers={"x-request-id": sent})

    assert (answer.headers["x-request-id"] == sent) is is_kept
    assert answer.headers["x-request-id"]


class TestKeys:
    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Basic abc",
            "Bearer nonsense",
            "Bearer bsh_000000000000_" + "0" * 49,
            "Bearer \0",
        ],
    )
    def test_without_a_good_key_nothing_is_served(self, api: LiveAPI, header: str | None) -> None:
        headers = {} if header is None else {"Authorization": header.strip().replace("\0", "%00")}
        with api.client(None) as client:
            answer = client.get("/v1/jobs", headers=headers)

        assert answer.status_code == 401
        assert error(answer)["type"] == "authentication_error"
        assert answer.headers["www-authenticate"].startswith("Bearer")

    def test_the_scheme_is_not_case_sensitive(self, api: LiveAPI, key: str) -> None:
        with api.client(None) as client:
            assert client.get("/v1/jobs", headers={"Authorization": f"bearer {key}"}).status_code == 200

    def test_the_key_is_asked_for_before_the_body_is_read(self, api: LiveAPI) -> None:
        with api.client(None) as client:
            assert client.post("/v1/jobs", content=b"nonsense").status_code == 401


def test_a_fault_of_ours_is_a_fixed_sentence_and_a_log_entry(
    api: LiveAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("db.jobs.get", broken)

    answer = client.get("/v1/jobs/job_0mgcxk2l9h4t8v2c6y0q1w5r3", headers={"x-request-id": "my-id"})

    assert (answer.status_code, error(answer)["code"]) == (500, "internal_error")
    assert "my-id" in error(answer)["message"]
    assert "secret detail" not in answer.text
    [entry] = [entry for entry in caplog.records if entry.name == "api.errors"]
    assert entry.levelno == logging.ERROR and entry.exc_info is not None


def test_a_database_that_is_away_is_unavailable_not_broken(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OperationalError("SELECT", {}, Exception("connection refused"))

    monkeypatch.setattr("db.jobs.get", away)

    answer = client.get("/v1/jobs/job_0mgcxk2l9h4t8v2c6y0q1w5r3")

    assert (answer.status_code, error(answer)["code"]) == (503, "database_unavailable")
    assert 2 <= int(answer.headers["retry-after"]) <= 5


def test_connections_cut_by_the_database_heal_by_themselves(client: httpx.Client, ledger: Any) -> None:
    assert client.get("/v1/jobs").status_code == 200
    with ledger.sessions.begin() as session:
        from sqlalchemy import text

        session.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bushel-api'")
        )

    assert client.get("/v1/jobs").status_code == 200
