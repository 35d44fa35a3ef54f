"""Inputs and moments chosen to do harm: what they must not do to the ledger."""

import gzip
import io
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db import jobs, results, steps
from db.copying import copy_into
from db.doorbell import IO_QUEUE
from db.errors import NotFound
from db.inputs import MAX_LISTED, Input, Problem
from db.recording import NewResult, record
from db.states import Outcome
from db.store import Writer
from dialects.reading import reader
from tests.ledger import BOUNDS, Ledger, json_lines
from workers import ingest as ingest_module
from workers.config import WorkerSettings
from workers.formats import MAX_LINE_BYTES, Format, Line, Unreadable, read
from workers.process import WorkerProcess

JSONL = {"type": "jsonl"}
CSV = {"type": "csv"}
OURS = "line-2#duplicate-1"


@pytest.mark.parametrize("on_error", ["fail", "skip"])
@pytest.mark.parametrize(
    ("data", "format"),
    [
        pytest.param(b"fine\na\0b\n", {"type": "txt"}, id="NUL in txt"),
        pytest.param(b'"fine"\n"a\0b"\n', JSONL, id="NUL in jsonl"),
        pytest.param(b'"fine"\n{"a\\u0000b": 1}\n', JSONL, id="NUL in a key"),
        pytest.param(b'{"b": "x"}\n{"\\u0000": 1}\n', {"type": "jsonl", "text_column": "b"}, id="NUL in a mapped key"),
        pytest.param(b'{"text": "x", "params": {"a\\u0000b": 1}}\n', JSONL, id="NUL in a parameter's name"),
        pytest.param(b'{"text": "x", "params": {"target_lang": "\\u0000"}}\n', JSONL, id="NUL in a parameter"),
        pytest.param(b'{"text": "x", "params": {"stop": ["a\\u0000b"]}}\n', JSONL, id="NUL in a stop string"),
        pytest.param(b"text,b\nfine,1\na\0b,2\n", CSV, id="NUL in csv"),
        pytest.param(b"text,b\0\nfine,1\na\xff,2\n", CSV, id="NUL in a csv header"),
        pytest.param(b"text,b\xff\nfine,1\na\xff,2\n", CSV, id="csv header not utf-8"),
        pytest.param(b"txet,b\0\xff\nfine,1\n", CSV, id="csv header without the column"),
        pytest.param(json_lines(*[{"custom_id": OURS, "text": "x"}] * 2), JSONL, id="an id like ours for duplicates"),
    ],
)
def test_whatever_is_in_a_file_its_job_is_judged(
    ledger: Ledger, data: bytes, format: dict[str, str], on_error: str
) -> None:
    """What PostgreSQL refuses once it refuses for ever, and the job would be validated again and again."""
    job_id = ledger.submit(data, format, on_error=on_error)

    ledger.ingest(job_id)

    job = ledger.job(job_id)
    assert job.status in ("in_progress", "finalizing", "failed")
    assert job.errors["total"] >= 1


def test_an_ingest_that_fails_by_itself_fails_its_job_in_the_end(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ledger.submit(b"one\n")

    def mistake(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ingest_module, "read", mistake)
    for _ in range(ingest_module.MAX_ATTEMPTS - 1):
        with pytest.raises(ZeroDivisionError):
            ledger.ingest(job_id)
        ledger.run("UPDATE jobs SET step_expires_at = now() - interval '1 s'")
    ledger.ingest(job_id)

    assert ledger.job(job_id).status == "failed"
    assert [found["code"] for found in ledger.job(job_id).errors["data"]] == ["internal_error"]


@pytest.mark.parametrize("quote", [b"", b'"'], ids=["txt", "jsonl"])
def test_a_line_one_byte_over_the_limit_does_not_swallow_the_next(ledger: Ledger, quote: bytes) -> None:
    long = quote + b"a" * (MAX_LINE_BYTES - 2 * len(quote)) + quote
    data = b"\n".join([long, quote + b"next" + quote, quote + b"last" + quote])
    job_id = ledger.submit(data, {"type": "jsonl" if quote else "txt"}, on_error="skip")

    ledger.ingest(job_id)

    found = ledger.rows("SELECT line, input->>'text' AS text FROM items WHERE idx > 0 ORDER BY idx")
    assert [(row.line, row.text) for row in found] == [(2, "next"), (3, "last")]


def test_gzip_members_are_read_as_one_file(ledger: Ledger) -> None:
    job_id = ledger.submit(gzip.compress(b"one\ntw") + gzip.compress(b"o\nthree\n"))

    ledger.ingest(job_id)

    found = ledger.rows("SELECT input->>'text' AS text FROM items ORDER BY idx")
    assert [row.text for row in found] == ["one", "two", "three"]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(Line(1, problems=(Problem("invalid_messages", "m", "h"),) * 20), id="problems"),
        pytest.param(Line(1, Input({"text": "x"}, params={"stop": ["a" * 10_000]})), id="parameters"),
        pytest.param(Line(1, Input({"text": "x"}), extra=[""] * 1_000), id="empty cells"),
    ],
)
def test_a_window_is_small_whatever_its_lines_are_made_of(line: Line) -> None:
    windows = list(ingest_module._windows(iter([line] * 10_000)))

    assert max(map(len, windows)) <= 1_700


