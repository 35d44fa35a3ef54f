"""No tenant sees anything of another: a foreign id is answered byte for byte like one that never was."""

from collections.abc import Callable

import httpx
import pytest

from db.cursors import is_id
from tests.conftest import LiveAPI
from tests.ledger import Ledger

# One row for every route; a route without one fails the first test.
PUBLIC = {
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("POST", "/sign-out"),
    ("GET", "/static/<hash>/<path:name>"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
}
# Frames without anything of a tenant but its own name; whoever is not signed in is led to where one can.
PAGES = {
    ("GET", "/"),
    ("GET", "/jobs/<job_id>"),
    ("GET", "/keys"),
    ("GET", "/models"),
    ("GET", "/new"),
    ("GET", "/webhooks"),
    ("GET", "/workers"),
}
BY_ID = {
    ("GET", "/v1/files/<file_id>"),
    ("GET", "/v1/files/<file_id>/content"),
    ("DELETE", "/v1/files/<file_id>"),
    ("POST", "/v1/uploads/<upload_id>/parts"),
    ("POST", "/v1/uploads/<upload_id>/complete"),
    ("POST", "/v1/uploads/<upload_id>/cancel"),
    ("GET", "/v1/batches/<batch_id>"),
    ("POST", "/v1/batches/<batch_id>/cancel"),
    ("GET", "/v1/jobs/<job_id>"),
    ("DELETE", "/v1/jobs/<job_id>"),
    ("POST", "/v1/jobs/<job_id>/cancel"),
    ("POST", "/v1/jobs/<job_id>/pause"),
    ("POST", "/v1/jobs/<job_id>/resume"),
    ("POST", "/v1/jobs/<job_id>/retry"),
    ("POST", "/v1/jobs/<job_id>/clone"),
    ("GET", "/v1/jobs/<job_id>/results"),
    ("GET", "/v1/jobs/<job_id>/audit"),
    ("GET", "/v1/jobs/<job_id>/events"),
    ("GET", "/v1/jobs/<job_id>/statistics"),
    ("GET", "/v1/jobs/<job_id>/compare/<other_id>"),
    ("GET", "/v1/messages/batches/<message_batch_id>"),
    ("DELETE", "/v1/messages/batches/<message_batch_id>"),
    ("POST", "/v1/messages/batches/<message_batch_id>/cancel"),
    ("GET", "/v1/messages/batches/<message_batch_id>/results"),
    ("GET", "/v1/webhooks/<webhook_id>"),
    ("PATCH", "/v1/webhooks/<webhook_id>"),
    ("DELETE", "/v1/webhooks/<webhook_id>"),
    ("POST", "/v1/webhooks/<webhook_id>/rotate"),
    ("POST", "/v1/webhooks/<webhook_id>/test"),
    ("GET", "/v1/webhooks/<webhook_id>/deliveries"),
    ("POST", "/v1/webhooks/<webhook_id>/deliveries/<delivery_id>/redeliver"),
    ("GET", "/v1/keys/<key_id>"),
    ("DELETE", "/v1/keys/<key_id>"),
    ("POST", "/v1/keys/<key_id>/rotate"),
}
OF_THE_KEY = {
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("GET", "/v1/quota"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/cache"),
    ("DELETE", "/v1/cache"),
    ("GET", "/v1/events"),
    ("GET", "/v1/audit-log"),
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("POST", "/v1/uploads"),
    ("GET", "/v1/batches"),
    ("POST", "/v1/batches"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/translations"),
    ("POST", "/v1/summaries"),
    ("GET", "/v1/messages/batches"),
    ("POST", "/v1/messages/batches"),
    ("POST", "/v1/messages"),
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/webhooks"),
    ("POST", "/v1/webhooks"),
}
FOR_ALL = {
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/<model>"),
    ("GET", "/v1/estimates"),
    ("GET", "/v1/workers"),
    ("GET", "/v1/queues"),
    ("POST", "/v1/messages/count_tokens"),
}

UNKNOWN = {
    "<file_id>": "file-0mgcxk2l9h4t8v2c6y0q1w5r3",
    "<job_id>": "job_0mgcxk2l9h4t8v2c6y0q1w5r3",
    "<other_id>": "job_0mgcxk2l9h4t8v2c6y0q1w5r4",
    "<upload_id>": "upload_0mgcxk2l9h4t8v2c6y0q1w5r3",
    "<batch_id>": "batch_0mgcxk2l9h4t8v2c6y0q1w5r3",
    "<message_batch_id>": "msgbatch_0mgcxk2l9h4t8v2c6y0q1w5r4",
    "<webhook_id>": "wh_0mgcxk2l9h4t8v2c6y0q1w5r3",
    "<delivery_id>": "dlv_0mgcxk2l9h4t8v2c6y0q1w5r3",
    "<key_id>": "0mgcxk2l9h4t",
}


# What is sent to those that take something.
SENT: dict[tuple[str, str], dict[str, object]] = {
    ("PATCH", "/v1/webhooks/<webhook_id>"): {"json": {}},
    ("POST", "/v1/uploads/<upload_id>/parts"): {"files": {"data": ("a", b"x")}},
    ("POST", "/v1/uploads/<upload_id>/complete"): {"json": {"part_ids": ["part_1"]}},
}


def test_every_route_has_its_row_here(api: LiveAPI) -> None:
    routes = {
        (method, rule.rule)
        for rule in api.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert routes == PUBLIC | PAGES | BY_ID | OF_THE_KEY | FOR_ALL


@pytest.fixture
def foreign(client: httpx.Client, ledger: Ledger) -> dict[str, str]:
    """What the first tenant has: something of every kind."""
    file_id = client.post("/v1/files", files={"file": ("in.txt", b"one\n")}, data={"purpose": "batch"}).json()["id"]
    job_id = client.post("/v1/jobs", json={"task": "translation", "input_file_id": file_id}).json()["id"]
    ledger.ingest(job_id)
    webhook_id = client.post("/v1/webhooks", json={"url": "https://hooks.example/"}).json()["id"]
    delivery_id = client.post(f"/v1/webhooks/{webhook_id}/test").json()["id"]
    announced = {"bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "batch"}
    window = {"endpoint": "/v1/translations", "completion_window": "24h"}
    request = {"custom_id": "a", "params": {"model": "echo-chat", "max_tokens": 5, "messages": []}}
    messages = client.post("/v1/messages/batches", json={"requests": [request]})
    return {
        "<file_id>": file_id,
        "<message_batch_id>": messages.json()["id"],
        "<job_id>": job_id,
        "<other_id>": job_id,
        "<webhook_id>": webhook_id,
        "<delivery_id>": delivery_id,
        "<key_id>": client.post("/v1/keys", json={}).json()["id"],
        "<upload_id>": client.post("/v1/uploads", json=announced).json()["id"],
        "<batch_id>": client.post("/v1/batches", json={"input_file_id": file_id, **window}).json()["id"],
    }


@pytest.mark.parametrize(("method", "rule"), sorted(BY_ID))
def test_a_foreign_id_looks_like_an_unknown_one(
    client: httpx.Client, stranger: httpx.Client, foreign: dict[str, str], ledger: Ledger, method: str, rule: str
) -> None:
    def ask(ids: dict[str, str]) -> tuple[int, str, list[str]]:
        path = rule
        for placeholder, id in ids.items():
            path = path.replace(placeholder, id)
        sent = SENT.get((method, rule), {})
        answer = stranger.request(method, path, headers={"x-request-id": "same"}, **sent)  # type: ignore[arg-type]
        seen = answer.text
        # The longest first: the unknown ones end alike.
        for id in sorted(ids.values(), key=len, reverse=True):
            seen = seen.replace(id, "<id>")
        return answer.status_code, seen, sorted(answer.headers)

    before = ledger.rows("SELECT status, version FROM jobs")

    assert is_id(UNKNOWN["<job_id>"], "job_")
    assert ask(foreign) == ask(UNKNOWN)
    assert ask(foreign)[0] == 404
    assert ledger.rows("SELECT status, version FROM jobs") == before
    assert client.get(f"/v1/files/{foreign['<file_id>']}").status_code == 200


VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def test_every_verb_on_a_foreign_id_is_answered_as_on_an_unknown_one(
    client: httpx.Client, stranger: httpx.Client, foreign: dict[str, str], ledger: Ledger
) -> None:
    def ask(verb: str, rule: str, ids: dict[str, str]) -> tuple[int, str]:
        path = rule
        for placeholder, id in ids.items():
            path = path.replace(placeholder, id)
        answer = stranger.request(verb, path, headers={"x-request-id": "same"}, **SENT.get((verb, rule), {}))  # type: ignore[arg-type]
        seen = answer.text
        for id in sorted(ids.values(), key=len, reverse=True):
            seen = seen.replace(id, "<id>")
        return answer.status_code, seen

    rows = "SELECT id, status, version FROM jobs ORDER BY id"
    before = ledger.rows(rows)

    for rule in sorted({rule for _, rule in BY_ID}):
        for verb in VERBS:
            status, seen = ask(verb, rule, foreign)
            assert (status, seen) == ask(verb, rule, UNKNOWN), (verb, rule)
            is_served = (verb, rule) in BY_ID or (verb == "HEAD" and ("GET", rule) in BY_ID)
            assert status == (404 if is_served else 200 if verb == "OPTIONS" else 405), (verb, rule)
    assert ledger.rows(rows) == before
    assert client.get(f"/v1/keys/{foreign['<key_id>']}").json()["revoked_at"] is None


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/v1/messages/batches", "/v1/jobs", "/v1/webhooks"])
def test_lists_hold_only_ones_own(stranger: httpx.Client, foreign: dict[str, str], path: str) -> None:
    assert stranger.get(path).json()["data"] == []


def test_keys_and_the_audit_log_hold_only_ones_own(
    client: httpx.Client, stranger: httpx.Client, foreign: dict[str, str], key: str
) -> None:
    client.delete(f"/v1/webhooks/{foreign['<webhook_id>']}")

    [own] = stranger.get("/v1/keys").json()["data"]
    assert own["id"] not in (foreign["<key_id>"], key[4:16])
    [entry] = stranger.get("/v1/audit-log").json()["data"]
    assert (entry["action"], entry["target"]) == ("key.created", own["id"])
    assert stranger.get("/v1/quota").json()["open_jobs"]["used"] == 0
    assert client.get("/v1/quota").json()["open_jobs"]["used"] == 3


def test_a_foreign_cursor_tells_nothing(stranger: httpx.Client, foreign: dict[str, str]) -> None:
    cases: list[tuple[str, Callable[[dict[str, str]], str]]] = [
        ("/v1/files", lambda ids: ids["<file_id>"]),
        ("/v1/jobs", lambda ids: ids["<job_id>"]),
        ("/v1/batches", lambda ids: ids["<batch_id>"]),
        ("/v1/messages/batches", lambda ids: ids["<message_batch_id>"]),
        ("/v1/webhooks", lambda ids: ids["<webhook_id>"]),
        ("/v1/keys", lambda ids: ids["<key_id>"]),
    ]
    for path, pick in cases:
        name = "after_id" if "messages" in path else "after"
        pages = [(pick(ids), stranger.get(path, params={name: pick(ids)})) for ids in (foreign, UNKNOWN)]
        of_foreign, of_unknown = ((page.status_code, page.text.replace(id, "<id>")) for id, page in pages)
        assert of_foreign == of_unknown, path


def test_a_job_cannot_use_a_foreign_file(stranger: httpx.Client, foreign: dict[str, str]) -> None:
    answers = [
        stranger.post("/v1/jobs", json={"task": "translation", "input_file_id": ids["<file_id>"]})
        for ids in (foreign, UNKNOWN)
    ]

    assert [answer.status_code for answer in answers] == [404, 404]
    messages = [answer.json()["error"] for answer in answers]
    assert messages[0] | {"message": ""} == messages[1] | {"message": ""}


def test_the_outlook_of_a_job_counts_foreign_jobs_but_names_none(
    client: httpx.Client, stranger: httpx.Client, foreign: dict[str, str], ledger: Ledger
) -> None:
    ledger.run(
        "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable)"
        " VALUES ('w', 'h', 1, 'cpu', '0', '[\"echo\"]', '[\"echo\"]', '{}')"
    )
    job_id = stranger.post("/v1/jobs", json={"task": "translation", "inputs": ["a"]}).json()["id"]
    ledger.ingest(job_id)

    waiting = stranger.get(f"/v1/jobs/{job_id}").json()["waiting_for"]

    assert waiting["code"] == "jobs_ahead"
    assert foreign["<job_id>"] not in waiting["message"]
