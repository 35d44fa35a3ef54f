"""What `make hostile` found, as plain tests."""

import httpx
import pytest

HOOK = {"url": "https://hooks.example/x", "events": ["job.*"]}
UPLOAD = {"bytes": 3, "filename": "a.txt", "mime_type": "text/plain", "purpose": "batch"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/webhooks", {**HOOK, "description": "a\0b"}, "description"),
        ("/v1/uploads", {**UPLOAD, "mime_type": "text/\0plain"}, "mime_type"),
        ("/v1/uploads", {**UPLOAD, "filename": "a\0.txt"}, None),
        ("/v1/jobs", {"task": "translation", "inputs": ["a"], "metadata": {"a": "\0"}}, "metadata"),
        ("/v1/jobs", {"task": "translation", "inputs": ["a"], "metadata": {"\0": "a"}}, "metadata"),
    ],
)
def test_a_nul_in_a_text_that_is_kept_is_told_and_no_failure(
    client: httpx.Client, path: str, body: dict[str, object], param: str | None
) -> None:
    answer = client.post(path, json=body)

    # Of a file's name, what cannot be shown is left out.
    assert answer.status_code == (200 if param is None else 400), answer.text
    if param is None:
        assert answer.json()["filename"] == "a.txt"
    else:
        assert answer.json()["error"]["param"] == param
        assert "NUL character" in answer.json()["error"]["message"]


def test_a_nul_in_a_changed_description_is_told(client: httpx.Client) -> None:
    webhook_id = client.post("/v1/webhooks", json=HOOK).json()["id"]

    answer = client.patch(f"/v1/webhooks/{webhook_id}", json={"description": "\0"})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "description")
    assert client.get(f"/v1/webhooks/{webhook_id}").json()["description"] == ""