def test_a_line_with_a_million_faults_lists_a_few() -> None:
    fields = b"{" + b",".join(b'"%d":1' % n for n in range(20_000)) + b"}\n"
    messages = b'{"messages": [' + b",".join([b"0"] * 1_000) + b"]}\n"

    found = list(
        read(io.BytesIO(fields + messages), Format("jsonl"), reader("bushel", None, "generation"), BOUNDS).lines
    )

    assert [len(line.problems) for line in found] == [MAX_LISTED + 2, MAX_LISTED + 1]
    assert "19,980 more unknown fields" in [problem.message for problem in found[0].problems]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b'text\n"' + b"a\n" * 9_000_000, "line_too_long", id="a cell over many lines"),
        pytest.param(b'text,b\nx,"\n' + b'","\n' * 5_000_000, "line_too_long", id="many cells over many lines"),
        pytest.param(b"text" + b"," * 15_000 + b"\n", "too_many_columns", id="a wide header"),
        pytest.param(b"text," + b"a" * 300_000 + b"\n", "too_many_columns", id="a long header"),
    ],
)
def test_a_csv_row_is_bounded(data: bytes, code: str) -> None:
    with pytest.raises(Unreadable) as caught:
        list(read(io.BytesIO(data), Format("csv"), reader("bushel", None, "translation"), BOUNDS).lines)

    assert caught.value.problem.code == code


def test_an_output_that_postgresql_refuses_is_recorded_without_what_it_refuses(ledger: Ledger) -> None:
    job_id = ledger.started(2)
    claim = ledger.claim(job_id)
    assert claim
    results = [
        NewResult(0, Outcome.SUCCEEDED, {"text": "a\0b\ud800"}),
        NewResult(1, Outcome.FAILED, error_code="invalid_input", error_message="\0\ud800"),
    ]

    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, results)

    found = ledger.rows("SELECT output->>'text' AS text, error_message FROM results ORDER BY idx")
    assert [tuple(row) for row in found] == [("a\ufffdb?", None), (None, "\ufffd?")]


def test_a_connection_that_ends_in_a_copy_is_the_error_it_is_in_any_statement(ledger: Ledger) -> None:
    """Else the thread that records would die of it, and the process with it, where it should try again."""

    def copy_on_a_cut_connection() -> None:
        with ledger.sessions.begin() as session:
            backend = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with copy_into(session, "results", "job_id") as copy:
                ledger.run("SELECT pg_terminate_backend(:pid)", pid=backend)
                for _ in range(1_000_000):
                    copy.write_row(("job",))

    with pytest.raises(OperationalError):
        copy_on_a_cut_connection()


def settle(ledger: Ledger, job_id: str, fail: int = 0) -> None:
    while claim := ledger.claim(job_id):
        with ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim, fail))


