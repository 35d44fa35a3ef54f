"""Job files line by line: JSONL, CSV or TXT bytes in, checked inputs and located problems out, in bounded memory.

Nothing here stops at the first error: a bad line is reported with its line, its column and a hint,
and reading goes on. Only what makes the rest unreadable (a truncated gzip, text that is not UTF-8
at all, a quote that never closes) ends it, with one problem marked `fatal`.
"""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

import msgspec

from db.formulas import Formulas, unmarked
from db.inputs import (
    Input,
    Problem,
    Refused,
    check_custom_id,
    check_length,
    check_references,
    check_text,
    storable,
)

# What a decoded JSON line is in the job's dialect; raises Refused if it is nothing.
Check = Callable[[object], Input]

MAX_LINE_BYTES = 16 * 2**20
# The header is kept in the job's row, which every look at the job reads.
MAX_COLUMNS, MAX_HEADER_CHARS = 10_000, 200_000
_EXCERPT = 500
# What people upload by mistake, by its first bytes. Gzip is not among them: it is unpacked.
_BINARY = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a zip archive or an office document",
    b"\xd0\xcf\x11\xe0": "an office document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
}
csv.field_size_limit(MAX_LINE_BYTES)


@dataclass(frozen=True, slots=True)
class Format:
    """How to read a file. Columns are CSV headers, or the keys of a JSONL object that is not in our own shape."""

    type: str
    text_column: str | None = None
    id_column: str | None = None
    delimiter: str = ","
    has_header: bool = True
    reference_column: str | None = None
    csv_formulas: str | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Format":
        """From a job row's JSON, where other keys (the header found at ingest) may stand beside ours."""
        names = ("type", "text_column", "id_column", "delimiter", "has_header", "reference_column", "csv_formulas")
        return cls(**{name: stored[name] for name in names if stored.get(name) is not None})


class Line(msgspec.Struct, frozen=True):
    """One input of the file: either `input`, or the `problems` that refuse it (then `raw` shows what stood there).

    `blank` lines of a TXT file are kept in their place: they are answered by an empty line. Blank
    lines of the other formats come as lines with nothing in them, for the reader to see time pass.
    """

    number: int
    input: Input | None = None
    problems: tuple[Problem, ...] = ()
    raw: str = ""
    extra: list[str] | None = None
    custom_id: str | None = None
    blank: bool = False

    @property
    def is_nothing(self) -> bool:
        return self.input is None and not self.problems


class Unreadable(Exception):
    """The rest of the file cannot be read; carries the one problem that says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be read: bytes after unpacking, and lines."""

    bytes: int
    lines: int


@dataclass
class Source:
    """A file being read. `columns` is the CSV header, known once the first line was drawn."""

    lines: Iterator[Line]
    columns: list[str] | None = None


def read(file: BinaryIO, format: Format, check: Check, bounds: Bounds) -> Source:
    """Start reading; the bounds are for what a compressed file may grow to. The lines may raise Unreadable.

    `check` judges JSONL lines; CSV rows and TXT lines are texts.
    """
    stream = _Guard(_inflated(file), bounds)
    source = Source(iter(()))
    readers = {"jsonl": _jsonl, "csv": _csv, "txt": _txt}
    source.lines = _translated(readers[format.type](stream, format, check, source), stream)
    return source


def _inflated(file: BinaryIO) -> BinaryIO:
    """Gzip is recognised by its magic number, whatever the file is called. The file is the caller's to close."""
    magic = file.read(2)
    file.seek(0)
    return cast("BinaryIO", gzip.GzipFile(fileobj=file)) if magic == b"\x1f\x8b" else file


