"""A commit whose acknowledgement is lost has happened: its rows are there, and what they name must be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.jobs import inputs_key
from tests.conftest import LiveAPI
from tests.ledger import Ledger

REQUEST = {"custom_id": "a", "params": {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}}


@contextmanager
def lost(table: str) -> Iterator[None]:
    """The connection breaks as soon as a row of the table is committed."""

    def lose(session: Session) -> None:
        if session.execute(text(f"SELECT 1 FROM {table}")).scalar():
            session.connection().connection.driver_connection.commit()  # type: ignore[union-attr]
            raise OperationalError("COMMIT", None, Exception("the connection is gone"))

    event.listen(Session, "before_commit", lose)
    try:
        yield
    finally:
        event.remove(Session, "before_commit", lose)


def as_job(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/jobs", json={"task": "translation", "inputs": ["one"]})


def as_messages(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/messages/batches", json={"requests": [REQUEST]})


@pytest.mark.parametrize("submit", [as_job, as_messages])
def test_inputs_sent_along_are_kept_for_their_job(
    client: httpx.Client, api: LiveAPI, ledger: Ledger, submit: Callable[[httpx.Client], httpx.Response]
) -> None:
    # The key notes its use in a transaction of its own, which is not meant here.
    assert client.get("/v1/jobs").status_code == 200
    with lost("jobs"):
        assert submit(client).status_code == 503

    [job] = ledger.rows("SELECT id, inputs_key FROM jobs")
    assert job.inputs_key == inputs_key(job.id)
    with ledger.store.open(job.inputs_key) as inputs:
        assert inputs.read()


def test_an_uploaded_file_keeps_its_bytes(client: httpx.Client, ledger: Ledger) -> None:
    assert client.get("/v1/files").status_code == 200
    with lost("files"):
        sent = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.txt", b"one\n")})
        assert sent.status_code == 503

    [file] = client.get("/v1/files").json()["data"]
    assert client.get(f"/v1/files/{file['id']}/content").content == b"one\n"