def test_a_finalization_that_fails_at_its_second_file_leaves_no_first_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ledger.started(4)
    settle(ledger, job_id, fail=1)
    before = set(ledger.folder.rglob("*"))
    write = Writer.write

    def fails_on_errors(writer: Writer, data: bytes) -> None:
        if b"engine_error" in data:
            raise OSError("the disk is gone")
        write(writer, data)

    monkeypatch.setattr(Writer, "write", fails_on_errors)
    with pytest.raises(OSError, match="disk"):
        ledger.finalize(job_id)

    assert {path for path in set(ledger.folder.rglob("*")) - before if path.is_file()} == set()


def test_a_commit_whose_answer_is_lost_does_not_cost_the_output(ledger: Ledger) -> None:
    """It happened: the rows are there, and what they name must be."""
    job_id = ledger.started(2)
    settle(ledger, job_id)

    def lose_the_answer(session: Session) -> None:
        if session.execute(text("SELECT 1 FROM jobs WHERE status = 'completed'")).scalar():
            session.connection().connection.driver_connection.commit()  # type: ignore[union-attr]
            raise psycopg.OperationalError("the connection is gone")

    event.listen(Session, "before_commit", lose_the_answer)
    try:
        with pytest.raises(psycopg.OperationalError):
            ledger.finalize(job_id)
    finally:
        event.remove(Session, "before_commit", lose_the_answer)

    job = ledger.job(job_id)
    assert job.status == "completed"
    assert ledger.read(job.output_file_id) == b"out\nout\n"


def test_a_download_whose_job_is_deleted_under_it_does_not_pass_for_whole(ledger: Ledger) -> None:
    job_id = ledger.started(300)
    settle(ledger, job_id)
    ledger.finalize(job_id)
    rows = results.rows(ledger.sessions, job_id)
    assert next(rows).index == 0

    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, job_id)

    with pytest.raises(NotFound):
        list(rows)


def test_a_job_that_cannot_be_ended_holds_up_none_behind_it(
    ledger: Ledger, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ledger.started(1), ledger.started(1)
    settle(ledger, first)
    settle(ledger, second)
    settings = WorkerSettings(database_url=database_url, broker_url="redis://127.0.0.1:1/0", data=tmp_path)
    process = WorkerProcess(settings, ledger.bell, [IO_QUEUE])
    really, ended = process.finalize.run, []

    def run(job_id: str) -> bool:
        if job_id == first:
            raise OSError("its disk is gone")
        ended.append(job_id)
        return really(job_id)

    monkeypatch.setattr(process.finalize, "run", run)
    process._run_due_steps()
    process._engine.dispose()

    assert ended == [second] and ledger.job(second).status == "completed"


def test_jobs_that_keep_failing_are_tried_after_the_others(ledger: Ledger) -> None:
    failing = [ledger.submit(b"x") for _ in range(20)]
    ledger.run("UPDATE jobs SET step_attempt = 10")
    fresh = ledger.submit(b"x")

    with ledger.sessions() as session:
        due = steps.due(session, "ingest")

    assert due == [fresh, *failing[:19]]


def test_a_small_archive_of_nonsense_does_not_become_millions_of_rows(ledger: Ledger) -> None:
    """With `skip`, every bad line is an item that failed; a hundred kilobytes packed can be ten million of them."""
    packed = gzip.compress(b"a\n" * 2_000_000)
    job_id = ledger.submit(packed, JSONL, on_error="skip")

    ledger.ingest(job_id)

    job = ledger.job(job_id)
    assert len(packed) < 5_000 and job.status == "failed"
    assert job.errors["data"][-1]["code"] == "mostly_invalid"
    assert "check the format" in job.errors["data"][-1]["hint"]
    assert ledger.rows("SELECT count(*) AS n FROM items")[0].n < 2 * ingest_module.MAX_INVALID


def test_many_bad_lines_among_more_good_ones_are_skipped(ledger: Ledger) -> None:
    lines = b'"good %d"\n"good too %d"\nbad\n'
    data = b"".join(lines % (n, n) for n in range(ingest_module.MAX_INVALID + 1))
    job_id = ledger.submit(data, JSONL, on_error="skip")

    ledger.ingest(job_id)

    assert ledger.job(job_id).status == "in_progress"
    assert ledger.counts(job_id)["failed"] == ingest_module.MAX_INVALID + 1