class _Guard:
    """Reads physical lines of bounded length and counts bytes, so that a gzip bomb stops early."""

    def __init__(self, stream: BinaryIO, bounds: Bounds) -> None:
        self._stream, self._bounds = stream, bounds
        self.bytes = 0
        self.number = 0

    def __iter__(self) -> Iterator[bytes]:
        while line := self._stream.readline(MAX_LINE_BYTES + 1):
            self.number += 1
            self.bytes += len(line)
            if self.number == 1:
                line = self._without_bom(line)
            self._check_bounds()
            yield line

    def _check_bounds(self) -> None:
        if self.bytes > self._bounds.bytes:
            message = f"the file is larger than {self._bounds.bytes:,} bytes when unpacked"
            advice = "split it, or raise BUSHEL_MAX_INFLATED_BYTES"
            raise Unreadable(Problem("file_too_large", message, advice, line=self.number))
        if self.number > self._bounds.lines:
            message = f"the file has more than {self._bounds.lines:,} lines"
            raise Unreadable(
                Problem("too_many_lines", message, "split it, or raise BUSHEL_MAX_LINES", line=self.number)
            )

    def skip_rest_of_line(self, begun: bytes) -> None:
        """Drop what is left of a line that is over the limit; nothing is when it ended just behind it."""
        if begun.endswith(b"\n"):
            return
        while part := self._stream.readline(MAX_LINE_BYTES):
            self.bytes += len(part)
            if part.endswith(b"\n") or self.bytes > self._bounds.bytes:
                return

    def _without_bom(self, line: bytes) -> bytes:
        for magic, kind in _BINARY.items():
            if line.startswith(magic):
                message = f"the file is {kind}, not text"
                raise Unreadable(Problem("binary_file", message, "extract its text first", line=1, column=1))
        if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise Unreadable(Problem("invalid_encoding", "the file is UTF-16", "save it as UTF-8", line=1, column=1))
        return line.removeprefix(b"\xef\xbb\xbf")


def _translated(lines: Iterator[Line], guard: _Guard) -> Iterator[Line]:
    try:
        yield from lines
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise Unreadable(
            Problem(
                "invalid_gzip",
                f"the gzip data is damaged or cut off after line {guard.number}: {exc}",
                "compress and upload the file again",
                line=guard.number + 1,
            )
        ) from exc


def _too_long(number: int, raw: bytes) -> Line:
    problem = Problem(
        "line_too_long",
        f"line {number} is longer than {MAX_LINE_BYTES:,} bytes",
        "split the text into several inputs",
        line=number,
        column=MAX_LINE_BYTES + 1,
    )
    return Line(number, problems=(problem,), raw=_excerpt(raw))


def _excerpt(raw: bytes) -> str:
    return storable(raw[:_EXCERPT].decode(errors="replace"))


def _not_utf8(number: int, raw: bytes, exc: UnicodeDecodeError) -> Line:
    column = len(raw[: exc.start].decode()) + 1
    problem = Problem(
        "invalid_encoding",
        f"byte 0x{raw[exc.start]:02x} is not UTF-8",
        "save the file as UTF-8",
        line=number,
        column=column,
    )
    return Line(number, problems=(problem,), raw=_excerpt(raw))


def _txt(guard: _Guard, format: Format, check: Check, source: Source) -> Iterator[Line]:
    for raw in guard:
        if len(raw) > MAX_LINE_BYTES:
            guard.skip_rest_of_line(raw)
            yield _too_long(guard.number, raw)
            continue
        try:
            text = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError as exc:
            yield _not_utf8(guard.number, raw, exc)
            continue
        if not text.strip():
            yield Line(guard.number, Input({"text": text}), blank=True)
            continue
        problems = [*check_length(text), *check_text(text, "text")]
        yield _line(guard.number, text, problems, Input({"text": text}))


def _line(number: int, raw: str, problems: Sequence[Problem], input: Input) -> Line:
    if not problems:
        return Line(number, input, extra=input.extra, custom_id=input.custom_id)
    located = tuple(replace(problem, line=number) for problem in problems)
    usable_id = None if any(problem.param == "custom_id" for problem in problems) else input.custom_id
    return Line(number, None, located, storable(raw[:_EXCERPT]), input.extra, usable_id)


def _jsonl(guard: _Guard, format: Format, check: Check, source: Source) -> Iterator[Line]:
    decode = msgspec.json.Decoder().decode
    for raw in guard:
        if len(raw) > MAX_LINE_BYTES:
            guard.skip_rest_of_line(raw)
            yield _too_long(guard.number, raw)
            continue
        if not raw.strip():
            yield Line(guard.number)
            continue
        try:
            raw.decode()
        except UnicodeDecodeError as exc:
            yield _not_utf8(guard.number, raw, exc)
            continue
        try:
            value = decode(raw)
            found = check(_mapped(value, format))
        except (msgspec.DecodeError, RecursionError) as exc:
            yield Line(guard.number, None, (_bad_json(guard.number, raw, exc),), _excerpt(raw))
        except Refused as refused:
            claimed = value.get("custom_id") if isinstance(value, dict) else None
            usable = claimed if isinstance(claimed, str) and not check_custom_id(claimed) else None
            problems = tuple(replace(problem, line=guard.number) for problem in refused.problems)
            yield Line(guard.number, None, problems, _excerpt(raw), custom_id=usable)
        else:
            yield Line(guard.number, found, custom_id=found.custom_id)


