"""Keys of a tenant, over HTTP: made, shown once, replaced, revoked."""

import httpx
import pytest

from db import keys
from db.keys import Scope
from db.session import Sessions
from tests.conftest import LiveAPI


def opens(api: LiveAPI, key: str) -> bool:
    with api.client(key) as client:
        return client.get("/v1/models").status_code == 200


def test_a_key_is_shown_once_and_has_the_scopes_that_were_asked_for(api: LiveAPI, client: httpx.Client) -> None:
    made = client.post("/v1/keys", json={"name": "import", "scopes": ["submit"], "expires_in_seconds": 3_600})

    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    body = made.json()
    assert made.headers["location"] == f"/v1/keys/{body['id']}"
    assert body["key"].startswith(f"bsh_{body['id']}_")
    assert (body["name"], body["scopes"], body["expires_at"] - body["created_at"]) == ("import", ["submit"], 3_600)
    shown = client.get(f"/v1/keys/{body['id']}")
    assert shown.json() == {name: value for name, value in body.items() if name != "key"}
    assert body["key"] not in client.get("/v1/keys").text
    with api.client(body["key"]) as submitter:
        assert submitter.get("/v1/jobs").status_code == 403
        assert submitter.post("/v1/jobs", json={"task": "translation", "inputs": ["a"]}).status_code == 202


