"""Uploads in parts, through the real OpenAI client."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import httpx
import openai
import pytest

from api.config import APISettings
from api.services import EXTENSION
from api.transfers import Transfers
from db import uploads
from db.store import FolderStore
from tests.conftest import LiveAPI
from tests.ledger import Ledger
from workers.reconcile import Reconciler

DATA = b"".join(b'{"line": %d}\n' % number for number in range(5_000))


def stored(settings: APISettings, folder: str) -> list[Path]:
    return [path for path in (settings.data / "files" / folder).glob("*") if path.is_file()]


def begun(ai: openai.OpenAI, size: int = 10) -> str:
    return ai.uploads.create(bytes=size, filename="a.jsonl", mime_type="application/jsonl", purpose="batch").id


def reconcile(ledger: Ledger) -> None:
    Reconciler(ledger.sessions, ledger.store, ledger.bell).run()


def test_a_file_in_chunks_becomes_one_file(ai: openai.OpenAI, ledger: Ledger, settings: APISettings) -> None:
    upload = ai.uploads.upload_file_chunked(
        file=DATA,
        filename="big.jsonl",
        bytes=len(DATA),
        mime_type="application/jsonl",
        purpose="batch",
        part_size=20_000,
        md5=hashlib.md5(DATA).hexdigest(),
    )

    assert upload.status == "completed" and upload.file is not None
    assert (upload.file.bytes, upload.file.filename, upload.file.purpose) == (len(DATA), "big.jsonl", "batch")
    assert upload.file.status == "processed"
    assert upload.file.expires_at == upload.file.created_at + 30 * 86400
    assert ai.files.content(upload.file.id).read() == DATA
    assert len(stored(settings, "parts")) == 4
    reconcile(ledger)
    assert stored(settings, "parts") == []
    assert ai.files.content(upload.file.id).read() == DATA


def test_a_path_is_uploaded_too(ai: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "from disk.jsonl"
    path.write_bytes(DATA)

    upload = ai.uploads.upload_file_chunked(file=path, mime_type="application/jsonl", purpose="user_data")

    assert upload.file is not None and upload.file.filename == "from disk.jsonl"
    assert upload.file.expires_at is None


def test_an_upload_is_described_with_every_key(ai: openai.OpenAI, client: httpx.Client) -> None:
    answer = client.post(
        "/v1/uploads",
        json={
            "bytes": 3,
            "filename": "dir/a.txt",
            "mime_type": "text/plain",
            "purpose": "batch",
            "expires_after": {"anchor": "created_at", "seconds": 3600},
        },
    )

    upload = answer.json()
    assert answer.status_code == 200
    assert upload.keys() == {
        *("id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status", "file")
    }
    assert (upload["object"], upload["status"], upload["file"]) == ("upload", "pending", None)
    assert (upload["filename"], upload["expires_at"]) == ("a.txt", upload["created_at"] + 3600)
    part = ai.uploads.parts.create(upload["id"], data=b"abc")
    assert part.object == "upload.part" and part.upload_id == upload["id"]
    done = ai.uploads.complete(upload["id"], part_ids=[part.id])
    assert done.file is not None and done.file.expires_at == done.file.created_at + 3600


def test_the_order_is_that_of_the_part_ids(ai: openai.OpenAI) -> None:
    upload_id = begun(ai, 6)
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda data: ai.uploads.parts.create(upload_id, data=data).id, [b"ef", b"ab", b"cd"]))

    done = ai.uploads.complete(
        upload_id, part_ids=[parts[1], parts[2], parts[0]], md5=hashlib.md5(b"abcdef").hexdigest()
    )

    assert done.file is not None
    assert ai.files.content(done.file.id).read() == b"abcdef"


def test_parts_in_a_wrong_order_are_told_by_the_md5_and_can_be_put_right(
    ai: openai.OpenAI, settings: APISettings
) -> None:
    upload_id = begun(ai, 4)
    first, second = (ai.uploads.parts.create(upload_id, data=data).id for data in (b"ab", b"cd"))
    md5 = hashlib.md5(b"abcd").hexdigest()

    with pytest.raises(openai.BadRequestError) as refused:
        ai.uploads.complete(upload_id, part_ids=[second, first], md5=md5)

    assert (refused.value.code, refused.value.param) == ("md5_mismatch", "md5")
    assert stored(settings, "files") == []
    assert ai.uploads.complete(upload_id, part_ids=[first, second], md5=md5.upper()).status == "completed"


@pytest.mark.parametrize(
    ("pick", "code"),
    [
        pytest.param(lambda a, b: [a], "size_mismatch", id="one is missing"),
        pytest.param(lambda a, b: [a, a], "invalid_value", id="one is named twice"),
        pytest.param(lambda a, b: [a, b, "part_0mgcxk2l9h4t8v2c6y0q1w5r3"], "part_not_found", id="one is unknown"),
        pytest.param(lambda a, b: [a, "\0"], "part_not_found", id="one is no id"),
        pytest.param(lambda a, b: [], "invalid_value", id="none"),
    ],
)
def test_the_parts_must_make_exactly_the_file(ai: openai.OpenAI, pick: object, code: str) -> None:
    upload_id = begun(ai, 4)
    first, second = (ai.uploads.parts.create(upload_id, data=data).id for data in (b"ab", b"cd"))

    with pytest.raises(openai.BadRequestError) as refused:
        ai.uploads.complete(upload_id, part_ids=pick(first, second))  # type: ignore[operator]

    assert (refused.value.code, refused.value.param) == (code, "part_ids")


def test_a_part_of_another_upload_is_unknown(ai: openai.OpenAI) -> None:
    one, other = begun(ai, 2), begun(ai, 2)
    part = ai.uploads.parts.create(other, data=b"ab").id

    with pytest.raises(openai.BadRequestError) as refused:
        ai.uploads.complete(one, part_ids=[part])

    assert refused.value.code == "part_not_found"


def test_a_part_has_at_most_64_mib(ai: openai.OpenAI, settings: APISettings) -> None:
    upload_id = begun(ai, 2**30)

    with pytest.raises(openai.APIStatusError) as refused:
        ai.uploads.parts.create(upload_id, data=bytes(64 * 2**20 + 1))

    assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")
    assert ai.uploads.parts.create(upload_id, data=bytes(64 * 2**20)).upload_id == upload_id
    assert len(stored(settings, "parts")) == 1


def test_an_empty_part_and_a_part_of_another_name_are_refused(ai: openai.OpenAI, client: httpx.Client) -> None:
    upload_id = begun(ai)
    with pytest.raises(openai.BadRequestError) as empty:
        ai.uploads.parts.create(upload_id, data=b"")
    misnamed = client.post(f"/v1/uploads/{upload_id}/parts", files={"file": ("a", b"x")})

    assert empty.value.code == "empty_part"
    assert (misnamed.status_code, misnamed.json()["error"]["param"]) == (400, "data")


def test_an_upload_takes_no_more_than_its_parts_and_their_repetitions(ai: openai.OpenAI, settings: APISettings) -> None:
    upload_id = begun(ai, 4)
    for _ in range(uploads.COPIES):
        ai.uploads.parts.create(upload_id, data=b"abcd")

    with pytest.raises(openai.ConflictError) as refused:
        ai.uploads.parts.create(upload_id, data=b"abcd")

    assert refused.value.code == "too_many_parts"
    assert len(stored(settings, "parts")) == uploads.COPIES


def test_an_upload_takes_only_so_many_parts(ai: openai.OpenAI, ledger: Ledger) -> None:
    upload_id = begun(ai, 20_000)
    ledger.run(
        "INSERT INTO upload_parts (id, upload_id, bytes, store_key)"
        " SELECT 'part_' || n, :upload, 1, '-' FROM generate_series(1, :most) n",
        upload=upload_id,
        most=uploads.MAX_PARTS,
    )

    with pytest.raises(openai.ConflictError) as refused:
        ai.uploads.parts.create(upload_id, data=b"a")

    assert refused.value.code == "too_many_parts"


def test_a_file_larger_than_allowed_is_refused_before_it_is_sent(ai: openai.OpenAI, settings: APISettings) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        begun(ai, settings.max_upload_bytes + 1)

    assert (refused.value.status_code, refused.value.param) == (413, "bytes")


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"bytes": 0}, "bytes", "invalid_value"),
        ({"bytes": "5"}, "bytes", "invalid_value"),
        ({"purpose": "fun"}, "purpose", "invalid_value"),
        ({"purpose": "batch_output"}, "purpose", "invalid_value"),
        ({"filename": ""}, "filename", "invalid_value"),
        ({"expires_after": {"anchor": "created_at"}}, "expires_after.seconds", "missing_field"),
        ({"expires_after": {"anchor": "created_at", "seconds": 59}}, "expires_after.seconds", "invalid_value"),
        ({"size": 5}, "size", "unknown_field"),
    ],
)
def test_a_bad_upload_is_refused_with_its_fault(
    client: httpx.Client, change: dict[str, object], param: str, code: str
) -> None:
    good = {"bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "batch"}

    answer = client.post("/v1/uploads", json=good | change)

    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)


def test_completing_twice_gives_the_same_file(ai: openai.OpenAI, settings: APISettings) -> None:
    upload_id = begun(ai, 2)
    part = ai.uploads.parts.create(upload_id, data=b"ab").id

    # Those who come while the first one is at it are told to try again, which the client does by itself.
    patient = ai.with_options(max_retries=5)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: patient.uploads.complete(upload_id, part_ids=[part]), range(4)))

    assert len({each.file.id for each in done if each.file}) == 1
    assert len(stored(settings, "files")) == 1


def test_an_upload_is_completed_by_one_at_a_time(
    ai: openai.OpenAI, api: LiveAPI, ledger: Ledger, settings: APISettings
) -> None:
    """A second try comes while the first one copies, as from a client for which that took too long."""
    upload_id = begun(ai, 2)
    part = ai.uploads.parts.create(upload_id, data=b"ab").id

    def again() -> None:
        with pytest.raises(openai.ConflictError) as refused:
            ai.uploads.complete(upload_id, part_ids=[part])
        refusals.append(refused.value)
        copies.append(len(stored(settings, ".unfinished")))

    refusals: list[openai.ConflictError] = []
    copies: list[int] = []
    overtaken(api, ledger, again)

    done = ai.uploads.complete(upload_id, part_ids=[part])

    assert [refusal.code for refusal in refusals] == ["upload_being_completed"]
    assert refusals[0].response.headers["x-should-retry"] == "true"
    assert copies == [1]
    assert ai.uploads.complete(upload_id, part_ids=[part]) == done


def test_completing_takes_a_place_among_the_transfers(ai: openai.OpenAI, api: LiveAPI, ledger: Ledger) -> None:
    api.app.extensions[EXTENSION] = replace(api.app.extensions[EXTENSION], transfers=Transfers(1))
    one, other = begun(ai, 2), begun(ai, 2)
    parts = {id: ai.uploads.parts.create(id, data=b"ab").id for id in (one, other)}

    def beside() -> None:
        with pytest.raises(openai.InternalServerError) as refused:
            ai.uploads.complete(other, part_ids=[parts[other]])
        refusals.append(refused.value.code)

    refusals: list[str | None] = []
    overtaken(api, ledger, beside)

    assert ai.uploads.complete(one, part_ids=[parts[one]]).status == "completed"
    assert refusals == ["too_many_transfers"]
    assert ai.uploads.complete(other, part_ids=[parts[other]]).status == "completed"


def test_an_upload_that_ends_while_its_file_is_made_is_a_conflict(
    ai: openai.OpenAI, api: LiveAPI, ledger: Ledger
) -> None:
    upload_id = begun(ai, 2)
    part = ai.uploads.parts.create(upload_id, data=b"ab").id

    def cancel() -> None:
        ai.uploads.cancel(upload_id)
        reconcile(ledger)

    overtaken(api, ledger, cancel)

    with pytest.raises(openai.ConflictError) as refused:
        ai.uploads.complete(upload_id, part_ids=[part])

    assert refused.value.code == "upload_not_pending"


def overtaken(api: LiveAPI, ledger: Ledger, happens: Callable[[], None]) -> None:
    """Let something happen while the API copies the next part."""
    store = Overtaken(ledger.folder)
    store.before_opening = happens
    api.app.extensions[EXTENSION] = replace(api.app.extensions[EXTENSION], store=store)


class Overtaken(FolderStore):
    """Lets something happen, once, before it opens anything."""

    before_opening: Callable[[], None] | None = None

    def open(self, key: str) -> BinaryIO:
        happens, self.before_opening = self.before_opening, None
        if happens is not None:
            happens()
        return super().open(key)


def test_bytes_of_a_part_without_a_row_are_gone_a_day_later(ledger: Ledger, settings: APISettings) -> None:
    """A process was killed between writing the one and the other."""
    for age, name in ((0, "part_new"), (2 * 86_400, "part_old")):
        with ledger.store.writer(f"parts/{name}") as writer:
            writer.write(b"x")
        path = settings.data / "files" / "parts" / name
        os.utime(path, (path.stat().st_mtime - age,) * 2)

    reconcile(ledger)

    assert [path.name for path in stored(settings, "parts")] == ["part_new"]


def test_cancelling_twice_changes_nothing_and_a_cancelled_upload_takes_nothing(
    ai: openai.OpenAI, ledger: Ledger, settings: APISettings
) -> None:
    upload_id = begun(ai, 2)
    part = ai.uploads.parts.create(upload_id, data=b"ab").id

    assert [ai.uploads.cancel(upload_id).status for _ in range(2)] == ["cancelled", "cancelled"]

    for attempt in (
        lambda: ai.uploads.parts.create(upload_id, data=b"cd"),
        lambda: ai.uploads.complete(upload_id, part_ids=[part]),
    ):
        with pytest.raises(openai.ConflictError) as refused:
            attempt()
        assert refused.value.code == "upload_not_pending"
        assert refused.value.response.headers["x-should-retry"] == "false"
    reconcile(ledger)
    assert stored(settings, "parts") == []


def test_a_completed_upload_cannot_be_cancelled(ai: openai.OpenAI) -> None:
    upload_id = begun(ai, 2)
    ai.uploads.complete(upload_id, part_ids=[ai.uploads.parts.create(upload_id, data=b"ab").id])

    with pytest.raises(openai.ConflictError):
        ai.uploads.cancel(upload_id)


def test_an_upload_expires_after_its_hour_and_is_forgotten_later(
    ai: openai.OpenAI, ledger: Ledger, settings: APISettings
) -> None:
    upload_id = begun(ai, 2)
    part = ai.uploads.parts.create(upload_id, data=b"ab").id
    ledger.run("UPDATE uploads SET expires_at = now() - interval '1 s'")

    with pytest.raises(openai.ConflictError) as refused:
        ai.uploads.complete(upload_id, part_ids=[part])
    reconcile(ledger)

    assert "expired" in str(refused.value)
    assert ledger.rows("SELECT status FROM uploads") == [("expired",)]
    assert stored(settings, "parts") == []
    ledger.run("UPDATE uploads SET created_at = now() - interval '3 days'")
    reconcile(ledger)
    assert ledger.rows("SELECT 1 FROM uploads") == []


def test_a_foreign_upload_looks_like_an_unknown_one(
    ai: openai.OpenAI, api: LiveAPI, stranger: httpx.Client, ledger: Ledger
) -> None:
    upload_id = begun(ai, 2)
    part = ai.uploads.parts.create(upload_id, data=b"ab").id

    for id in (upload_id, "upload_0mgcxk2l9h4t8v2c6y0q1w5r3"):
        answers = [
            stranger.post(f"/v1/uploads/{id}/parts", files={"data": ("a", b"x")}),
            stranger.post(f"/v1/uploads/{id}/complete", json={"part_ids": [part]}),
            stranger.post(f"/v1/uploads/{id}/cancel"),
        ]
        assert [answer.status_code for answer in answers] == [404, 404, 404]
        assert {answer.json()["error"]["code"] for answer in answers} == {"upload_not_found"}
    assert ledger.rows("SELECT status FROM uploads") == [("pending",)]
