"""What the fault suite would overlook, it tells."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import httpx
import psycopg
import pytest
from werkzeug import Request, Response
from werkzeug.serving import make_server

from chaos.arena import Arena, lines, registry
from chaos.client import Client
from chaos.journal import Journal
from chaos.leaks import leaks
from chaos.recovery import Recoveries
from chaos.report import Row
from chaos.stack import Stack


@contextmanager
def facing(folder: Path, statuses: list[int]) -> Iterator[Arena]:
    """An arena whose service is not there; in its place is one that answers with these, one after the other."""

    @Request.application
    def answer(request: Request) -> Response:
        return Response("{}", statuses.pop(0))

    stack = Stack(folder, registry(folder), ["echo"])
    journal = Journal(folder / "promises.jsonl")
    server = make_server("127.0.0.1", 0, answer)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as stack.http:
            yield Arena(stack, Client(stack, journal), journal, Recoveries(stack), Row("of a test"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("statuses", "problems"),
    [
        pytest.param([500, 503, 500, 200], ["2 answers were internal errors (500)"], id="internal errors"),
        pytest.param([503, 429, 200], [], id="excuses"),
    ],
)
def test_an_internal_error_is_tried_again_and_is_a_problem(
    tmp_path: Path, statuses: list[int], problems: list[str]
) -> None:
    with facing(tmp_path, statuses) as here:
        assert here.client.asked("GET", "/").status_code == 200

        here.blame(here.client)

        assert here.row.problems == problems


def test_crashes_that_cannot_be_counted_are_not_none(tmp_path: Path) -> None:
    with facing(tmp_path, []) as here, pytest.raises(psycopg.Error):
        here.crashes()


def test_a_text_or_a_secret_in_a_log_is_told_without_itself(tmp_path: Path) -> None:
    stack = Stack(tmp_path, registry(tmp_path), ["echo"])
    (stack.data / "client.json").write_text('{"api_key": "bsh_name_thesecretofit"}')
    (stack.where.logs / "api.log").write_text("a request with bsh_name of nobody\n")
    (stack.folder / "up.log").write_text("ready\nAPI key: bsh_name_thesecretofit\n")

    assert leaks(stack) == []

    (stack.where.logs / "postgres.log.1").write_text(f"CONTEXT: COPY items, line 7: {lines(1)[0]}\n")
    (stack.folder / "worker.log").write_text(f"{stack.where.valkey.url} is away, as is bsh_name_thesecretofit\n")
    found = leaks(stack)

    assert sorted(leak.partition(":")[0] for leak in found) == [
        "data/logs/postgres.log.1 has a text",
        "worker.log has the broker's password",
        "worker.log has the key",
    ]
    assert not any(secret in leak for leak in found for secret in stack.secrets().values())