def _mapped(value: object, format: Format) -> object:
    """A JSONL object in the user's own shape, told by the columns that the format names, as one in ours."""
    named = (format.text_column, format.id_column, format.reference_column)
    if not isinstance(value, dict) or not any(named):
        return value
    text_column, id_column = format.text_column or "text", format.id_column or "custom_id"
    if text_column not in value:
        raise Refused(
            [
                Problem(
                    "missing_text",
                    f"the object has no {text_column!r}",
                    f"its keys are: {', '.join(map(str, list(value)[:20])) or 'none'}",
                    param=text_column,
                )
            ]
        )
    mapped: dict[str, Any] = {"text": value[text_column]}
    custom_id = value.get(id_column)
    if custom_id is not None:
        mapped["custom_id"] = str(custom_id) if isinstance(custom_id, int) else custom_id
    if format.reference_column is not None:
        mapped["reference"] = value.get(format.reference_column)
    if isinstance(value.get("params"), dict):
        mapped["params"] = value["params"]
    return mapped


def _bad_json(number: int, raw: bytes, exc: Exception) -> Problem:
    if isinstance(exc, RecursionError):
        return Problem("invalid_json_line", "the JSON is nested too deeply", "flatten it", line=number)
    message, _, tail = str(exc).partition(" (byte ")
    if "truncated" in message and b"\\u" in raw:
        hint = "close every quote and brace on the same line; write both halves of a \\u surrogate pair"
    else:
        # Other dialects have other keys beside it.
        hint = 'each line must be one JSON value, for example {"custom_id": "a", …}'
    offset = int(tail.rstrip(")")) if tail.rstrip(")").isdigit() else None
    if offset is not None and "trailing" in message:
        # msgspec counts one past the character here, and from 0 to the character elsewhere.
        offset -= 1
    column = None if offset is None else len(raw[:offset].decode(errors="replace")) + 1
    return Problem("invalid_json_line", message, hint, line=number, column=column)


def _csv(guard: _Guard, format: Format, check: Check, source: Source) -> Iterator[Line]:
    # Undecodable bytes become lone surrogates here and are found by check_text, cell by cell.
    row = _Row()
    text = (row.add(guard.number, raw).decode(errors="surrogateescape") for raw in guard)
    reader = csv.reader(text, delimiter=format.delimiter, strict=True)
    places = None if format.has_header else _headerless(format, source)
    while True:
        number = guard.number + 1
        row.length = 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            raise Unreadable(_bad_csv(number, guard.number, exc)) from exc
        if not cells:
            yield Line(number)
            continue
        if format.csv_formulas == Formulas.ROUND_TRIP:
            cells = [unmarked(cell) for cell in cells]
        if places is None:
            places = _header(cells, format, source, number)
            continue
        assert source.columns is not None
        if places.width is None:
            places = _as_wide_as(cells, places, number)
            source.columns = _bounded([f"column_{place + 1}" for place in range(len(cells))], number)
        yield _row(number, cells, places)


@dataclass(slots=True)
class _Row:
    """Bounds a CSV row, which may go over any number of lines inside its quotes."""

    length: int = 0

    def add(self, number: int, raw: bytes) -> bytes:
        self.length += len(raw)
        if self.length > MAX_LINE_BYTES:
            raise Unreadable(_too_long(number, raw).problems[0])
        return raw


@dataclass(frozen=True, slots=True)
class _Places:
    """Where text, id and reference stand in a row; `width` is how many cells a row must have."""

    text: int
    id: int | None
    width: int | None
    text_name: str
    reference: int | None = None


def _headerless(format: Format, source: Source) -> _Places:
    """Without a header, columns are named by number from 1: `text_column: "2"`."""
    source.columns = []
    text = int(format.text_column or "1") - 1
    id, reference = (int(name) - 1 if name else None for name in (format.id_column, format.reference_column))
    return _Places(text, id, None, f"column {text + 1}", reference)


