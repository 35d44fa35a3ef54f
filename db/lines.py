"""One result as a line of JSONL, CSV or TXT. Pure: what the results endpoint streams and the output files hold.

>>> row = ResultRow(0, 1, "a", 1, "succeeded", {"text": "Hi"}, None, {"text": "Hallo"})
>>> writer_for("txt", {}).line(row)
b'Hallo\\n'
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from db.formulas import Formulas, marked

LineFormat = Literal["jsonl", "csv", "txt"]
ADDED = ("output", "status", "error")
# In UTF-8, and as JSON may write them.
_BREAKS = [(chr(code).encode(), f"\\u{code:04x}".encode()) for code in (0x85, 0x2028, 0x2029)]


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One item of a job with its outcome; `status` is succeeded, failed, cancelled or expired.

    `seq` numbers results in the order they were recorded. Items that never ran have numbers after all of these.
    """

    index: int
    seq: int
    custom_id: str
    line: int
    status: str
    input: Mapping[str, Any]
    extra: Sequence[Any] | None = None
    output: Mapping[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    # Which part of the request is at fault, in the words of whoever sent it.
    error_param: str | None = None
    # In seconds since 1970; None for an item that never ran.
    finished_at: float | None = None
    # Of an output that was computed for an equal input: what that took. It is in no sum, and not in the two above.
    reused_input_tokens: int = 0
    reused_output_tokens: int = 0

    @property
    def text(self) -> str:
        """The output text; empty for an item that did not succeed."""
        return str((self.output or {}).get("text", ""))

    @property
    def notice(self) -> str:
        """What was cut of a succeeded item, for formats that show nothing but its text; else empty."""
        output = self.output or {}
        said = []
        if dropped := output.get("truncated_tokens"):
            said.append(f"input_truncated: the last {dropped:,} tokens of the input were left out")
        if output.get("finish_reason") == "length":
            said.append("output_cut: the output reached the token limit")
        return "; ".join(said)

    @property
    def error(self) -> dict[str, str | None] | None:
        if self.error_code is not None:
            error = {"code": self.error_code, "message": self.error_message}
            return error if self.error_param is None else error | {"param": self.error_param}
        if self.status in _UNFINISHED:
            return {"code": f"job_{self.status}", "message": _UNFINISHED[self.status]}
        return None


_UNFINISHED = {
    "cancelled": "the job was cancelled before this input was run",
    "expired": "the job's completion window ended before this input was run",
}


class LineWriter(Protocol):
    """Turns rows into bytes, in the order given. Make a new one for every file."""

    @property
    def content_type(self) -> str: ...

    @property
    def extension(self) -> str: ...

    def header(self) -> bytes: ...

    def line(self, row: ResultRow) -> bytes: ...


def writer_for(
    format: str,
    job_format: Mapping[str, Any],
    include_input: bool = False,
    *,
    safe: bool | None = None,
    aligned: bool = False,
) -> LineWriter:
    """The writer for `format` of results of a job whose input was `job_format` (the job row's JSON).

    `include_input` adds the input to JSONL lines; CSV has its columns anyway. `safe` puts a `'` before every CSV cell
    that a spreadsheet would take for a formula; None: as the job says, which it does unless told to keep them.
    `aligned` keeps TXT output line by line beside the TXT input it answers, where rows are missing; it needs all rows
    from the first, in input order.
    """
    if format == "jsonl":
        return JSONLines(include_input)
    if format == "csv":
        return CSVLines(job_format, safe)
    if format == "txt":
        return TextLines(aligned and job_format.get("type") == "txt")
    raise ValueError(f"no line format {format!r}")


class JSONLines:
    content_type, extension = "application/jsonl", "jsonl"

    def __init__(self, include_input: bool = False) -> None:
        self._include_input = include_input
        self._encode = msgspec.json.Encoder().encode

    def header(self) -> bytes:
        return b""

    def line(self, row: ResultRow) -> bytes:
        value: dict[str, Any] = {
            "index": row.index,
            "seq": row.seq,
            "custom_id": row.custom_id,
            "status": row.status,
            "output": row.output,
            "error": row.error,
            "usage": {"input_tokens": row.input_tokens, "output_tokens": row.output_tokens},
        }
        if self._include_input:
            value["input"] = row.input
        return json_line(self._encode(value))


class CSVLines:
    """RFC 4180, but with the input's own delimiter. The columns of a CSV input come first.

    Every cell, the header's and the input's too, is escaped by the job's format or by `safe`; see db.formulas.
    """

    def __init__(self, job_format: Mapping[str, Any], safe: bool | None = None) -> None:
        columns = job_format.get("columns") if job_format.get("type") == "csv" else None
        self._columns: list[str] | None = [str(column) for column in columns] if columns else None
        self._has_header = self._columns is None or bool(job_format.get("has_header", True))
        self._is_safe = Formulas.of(job_format) is not Formulas.KEEP if safe is None else safe
        delimiter = str(job_format.get("delimiter") or ",") if self._columns else ","
        is_tsv = delimiter == "\t"
        self.extension = "tsv" if is_tsv else "csv"
        self.content_type = f"text/{'tab-separated-values' if is_tsv else 'csv'}; charset=utf-8"
        self._buffer = io.StringIO()
        self._writer = csv.writer(self._buffer, delimiter=delimiter, lineterminator="\r\n")

    def header(self) -> bytes:
        """The column names; nothing if the input had none either."""
        if not self._has_header:
            return b""
        columns = self._columns if self._columns is not None else ["custom_id", "input"]
        return self._row([*columns, *added_columns(columns)])

    def line(self, row: ResultRow) -> bytes:
        error = row.error
        shown = f"{error['code']}: {error['message']}" if error else row.notice
        return self._row([*self._input_cells(row), row.text, row.status, shown])

    def _input_cells(self, row: ResultRow) -> list[str]:
        if self._columns is None:
            return [row.custom_id, input_text(row.input)]
        cells = [str(cell) for cell in row.extra or ()]
        # A row refused for its number of cells still gets as many as the header has.
        return (cells + [""] * len(self._columns))[: len(self._columns)]

    def _row(self, cells: Sequence[str]) -> bytes:
        self._buffer.seek(0)
        self._buffer.truncate()
        self._writer.writerow([marked(cell) for cell in cells] if self._is_safe else cells)
        return self._buffer.getvalue().encode()


class TextLines:
    """The output text alone, one line an item; line breaks inside it become spaces."""

    content_type, extension = "text/plain; charset=utf-8", "txt"

    def __init__(self, aligned: bool = False) -> None:
        self._aligned = aligned
        self._last = 0

    def header(self) -> bytes:
        return b""

    def line(self, row: ResultRow) -> bytes:
        missing = max(0, row.line - self._last - 1) if self._aligned else 0
        self._last = row.line
        return b"\n" * missing + on_one_line(row.text).encode() + b"\n"


def added_columns(columns: Sequence[str]) -> list[str]:
    """Names for our columns that the input's do not have.

    >>> added_columns(["id", "output"]), added_columns(["output", "bushel_output"])
    (['bushel_output', 'status', 'error'], ['bushel_output_2', 'status', 'error'])
    """
    added = []
    for name in ADDED:
        free, number = name, 1
        while free in columns:
            free = f"bushel_{name}" if number == 1 else f"bushel_{name}_{number}"
            number += 1
        added.append(free)
    return added


def json_line(encoded: bytes) -> bytes:
    """JSON as a line that is one line to everybody.

    JSON leaves U+0085, U+2028 and U+2029 as they are, and `str.splitlines`, by which the OpenAI client and many a
    script read lines, breaks there.

    >>> json_line(msgspec.json.encode("a\u2028b")).decode().splitlines()
    ['"a\\\\u2028b"']
    """
    for character, escaped in _BREAKS:
        encoded = encoded.replace(character, escaped)
    return encoded + b"\n"


def on_one_line(text: str) -> str:
    """
    >>> on_one_line("Hallo\\n\\nWelt\\r\\n")
    'Hallo Welt'
    """
    return " ".join(line for line in text.splitlines() if line)


def source_text(body: Mapping[str, Any]) -> str:
    """What an output was made from: the text, or the contents of the messages, one after the other."""
    if "messages" in body:
        return "\n".join(str(turn["content"]) for turn in body["messages"])
    return input_text(body)


def input_text(body: Mapping[str, Any]) -> str:
    """An input as one cell: its text, the raw line it was refused as, or its messages as JSON."""
    for name in ("text", "raw"):
        if name in body:
            return str(body[name])
    return msgspec.json.encode(body.get("messages", body)).decode()
