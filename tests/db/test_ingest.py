"""From bytes to items: every line has exactly one fate, and each is said where it belongs."""

import gzip
from typing import Any

import pytest

from db import jobs
from db.doorbell import FINALIZE, WORK
from tests.ledger import BOUNDS, Ledger, json_lines
from workers.ingest import MAX_LISTED_PROBLEMS, Ingest


def items(ledger: Ledger, job_id: str) -> list[Any]:
    return ledger.rows("SELECT * FROM items WHERE job_id = :job ORDER BY idx", job=job_id)


def problems(ledger: Ledger, job_id: str) -> list[tuple[int, str]]:
    return [(found["line"], found["code"]) for found in ledger.job(job_id).errors["data"]]


def test_a_good_file_starts_the_job_and_rings_for_its_model(ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\ntwo\nthree\n")

    assert ledger.ingest(job_id)

    assert ledger.job(job_id).status == "in_progress"
    assert ledger.counts(job_id) == {"queued": 3}
    assert [(item.idx, item.custom_id, item.line, item.input) for item in items(ledger, job_id)] == [
        (0, "line-1", 1, {"text": "one"}),
        (1, "line-2", 2, {"text": "two"}),
        (2, "line-3", 3, {"text": "three"}),
    ]
    assert ledger.bell.rings == [(WORK, "echo")]


def test_a_step_somebody_is_at_is_not_done_twice(ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\n")
    assert ledger.ingest(job_id)

    assert not ledger.ingest(job_id)
    assert not ledger.ingest("job_unknown")


def test_every_bad_line_is_reported_and_the_job_fails(ledger: Ledger) -> None:
    data = b'"good"\n{\n{"text": ""}\n{"custom_id": "x", "text": "a"}\n{"custom_id": "x", "text": "b"}\n'
    job_id = ledger.submit(data, {"type": "jsonl"})

    ledger.ingest(job_id)

    assert ledger.job(job_id).status == "failed"
    assert problems(ledger, job_id) == [
        (2, "invalid_json_line"),
        (3, "empty_text"),
        (5, "duplicate_custom_id"),
    ]
    assert ledger.job(job_id).total == 0 and items(ledger, job_id) == []


def test_skipped_lines_become_failed_items_in_their_place(ledger: Ledger) -> None:
    data = b'"good"\n{\n{"custom_id": "x", "text": "a"}\n{"custom_id": "x", "text": "b"}\n"last"\n'
    job_id = ledger.submit(data, {"type": "jsonl"}, on_error="skip")

    ledger.ingest(job_id)

    assert ledger.job(job_id).status == "in_progress"
    assert ledger.counts(job_id) == {"queued": 3, "failed": 2}
    found = ledger.rows("SELECT idx, seq, error_code, error_message FROM results ORDER BY idx")
    assert [(row.idx, row.seq, row.error_code) for row in found] == [
        (1, 1, "invalid_json_line"),
        (3, 2, "duplicate_custom_id"),
    ]
    assert "line 4" in found[1].error_message and "line 3" in found[1].error_message
    assert problems(ledger, job_id) == [(2, "invalid_json_line"), (4, "duplicate_custom_id")]


def test_a_job_of_bad_lines_only_goes_on_to_its_end(ledger: Ledger) -> None:
    job_id = ledger.submit(b"[]\n{}\n", {"type": "jsonl"}, on_error="skip")

    ledger.ingest(job_id)
    assert ledger.job(job_id).status == "finalizing"
    assert ledger.bell.rings == [(FINALIZE, job_id)]
    ledger.finalize(job_id)

    assert ledger.job(job_id).status == "completed"
    assert ledger.counts(job_id) == {"failed": 2}


def test_all_problems_are_counted_and_the_first_are_listed(ledger: Ledger) -> None:
    job_id = ledger.submit(b"{\n" * 250, {"type": "jsonl"})

    ledger.ingest(job_id)

    assert ledger.job(job_id).errors["total"] == 250
    assert problems(ledger, job_id) == [(line, "invalid_json_line") for line in range(1, MAX_LISTED_PROBLEMS + 1)]


@pytest.mark.parametrize(
    ("data", "format", "code"),
    [
        pytest.param(b"", {"type": "txt"}, "empty_file", id="empty"),
        pytest.param(b"\n\n", {"type": "jsonl"}, "empty_file", id="only blank lines"),
        pytest.param(b"id,text\n", {"type": "csv"}, "empty_file", id="only a header"),
        pytest.param(b"id,body\n1,a\n", {"type": "csv"}, "missing_column", id="column missing"),
        pytest.param(gzip.compress(b"a line\n" * 9999)[:-20], {"type": "txt"}, "invalid_gzip", id="gzip cut off"),
    ],
)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_file_that_cannot_be_read_fails_the_job(
    ledger: Ledger, data: bytes, format: dict[str, str], code: str, on_error: str
) -> None:
    job_id = ledger.submit(data, format, on_error=on_error)

    ledger.ingest(job_id)

    assert ledger.job(job_id).status == "failed"
    assert [found["code"] for found in ledger.job(job_id).errors["data"]] == [code]
    assert items(ledger, job_id) == []


def test_a_model_that_left_the_registry_fails_the_job(ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\n", model="gone")

    ledger.ingest(job_id)

    assert ledger.job(job_id).status == "failed"
    assert [found["code"] for found in ledger.job(job_id).errors["data"]] == ["model_not_found"]


def test_a_file_whose_bytes_are_gone_fails_the_job(ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\n")
    [row] = ledger.rows("SELECT store_key FROM files")
    ledger.store.delete(row.store_key)

    ledger.ingest(job_id)

    assert [found["code"] for found in ledger.job(job_id).errors["data"]] == ["file_not_found"]


def test_a_bad_parameter_of_a_line_is_named(ledger: Ledger) -> None:
    data = json_lines("fine", {"text": "x", "params": {"num_beams": 99}}, {"text": "y", "params": {"beams": 1}})
    job_id = ledger.submit(data, {"type": "jsonl"})

    ledger.ingest(job_id)

    found = ledger.job(job_id).errors["data"]
    assert [(problem["line"], problem["param"]) for problem in found] == [(2, "num_beams"), (3, "beams")]


def test_items_of_one_chunk_share_their_parameters(ledger: Ledger) -> None:
    data = json_lines(*({"text": f"t{n}", "params": {"num_beams": n % 3 + 1}} for n in range(30)))
    job_id = ledger.submit(data, {"type": "jsonl"}, params={"max_new_tokens": 7})

    ledger.ingest(job_id)

    found = ledger.rows("SELECT params, items FROM chunks ORDER BY params->>'num_beams'")
    assert [(row.params["num_beams"], row.params["max_new_tokens"], row.items) for row in found] == [
        (1, 7, 10),
        (2, 7, 10),
        (3, 7, 10),
    ]


def test_chunks_hold_items_of_similar_length(ledger: Ledger) -> None:
    data = b"".join(b"word " * (n % 40 + 1) + b"%d\n" % n for n in range(2_000))
    job_id = ledger.submit(data)

    ledger.ingest(job_id)

    found = ledger.rows("""
        SELECT min(input_tokens) AS low, max(input_tokens) AS high, count(*) AS items FROM items
        GROUP BY chunk_id ORDER BY high DESC
    """)
    assert len(found) > 5
    assert sum(row.high * row.items for row in found) < 1.15 * sum(
        row.total for row in ledger.rows("SELECT sum(input_tokens) AS total FROM items")
    )


def test_equal_inputs_are_computed_once_unless_they_are_sampled(ledger: Ledger) -> None:
    greedy = ledger.submit(b"same\nother\nsame\nsame\n")
    sampled = ledger.submit(b"same\nother\nsame\nsame\n", params={"temperature": 0.7})

    ledger.ingest(greedy)
    ledger.ingest(sampled)

    assert [item.same_as for item in items(ledger, greedy)] == [None, None, 0, 0]
    assert [item.same_as for item in items(ledger, sampled)] == [None] * 4
    assert ledger.counts(greedy) == ledger.counts(sampled) == {"queued": 4}


def test_blank_txt_lines_succeed_as_blank(ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\n\nthree\n")

    ledger.ingest(job_id)

    assert ledger.counts(job_id) == {"queued": 2, "succeeded": 1}


def test_csv_rows_keep_their_cells_and_the_job_its_columns(ledger: Ledger) -> None:
    job_id = ledger.submit(b"id,text,note\n1,hello,n\n", {"type": "csv", "id_column": "id"})

    ledger.ingest(job_id)

    assert ledger.job(job_id).format["columns"] == ["id", "text", "note"]
    assert [(item.custom_id, item.extra) for item in items(ledger, job_id)] == [("1", ["1", "hello", "n"])]


@pytest.fixture
def small_windows(ledger: Ledger) -> None:
    """Windows of three lines, so that what spans windows can be seen on a few lines."""
    ledger.window_items = 3


@pytest.mark.usefixtures("small_windows")
def test_ids_are_unique_over_all_windows(ledger: Ledger) -> None:
    data = json_lines(*({"custom_id": f"id-{n % 7}", "text": f"t{n}"} for n in range(10)))
    job_id = ledger.submit(data, {"type": "jsonl"}, on_error="skip")

    ledger.ingest(job_id)

    assert problems(ledger, job_id) == [(line, "duplicate_custom_id") for line in (8, 9, 10)]
    assert [item.idx for item in items(ledger, job_id)] == list(range(10))


@pytest.mark.usefixtures("small_windows")
def test_an_id_of_the_users_may_not_be_one_of_ours(ledger: Ledger) -> None:
    data = json_lines({"custom_id": "line-5", "text": "a"}, "b", "c", "d", "e", "f")
    job_id = ledger.submit(data, {"type": "jsonl"})

    ledger.ingest(job_id)

    assert problems(ledger, job_id) == [(5, "duplicate_custom_id")]


@pytest.mark.usefixtures("small_windows")
def test_problems_before_an_unreadable_rest_are_reported_too(ledger: Ledger) -> None:
    data = b'id,text\n1,\n2,b\n3,"never closed\n'
    job_id = ledger.submit(data, {"type": "csv"})

    ledger.ingest(job_id)

    assert problems(ledger, job_id) == [(2, "empty_text"), (4, "invalid_csv")]


@pytest.mark.usefixtures("small_windows")
def test_an_ingest_begun_by_a_dead_process_starts_over(ledger: Ledger) -> None:
    job_id = ledger.submit(b"1\n2\n3\n4\n5\n")
    ledger.ingest(job_id)
    # As a process leaves it that died after the last window and before the verdict.
    ledger.run("""
        UPDATE jobs SET status = 'validating', in_progress_at = NULL, step_owner = 'dead',
            step_expires_at = now() - interval '1 s'
    """)

    assert ledger.ingest(job_id, "second")

    assert ledger.counts(job_id) == {"queued": 5}
    assert [item.idx for item in items(ledger, job_id)] == list(range(5))


@pytest.mark.usefixtures("small_windows")
def test_a_cancel_during_ingest_stops_it(ledger: Ledger) -> None:
    job_id = ledger.submit(b"1\n2\n3\n4\n5\n6\n7\n")

    class CancellingAfterOneWindow:
        calls = 0

        def __call__(self) -> bool:
            self.calls += 1
            if self.calls == 1:
                with ledger.sessions.begin() as session:
                    jobs.cancel(session, ledger.tenant, job_id)
            return False

    stop = CancellingAfterOneWindow()
    step = Ingest(ledger.sessions, ledger.store, lambda: ledger.registry, ledger.bell, BOUNDS, "me", stop, 3)
    assert step.run(job_id)
    ledger.finalize(job_id)

    job = ledger.job(job_id)
    assert (job.status, job.total, job.cancelled) == ("cancelled", 3, 3)


@pytest.mark.usefixtures("small_windows")
def test_a_stopping_process_leaves_the_step_to_another(ledger: Ledger) -> None:
    job_id = ledger.submit(b"1\n2\n3\n4\n5\n6\n7\n")
    stopping = Ingest(
        ledger.sessions, ledger.store, lambda: ledger.registry, ledger.bell, BOUNDS, "me", lambda: True, 3
    )

    assert not stopping.run(job_id)
    assert ledger.ingest(job_id, "another")

    assert ledger.counts(job_id) == {"queued": 7}


def test_a_dry_run_leaves_an_estimate_and_no_items(ledger: Ledger) -> None:
    ledger.run("INSERT INTO model_rates (model, tokens_per_second, output_per_input) VALUES ('echo', 10, 1.5)")
    job_id = ledger.submit(b"some words here\nand some more\n", dry_run=True)

    ledger.ingest(job_id)
    ledger.finalize(job_id)

    job = ledger.job(job_id)
    assert job.status == "completed" and job.total == 0
    assert job.estimate["items"] == 2
    assert job.estimate["seconds"] == pytest.approx(job.estimate["input_tokens"] * 2.5 / 10)
    assert job.output_file_id is None and job.error_file_id is None