def _as_wide_as(cells: list[str], places: _Places, number: int) -> _Places:
    """The first row of a file without a header says how many columns there are."""
    last = max(place for place in (places.text, places.id, places.reference) if place is not None)
    if last < len(cells):
        return replace(places, width=len(cells))
    raise Unreadable(
        Problem(
            "missing_column",
            f"there is no column {last + 1}: the first row has {len(cells)}",
            "count columns from 1, and check the delimiter",
            line=number,
            param=str(last + 1),
        )
    )


def _header(cells: list[str], format: Format, source: Source, number: int) -> _Places:
    columns = [storable(cell.strip()) for cell in cells]
    source.columns = _bounded(columns, number)
    wanted = format.text_column or "text"
    for name in filter(None, (wanted, format.id_column, format.reference_column)):
        if columns.count(name) != 1:
            found = "twice" if name in columns else "not"
            raise Unreadable(
                Problem(
                    "missing_column",
                    f"the column {name!r} is {found} in the header",
                    f"the header has: {', '.join(columns)[:_EXCERPT]} - name the columns with format.text_column,"
                    " format.id_column and format.reference_column, the delimiter"
                    f" (now {format.delimiter!r}) with format.delimiter",
                    line=number,
                    param=name,
                )
            )
    id, reference = (columns.index(name) if name else None for name in (format.id_column, format.reference_column))
    return _Places(columns.index(wanted), id, len(columns), wanted, reference)


def _bounded(columns: list[str], number: int) -> list[str]:
    chars = sum(map(len, columns))
    if len(columns) <= MAX_COLUMNS and chars <= MAX_HEADER_CHARS:
        return columns
    raise Unreadable(
        Problem(
            "too_many_columns",
            f"the file has {len(columns):,} columns with {chars:,} characters of names; at most {MAX_COLUMNS:,} columns"
            f" and {MAX_HEADER_CHARS:,} characters are accepted",
            "leave out columns that need not come back with the results",
            line=number,
        )
    )


def _row(number: int, cells: list[str], places: _Places) -> Line:
    raw = ",".join(cells)[:_EXCERPT]
    clean = [storable(cell) for cell in cells]
    if len(cells) != places.width:
        problem = Problem(
            "wrong_cell_count",
            f"the row has {len(cells)} cells, the header {places.width}",
            "quote cells that contain the delimiter, double the quotes inside them",
            column=min(len(cells), places.width or 0) + 1,
        )
        return _line(number, raw, [problem], Input({}, extra=clean))
    text = cells[places.text]
    custom_id = cells[places.id] if places.id is not None else None
    problems = [*check_length(text)]
    for place, cell in enumerate(cells):
        problems += [_in_cell(problem, place) for problem in check_text(cell, _cell_name(place, places))]
    if custom_id is not None:
        problems += [_in_cell(problem, places.id) for problem in check_custom_id(custom_id)]
    reference = _reference(cells, places)
    if reference is not None:
        # Its characters are checked with those of all cells.
        found = [problem for problem in check_references(reference) if problem.code != "invalid_character"]
        problems += [_in_cell(problem, places.reference) for problem in found]
    return _line(number, raw, problems, Input({"text": text}, custom_id, extra=clean, reference=reference))


def _reference(cells: list[str], places: _Places) -> list[str] | None:
    """An empty cell is no reference."""
    cell = cells[places.reference] if places.reference is not None else ""
    return [cell] if cell.strip() else None


def _cell_name(place: int, places: _Places) -> str:
    return places.text_name if place == places.text else f"cell {place + 1}"


def _in_cell(problem: Problem, place: int | None) -> Problem:
    if problem.code == "invalid_character" and "surrogate" in problem.message:
        problem = replace(
            problem, code="invalid_encoding", message=f"{problem.param} is not UTF-8", hint="save the file as UTF-8"
        )
    return replace(problem, message=f"{problem.message} (cell {(place or 0) + 1})")


def _bad_csv(first: int, last: int, exc: csv.Error) -> Problem:
    where = f"in the row of lines {first} to {last}" if last > first else f"in line {first}"
    return Problem(
        "invalid_csv",
        f"{exc} {where}; what follows cannot be read",
        "close every quote, double the quotes inside quoted cells, and check the delimiter",
        line=first,
    )
