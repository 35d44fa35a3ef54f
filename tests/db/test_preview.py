"""What a dry run tells of how it understood its input."""

from dataclasses import replace
from typing import Any

from models.registry import Registry
from models.spec import Task
from tests.ledger import ECHO, Ledger, json_lines


def looked_at(ledger: Ledger, data: bytes, format: dict[str, Any], **fields: Any) -> Any:
    """The job after its dry run."""
    job_id = ledger.submit(data, format, dry_run=True, **fields)
    assert ledger.ingest(job_id)
    return ledger.job(job_id)


CSV = {"type": "csv", "text_column": "text", "delimiter": ",", "has_header": True}


def test_columns_and_the_first_five_items_are_told_as_they_were_read(ledger: Ledger) -> None:
    rows = "".join(f'{number},"line {number}, with a comma"\n' for number in range(8))

    found = looked_at(ledger, f"id,text\n{rows}".encode(), CSV | {"id_column": "id"}).estimate

    assert found["columns"] == ["id", "text"]
    assert [item["line"] for item in found["first_items"]] == [2, 3, 4, 5, 6]
    assert found["first_items"][0] == {
        "line": 2,
        "custom_id": "0",
        "input": {"text": "line 0, with a comma"},
        "reference": None,
        "cut": False,
    }


def test_bad_lines_are_problems_and_not_among_the_first_items(ledger: Ledger) -> None:
    data = json_lines("one", {"text": 1}, "three")

    job = looked_at(ledger, data, {"type": "jsonl"}, on_error="skip")

    assert [item["line"] for item in job.estimate["first_items"]] == [1, 3]
    assert (job.estimate["columns"], job.estimate["invalid_items"], job.errors["total"]) == (None, 1, 1)


def test_a_run_that_is_refused_says_all_the_same_what_it_read(ledger: Ledger) -> None:
    job = looked_at(ledger, b"text\ngood\n\xff\n", CSV)

    assert (job.status, job.errors["data"][0]["line"]) == ("failed", 3)
    assert (job.estimate["items"], job.estimate["invalid_items"]) == (1, 1)
    assert [item["input"] for item in job.estimate["first_items"]] == [{"text": "good"}]


def test_columns_are_told_where_the_one_with_the_text_is_not_among_them(ledger: Ledger) -> None:
    job = looked_at(ledger, b"nr,sentence\n1,hello\n", CSV)

    assert (job.status, job.errors["data"][0]["code"]) == ("failed", "missing_column")
    assert (job.estimate["columns"], job.estimate["first_items"]) == (["nr", "sentence"], [])
    assert "columns" not in job.format


def test_long_texts_many_columns_and_long_chats_are_cut(ledger: Ledger) -> None:
    header = ",".join(["text", *(f"column {number}" for number in range(99))])
    row = ",".join(["x" * 5000] + ["y"] * 99)
    turns = [{"role": "user", "content": "z" * 5000}] * 30

    wide = looked_at(ledger, f"{header}\n{row}\n".encode(), CSV).estimate
    ledger.registry = Registry([replace(ECHO, task=Task.GENERATION)])
    chat = looked_at(ledger, json_lines({"messages": turns}), {"type": "jsonl"}, task="generation").estimate

    assert len(wide["columns"]) == 50
    [item] = wide["first_items"]
    assert (len(item["input"]["text"]), item["cut"]) == (300, True)
    [item] = chat["first_items"]
    assert [len(turn["content"]) for turn in item["input"]["messages"]] == [300] * 10


def test_output_tokens_and_seconds_come_from_what_the_model_did_lately(ledger: Ledger) -> None:
    unmeasured = looked_at(ledger, b"one two three\n", {"type": "txt"}).estimate
    ledger.run("INSERT INTO model_rates (model, tokens_per_second, output_per_input) VALUES ('echo', 10, 2)")

    measured = looked_at(ledger, b"one two three\n", {"type": "txt"}).estimate

    tokens = measured["input_tokens"]
    assert (unmeasured["output_tokens"], unmeasured["seconds"]) == (None, None)
    assert (measured["output_tokens"], measured["seconds"]) == (2 * tokens, round(3 * tokens / 10, 1))


def test_a_job_that_is_no_dry_run_keeps_none_of_it(ledger: Ledger) -> None:
    job_id = ledger.started()

    assert ledger.job(job_id).estimate is None
