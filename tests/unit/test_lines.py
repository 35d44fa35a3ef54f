"""One result as a line of each format."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.lines import (
    CSVLines,
    JSONLines,
    LineWriter,
    ResultRow,
    TextLines,
    added_columns,
    json_line,
    on_one_line,
    writer_for,
)

ROW = ResultRow(
    index=4,
    seq=9,
    custom_id="a",
    line=5,
    status="succeeded",
    input={"text": "Good night"},
    output={"text": "Gute Nacht", "finish_reason": "stop", "score": -0.5},
    input_tokens=3,
    output_tokens=2,
)
FAILED = replace(ROW, status="failed", output=None, error_code="too_long", error_message="it has 900 tokens")
CANCELLED = replace(ROW, status="cancelled", output=None)
CSV_JOB = {"type": "csv", "columns": ["id", "text"], "delimiter": ",", "has_header": True}


def with_text(text: str) -> ResultRow:
    return replace(ROW, output={"text": text})


def cells(writer: LineWriter, *rows: ResultRow, delimiter: str = ",") -> list[list[str]]:
    content = writer.header() + b"".join(writer.line(row) for row in rows)
    return list(csv.reader(io.StringIO(content.decode(), newline=""), delimiter=delimiter, strict=True))


@given(st.text())
def test_json_is_one_line_to_everybody_and_says_the_same(text: str) -> None:
    line = json_line(msgspec.json.encode(text))

    assert line.decode().splitlines(keepends=True) == [line.decode()]
    assert json.loads(line) == text


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(
            ROW,
            {
                "status": "succeeded",
                "output": {"text": "Gute Nacht", "finish_reason": "stop", "score": -0.5},
                "error": None,
            },
            id="succeeded",
        ),
        pytest.param(
            FAILED,
            {"status": "failed", "output": None, "error": {"code": "too_long", "message": "it has 900 tokens"}},
            id="failed",
        ),
        pytest.param(
            CANCELLED,
            {
                "status": "cancelled",
                "output": None,
                "error": {"code": "job_cancelled", "message": "the job was cancelled before this input was run"},
            },
            id="cancelled",
        ),
    ],
)
def test_a_jsonl_line(row: ResultRow, expected: dict[str, Any]) -> None:
    line = JSONLines().line(row)

    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    common = {"index": 4, "seq": 9, "custom_id": "a", "usage": {"input_tokens": 3, "output_tokens": 2}}
    assert json.loads(line) == common | expected
    assert list(json.loads(line)) == ["index", "seq", "custom_id", "status", "output", "error", "usage"]


def test_a_jsonl_line_with_its_input() -> None:
    assert json.loads(writer_for("jsonl", {}, include_input=True).line(ROW))["input"] == {"text": "Good night"}


@pytest.mark.parametrize("text", ["1+1=2", 'a "quoted", text', "two\nlines\r\n", "\u2028 ü 😀", "-1", "'"])
def test_text_survives_jsonl_and_csv_unaltered(text: str) -> None:
    assert json.loads(JSONLines().line(with_text(text)))["output"]["text"] == text
    assert cells(CSVLines({}), with_text(text))[1][2] == text


def test_csv_of_a_job_that_was_no_csv() -> None:
    assert cells(writer_for("csv", {"type": "jsonl"}), ROW, FAILED) == [
        ["custom_id", "input", "output", "status", "error"],
        ["a", "Good night", "Gute Nacht", "succeeded", ""],
        ["a", "Good night", "", "failed", "too_long: it has 900 tokens"],
    ]


@pytest.mark.parametrize(
    ("body", "cell"),
    [
        ({"text": "a"}, "a"),
        ({"raw": '{"txt": 1}'}, '{"txt": 1}'),
        ({"messages": [{"role": "user", "content": "Hi"}]}, '[{"role":"user","content":"Hi"}]'),
    ],
)
def test_an_input_of_any_kind_fits_a_cell(body: dict[str, Any], cell: str) -> None:
    assert cells(CSVLines({}), replace(ROW, input=body))[1][1] == cell


def test_csv_keeps_the_columns_of_its_input() -> None:
    row = replace(ROW, extra=["7", "Good night"])

    assert cells(writer_for("csv", CSV_JOB), row) == [
        ["id", "text", "output", "status", "error"],
        ["7", "Good night", "Gute Nacht", "succeeded", ""],
    ]


@pytest.mark.parametrize(
    ("extra", "kept"),
    [(None, ["", ""]), (["7"], ["7", ""]), (["7", "a", "b"], ["7", "a"])],
    ids=["none", "too few", "too many"],
)
def test_a_refused_row_keeps_the_shape_of_the_table(extra: list[str] | None, kept: list[str]) -> None:
    assert cells(CSVLines(CSV_JOB), replace(FAILED, extra=extra))[1][:2] == kept


def test_csv_without_a_header_comes_back_without_one_and_with_its_delimiter() -> None:
    job = {**CSV_JOB, "has_header": False, "delimiter": "\t", "columns": ["column_1", "column_2"]}
    writer = writer_for("csv", job)

    assert cells(writer, replace(ROW, extra=["7", "a\tb"]), delimiter="\t") == [
        ["7", "a\tb", "Gute Nacht", "succeeded", ""]
    ]
    assert (writer.extension, writer.content_type) == ("tsv", "text/tab-separated-values; charset=utf-8")


@pytest.mark.parametrize(
    ("columns", "added"),
    [
        (["id"], ["output", "status", "error"]),
        (["output", "error"], ["bushel_output", "status", "bushel_error"]),
        (["output", "bushel_output", "bushel_output_2"], ["bushel_output_3", "status", "error"]),
    ],
)
def test_added_columns_never_clash(columns: list[str], added: list[str]) -> None:
    assert added_columns(columns) == added


FORMULAS = ["=HYPERLINK(1)", "+1+1", "-a", "@a", "\ta", "\ra", "\n=1", "\0=1", "\uff1d1", "- Nein.", "'=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_defused_in_every_cell_of_csv_and_nowhere_else(text: str) -> None:
    job = {**CSV_JOB, "columns": ["id", text]}
    row = replace(with_text(text), extra=[text, "x"], custom_id=text, input={"text": text})

    header, line = cells(writer_for("csv", job), row)

    assert (header[1], line) == (f"'{text}", [f"'{text}", "x", f"'{text}", "succeeded", ""])
    assert cells(writer_for("csv", {}), row)[1][:3] == [f"'{text}"] * 3
    assert json.loads(writer_for("jsonl", {}).line(row))["output"]["text"] == text
    assert cells(writer_for("csv", CSV_JOB), replace(FAILED, error_code=text))[1][4].startswith(f"'{text}: ")


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_kept_where_the_job_or_the_reader_asks_for_it(text: str) -> None:
    row = replace(with_text(text), extra=[text, "x"])
    kept, changed = [text, "x", text, "succeeded", ""], [f"'{text}", "x", f"'{text}", "succeeded", ""]
    keeping = {**CSV_JOB, "csv_formulas": "keep"}

    assert cells(writer_for("csv", keeping), row)[1] == kept
    assert cells(writer_for("csv", keeping, safe=True), row)[1] == changed
    assert cells(writer_for("csv", CSV_JOB, safe=False), row)[1] == kept


@pytest.mark.parametrize("number", ["-1", "+2.5", "-1,000.00", "-3e-7", "+50%"])
def test_a_number_is_no_formula(number: str) -> None:
    assert cells(writer_for("csv", CSV_JOB), replace(with_text(number), extra=[number, "x"]))[1][:3] == [
        number,
        "x",
        number,
    ]


def test_rows_end_as_rfc_4180_says() -> None:
    assert CSVLines({}).line(with_text("a\nb")) == b'a,Good night,"a\nb",succeeded,\r\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Hallo", "Hallo"),
        ("Hallo\nWelt", "Hallo Welt"),
        ("Hallo\r\n\r\nWelt\n", "Hallo Welt"),
        ("a\u2028b\x85c\x0bd", "a b c d"),
        ("  two  spaces ", "  two  spaces "),
        ("", ""),
    ],
)
def test_txt_is_one_line_an_item(text: str, line: str) -> None:
    assert on_one_line(text) == line
    assert TextLines().line(with_text(text)) == f"{line}\n".encode()


def test_a_failed_item_is_an_empty_line_of_txt() -> None:
    assert TextLines().line(FAILED) == b"\n"


def test_aligned_txt_leaves_room_for_lines_that_are_not_there() -> None:
    aligned, loose = (writer_for("txt", {"type": "txt"}, aligned=aligned) for aligned in (True, False))
    rows = [replace(with_text("two"), line=2), replace(with_text("five"), line=5)]

    assert b"".join(map(aligned.line, rows)) == b"\ntwo\n\n\nfive\n"
    assert b"".join(map(loose.line, rows)) == b"two\nfive\n"


def test_lines_of_other_inputs_are_not_what_txt_aligns_to() -> None:
    assert writer_for("txt", {"type": "csv"}, aligned=True).line(replace(ROW, line=3)) == b"Gute Nacht\n"


def test_an_unknown_format_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="xml"):
        writer_for("xml", {})


def test_an_error_names_its_parameter_only_if_there_is_one() -> None:
    assert FAILED.error == {"code": "too_long", "message": "it has 900 tokens"}
    assert replace(FAILED, error_param="text").error == {
        "code": "too_long",
        "message": "it has 900 tokens",
        "param": "text",
    }
