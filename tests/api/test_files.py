"""Files over HTTP: upload, list, look, download, delete."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from api.config import APISettings
from api.files import attachment, base_name
from db import files
from db.session import Sessions
from tests.conftest import LiveAPI
from tests.ledger import Ledger

BODY = b'{"text": "one"}\n{"text": "two"}\n'


def upload(client: httpx.Client, data: bytes = BODY, name: str = "in.jsonl", **fields: str) -> httpx.Response:
    return client.post("/v1/files", files={"file": (name, data)}, data={"purpose": "batch"} | fields)


def stored(settings: APISettings) -> list[Path]:
    return [path for path in (settings.data / "files").rglob("*") if path.is_file()]


def test_an_uploaded_file_is_described_as_openai_clients_expect(client: httpx.Client) -> None:
    answer = upload(client, purpose="batch")

    assert answer.status_code == 200
    file = answer.json()
    assert file.keys() == {
        *("id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status", "status_details")
    }
    assert file["id"].startswith("file-")
    assert (file["object"], file["bytes"], file["filename"]) == ("file", len(BODY), "in.jsonl")
    assert (file["purpose"], file["status"], file["status_details"]) == ("batch", "processed", None)
    assert client.get(f"/v1/files/{file['id']}").json() == file


def test_a_batch_file_lives_thirty_days_and_others_for_ever(client: httpx.Client) -> None:
    batch, other = upload(client).json(), upload(client, purpose="user_data").json()

    assert batch["expires_at"] - batch["created_at"] == 30 * 86400
    assert other["expires_at"] is None


def test_a_lifetime_is_taken_from_bracketed_form_fields(client: httpx.Client) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}

    file = upload(client, **fields).json()

    assert file["expires_at"] - file["created_at"] == 3600


def test_the_content_comes_back_byte_by_byte(client: httpx.Client) -> None:
    data = bytes(range(256)) * 1000 + b"\r\n--not-a-boundary\r\n"
    file_id = upload(client, data, "odd.bin").json()["id"]

    answer = client.get(f"/v1/files/{file_id}/content")

    assert answer.content == data
    assert answer.headers["content-length"] == str(len(data))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == "attachment; filename=odd.bin"
    assert answer.headers["content-type"] == "application/octet-stream"


def test_content_needs_no_accept_header_to_please(client: httpx.Client) -> None:
    file_id = upload(client).json()["id"]

    assert client.get(f"/v1/files/{file_id}/content", headers={"Accept": "application/binary"}).content == BODY


@pytest.mark.parametrize(
    ("range", "status", "content"),
    [
        pytest.param("bytes=0-3", 206, BODY[:4], id="from the beginning"),
        pytest.param("bytes=-4", 206, BODY[-4:], id="the end"),
        pytest.param("bytes=5-", 206, BODY[5:], id="going on"),
        pytest.param("bytes=9999-", 416, None, id="beyond the end"),
        pytest.param("lines=1", 200, BODY, id="an unknown unit"),
    ],
)
def test_a_range_is_honoured(client: httpx.Client, range: str, status: int, content: bytes | None) -> None:
    file_id = upload(client).json()["id"]

    answer = client.get(f"/v1/files/{file_id}/content", headers={"Range": range})

    assert answer.status_code == status
    if content is None:
        assert answer.json()["error"]["code"] == "range_not_satisfiable"
        assert answer.headers["content-range"] == f"bytes */{len(BODY)}"
    else:
        assert answer.content == content


def test_a_store_elsewhere_serves_ranges_too(settings: APISettings, key: str) -> None:
    from api.app import create_app
    from db.doorbell import RecordingDoorbell

    app = create_app(settings.model_copy(update={"store_url": "memory://bushel-tests"}), RecordingDoorbell())
    client = app.test_client()
    auth = {"Authorization": f"Bearer {key}"}
    form = {"file": (io.BytesIO(BODY), "a.txt"), "purpose": "batch"}
    sent = client.post("/v1/files", data=form, headers=auth)
    file_id = sent.get_json()["id"]

    whole = client.get(f"/v1/files/{file_id}/content", headers=auth)
    part = client.get(f"/v1/files/{file_id}/content", headers={**auth, "Range": "bytes=3-6"})

    assert (whole.status_code, whole.data) == (200, BODY)
    assert (part.status_code, part.data) == (206, BODY[3:7])
    app.close()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("plain.txt", "plain.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\texts\\a.csv", "a.csv"),
        ("a\r\nSet-Cookie: b.txt", "aSet-Cookie: b.txt"),
        ("..", "upload"),
        ("", "upload"),
        ("x" * 400, "x" * 255),
        ("Sätze 1.txt", "Sätze 1.txt"),
    ],
)
def test_of_a_filename_only_the_base_name_is_kept(sent: str, kept: str) -> None:
    assert base_name(sent) == kept


def test_a_download_name_cannot_break_out_of_its_header() -> None:
    assert attachment('a"; filename=evil.exe') == 'attachment; filename="a\\"; filename=evil.exe"'
    assert attachment("ä.txt") == "attachment; filename=a.txt; filename*=UTF-8''%C3%A4.txt"


def test_a_name_in_another_script_survives_the_round_trip(client: httpx.Client) -> None:
    file = upload(client, name="предложения.txt").json()

    assert file["filename"] == "предложения.txt"
    assert "filename*=UTF-8''%D0%BF" in client.get(f"/v1/files/{file['id']}/content").headers["content-disposition"]


@pytest.mark.parametrize(
    ("send", "status", "code", "param"),
    [
        pytest.param({"files": {"file": ("a.txt", b"")}}, 400, "empty_file", "file", id="empty"),
        pytest.param({"files": {"data": ("a.txt", b"x")}}, 400, "unknown_field", "file", id="another part"),
        pytest.param(
            {"files": [("file", ("a.txt", b"x")), ("file", ("b.txt", b"y"))]}, 400, "invalid_value", "file", id="two"
        ),
        pytest.param({"files": {"file": (None, "text")}}, 400, "invalid_value", "file", id="as a text field"),
        pytest.param({"files": {"x": (None, "y" * 5000)}}, 400, "invalid_value", "x", id="a long field"),
        pytest.param(
            {"files": {"file": ("a.txt", b"x")}, "data": {"purpose": "fun"}},
            400,
            "invalid_value",
            "purpose",
            id="purpose",
        ),
        pytest.param(
            {"files": {"file": ("a.txt", b"x")}, "data": {"expires_after[anchor]": "created_at"}},
            *(400, "missing_field", "purpose"),
            id="no purpose",
        ),
        pytest.param(
            {"files": {"file": ("a.txt", b"x")}, "data": {"porpose": "batch"}},
            400,
            "unknown_field",
            "porpose",
            id="typo",
        ),
        pytest.param(
            {
                "files": {"file": ("a.txt", b"x")},
                "data": {"purpose": "batch", "expires_after[anchor]": "created_at"},
            },
            *(400, "invalid_value", "expires_after[seconds]"),
            id="anchor without seconds",
        ),
        pytest.param(
            {"files": {"file": ("a.txt", b"x")}, "data": {"purpose": "batch", "expires_after[seconds]": "3600"}},
            *(400, "invalid_value", "expires_after[anchor]"),
            id="seconds without anchor",
        ),
        pytest.param(
            {
                "files": {"file": ("a.txt", b"x")},
                "data": {
                    "purpose": "batch",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": "59",
                },
            },
            *(400, "invalid_value", "expires_after[seconds]"),
            id="too short a life",
        ),
        pytest.param({"json": {"file": "x"}}, 415, "unsupported_media_type", None, id="json"),
        pytest.param({"content": b"x"}, 415, "unsupported_media_type", None, id="no content type"),
        pytest.param(
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
            *(400, "invalid_multipart", None),
            id="no boundary",
        ),
        pytest.param(
            {"content": b"--b\r\nnonsense", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            *(400, "invalid_multipart", None),
            id="cut off",
        ),
    ],
)
def test_a_bad_upload_is_refused_and_leaves_nothing(
    client: httpx.Client, settings: APISettings, send: dict[str, object], status: int, code: str, param: str | None
) -> None:
    if "files" in send:
        send = {"data": {"purpose": "batch"}} | send
    answer = client.post("/v1/files", **send)  # type: ignore[arg-type]

    assert answer.status_code == status
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
    assert stored(settings) == []
    assert client.get("/v1/files").json()["data"] == []


class TestLimits:
    @pytest.fixture
    def settings(self, settings: APISettings) -> APISettings:
        return settings.model_copy(update={"max_upload_bytes": 1000})

    @pytest.mark.parametrize(("size", "status"), [(999, 200), (1000, 200), (1001, 413), (200_000, 413)])
    def test_exactly_the_limit_is_accepted(
        self, client: httpx.Client, settings: APISettings, size: int, status: int
    ) -> None:
        answer = upload(client, b"x" * size)

        assert answer.status_code == status
        if status == 413:
            assert answer.json()["error"]["code"] == "request_too_large"
            assert stored(settings) == []


class TestFullDisk:
    @pytest.fixture
    def settings(self, settings: APISettings) -> APISettings:
        return settings.model_copy(update={"min_free_bytes": 2**62})

    def test_uploads_and_jobs_are_refused_while_there_is_no_room(
        self, client: httpx.Client, settings: APISettings
    ) -> None:
        refused = [upload(client), client.post("/v1/jobs", json={"task": "translation", "inputs": ["a"]})]

        for answer in refused:
            assert answer.status_code == 507
            assert answer.json()["error"]["code"] == "insufficient_storage"
            assert answer.headers["x-should-retry"] == "false"
        assert stored(settings) == []


def test_files_are_listed_newest_first_and_paged_by_the_last_id(client: httpx.Client) -> None:
    ids = [upload(client, name=f"{number}.txt").json()["id"] for number in range(5)]

    first = client.get("/v1/files", params={"limit": 2}).json()
    second = client.get("/v1/files", params={"limit": 2, "after": first["last_id"]}).json()
    last = client.get("/v1/files", params={"limit": 2, "after": second["last_id"]}).json()

    assert [file["id"] for page in (first, second, last) for file in page["data"]] == ids[::-1]
    assert [page["has_more"] for page in (first, second, last)] == [True, True, False]
    assert (first["object"], first["first_id"], first["last_id"]) == ("list", ids[4], ids[3])


def test_files_can_be_listed_oldest_first_and_by_purpose(client: httpx.Client) -> None:
    ids = [upload(client, purpose=purpose).json()["id"] for purpose in ("batch", "evals", "batch")]

    listed = client.get("/v1/files", params={"order": "asc", "purpose": "batch"}).json()

    assert [file["id"] for file in listed["data"]] == [ids[0], ids[2]]


def test_paging_is_stable_while_files_are_added_and_the_cursor_is_deleted(client: httpx.Client) -> None:
    ids = [upload(client).json()["id"] for _ in range(4)]
    first = client.get("/v1/files", params={"limit": 2}).json()
    upload(client)
    client.delete(f"/v1/files/{first['last_id']}")

    second = client.get("/v1/files", params={"limit": 2, "after": first["last_id"]}).json()

    assert [file["id"] for file in second["data"]] == [ids[1], ids[0]]


def test_an_empty_list_has_no_ids(client: httpx.Client) -> None:
    assert client.get("/v1/files").json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_a_deleted_file_is_gone_and_deleting_it_again_is_not_found(client: httpx.Client) -> None:
    file_id = upload(client).json()["id"]

    assert client.delete(f"/v1/files/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}

    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert client.get(path).status_code == 404
    assert client.delete(f"/v1/files/{file_id}").json()["error"]["code"] == "file_not_found"
    assert client.get("/v1/files").json()["data"] == []


def test_an_expired_file_is_not_found_even_before_it_is_removed(client: httpx.Client, ledger: Ledger) -> None:
    file_id = upload(client).json()["id"]
    ledger.run("UPDATE files SET expires_at = now() - interval '1 s'")

    assert client.get(f"/v1/files/{file_id}").status_code == 404
    assert client.get("/v1/files").json()["data"] == []
    with ledger.sessions.begin() as session:
        assert files.bury_expired(session) == 1
        assert [tombstone.id for tombstone in files.removable(session)] == [file_id]


def test_a_file_whose_bytes_are_gone_is_not_found(client: httpx.Client, ledger: Ledger) -> None:
    file_id = upload(client).json()["id"]
    ledger.store.delete(files.store_key(file_id))

    assert client.get(f"/v1/files/{file_id}/content").status_code == 404


def test_bytes_of_a_deleted_input_stay_until_the_job_has_ended(client: httpx.Client, ledger: Ledger) -> None:
    file_id = upload(client).json()["id"]
    job = client.post("/v1/jobs", json={"task": "translation", "input_file_id": file_id}).json()
    client.delete(f"/v1/files/{file_id}")

    with ledger.sessions.begin() as session:
        assert files.removable(session) == []
    assert ledger.ingest(job["id"])
    ledger.run("UPDATE jobs SET status = 'completed', completed_at = now()")
    with ledger.sessions.begin() as session:
        [tombstone] = files.removable(session)
        files.bytes_removed(session, tombstone.id)
        assert files.removable(session) == []
    assert tombstone == files.Removable(file_id, files.store_key(file_id))


def test_many_uploads_at_once_are_all_kept(api: LiveAPI, key: str, sessions: Sessions) -> None:
    with api.client(key) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: upload(client, b"%d" % number), range(24)))

    assert {answer.status_code for answer in answers} == {200}
    with sessions() as session:
        assert session.execute(text("SELECT count(DISTINCT sha256) FROM files")).scalar() == 24