def test_a_key_that_says_nothing_may_read_and_submit(client: httpx.Client) -> None:
    made = client.post("/v1/keys", json={}).json()

    assert (made["scopes"], made["expires_at"], made["last_used_at"]) == (["read", "submit"], None, None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes.0"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"expires_in_seconds": 1}, "expires_in_seconds"),
        ({"expires_in_seconds": 10**18}, "expires_in_seconds"),
        ({"tenant": "other"}, "tenant"),
    ],
)
def test_a_request_for_a_key_that_cannot_be_is_refused(
    client: httpx.Client, body: dict[str, object], param: str
) -> None:
    answer = client.post("/v1/keys", json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_no_key_grants_a_scope_that_it_has_not(
    api: LiveAPI, client: httpx.Client, sessions: Sessions, key: str
) -> None:
    with sessions.begin() as session:
        admin = keys.issue_key(session, "default", "admin", scopes=[Scope.ADMIN])

    with api.client(admin) as clerk:
        refused = clerk.post("/v1/keys", json={"scopes": ["admin", "submit"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")
        assert "`submit`" in refused.json()["error"]["message"]
        # A new secret of the first key would be all of its scopes.
        assert clerk.post(f"/v1/keys/{key[4:16]}/rotate").status_code == 403
        assert clerk.post("/v1/keys", json={"scopes": ["admin"]}).status_code == 201
    assert opens(api, key)


def test_no_key_makes_one_that_outlives_it(api: LiveAPI, client: httpx.Client) -> None:
    asking = {"scopes": ["admin", "read"], "expires_in_seconds": 3_600}
    short = client.post("/v1/keys", json=asking).json()
    lasting = client.post("/v1/keys", json={"scopes": ["read"]}).json()

    with api.client(short["key"]) as clerk:
        ends = [
            clerk.post("/v1/keys", json={"scopes": ["read"]} | life).json()["expires_at"]
            for life in ({}, {"expires_in_seconds": 86_400}, {"expires_in_seconds": 60})
        ]
        # A new secret of a key that lasts longer would be a way around it; of its own it is none.
        refused = clerk.post(f"/v1/keys/{lasting['id']}/rotate")
        assert clerk.post(f"/v1/keys/{short['id']}/rotate").status_code == 200

    assert ends[:2] == [short["expires_at"]] * 2 and ends[2] < short["expires_at"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "key_outlives_yours")
    assert opens(api, lasting["key"])


def test_after_a_rotation_both_secrets_open_for_the_grace_and_at_0_only_the_new_one(
    api: LiveAPI, client: httpx.Client
) -> None:
    made = client.post("/v1/keys", json={"scopes": ["read"]}).json()
    path = f"/v1/keys/{made['id']}/rotate"

    first = client.post(path)
    assert first.status_code == 200
    assert (first.json()["id"], first.json()["scopes"]) == (made["id"], ["read"])
    assert first.json()["previous_secret_expires_at"] - made["created_at"] >= 86_400
    assert opens(api, made["key"]) and opens(api, first.json()["key"])

    second = client.post(path, json={"grace_seconds": 60}).json()
    # Only the one before has a grace, not all that ever were.
    assert [opens(api, each) for each in (made["key"], first.json()["key"], second["key"])] == [False, True, True]

    third = client.post(path, json={"grace_seconds": 0}).json()
    assert third["previous_secret_expires_at"] is None
    assert [opens(api, each) for each in (second["key"], third["key"])] == [False, True]


def test_a_replaced_secret_ends_when_its_grace_is_over(api: LiveAPI, client: httpx.Client, sessions: Sessions) -> None:
    made = client.post("/v1/keys", json={}).json()
    rotated = client.post(f"/v1/keys/{made['id']}/rotate", json={"grace_seconds": 60}).json()
    with sessions.begin() as session:
        row = keys.get(session, None, made["id"])
        assert row.previous_expires_at is not None
        assert keys.verify(session, made["key"], row.previous_expires_at) is None
        assert keys.verify(session, rotated["key"], row.previous_expires_at) is not None


def test_revoking_ends_a_key_and_its_replaced_secret_at_once(api: LiveAPI, client: httpx.Client) -> None:
    made = client.post("/v1/keys", json={}).json()
    rotated = client.post(f"/v1/keys/{made['id']}/rotate").json()

    revoked = client.delete(f"/v1/keys/{made['id']}")

    assert revoked.status_code == 200 and revoked.json()["revoked_at"] is not None
    assert not opens(api, made["key"]) and not opens(api, rotated["key"])
    assert client.delete(f"/v1/keys/{made['id']}").json() == revoked.json()
    again = client.post(f"/v1/keys/{made['id']}/rotate")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "key_revoked")


def test_keys_are_listed_newest_first_in_pages(client: httpx.Client, key: str) -> None:
    made = [client.post("/v1/keys", json={"name": str(number)}).json()["id"] for number in range(3)]

    first = client.get("/v1/keys", params={"limit": 2}).json()
    rest = client.get("/v1/keys", params={"limit": 2, "after": first["last_id"]}).json()

    assert [each["id"] for each in first["data"]] == [made[2], made[1]] and first["has_more"]
    assert [each["id"] for each in rest["data"]] == [made[0], key[4:16]] and not rest["has_more"]
    unknown = client.get("/v1/keys", params={"after": "nonesuch"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "unknown_cursor")


def test_a_script_that_forgets_to_revoke_is_stopped(client: httpx.Client, sessions: Sessions, key: str) -> None:
    with sessions.begin() as session:
        for _ in range(keys.MOST_KEYS - 1):
            last = keys.issue_key(session)

    refused = client.post("/v1/keys", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "too_many_keys")
    client.delete(f"/v1/keys/{last[4:16]}")
    assert client.post("/v1/keys", json={}).status_code == 201


def test_what_is_done_to_keys_is_in_the_audit_log(client: httpx.Client, key: str) -> None:
    made = client.post("/v1/keys", json={"name": "n"}).json()
    rotated = client.post(f"/v1/keys/{made['id']}/rotate", json={"grace_seconds": 5}).json()
    client.delete(f"/v1/keys/{made['id']}")

    page = client.get("/v1/audit-log")

    entries = page.json()["data"]
    assert [(each["action"], each["target"], each["actor"]) for each in entries] == [
        ("key.revoked", made["id"], key[4:16]),
        ("key.rotated", made["id"], key[4:16]),
        ("key.created", made["id"], key[4:16]),
        ("key.created", key[4:16], "operator"),
    ]
    assert entries[1]["detail"] == {"grace_seconds": 5}
    for secret in (made["key"], rotated["key"]):
        assert secret[17:] not in page.text
