"""Files of all formats, good and damaged: what is read, and where each problem is said to be."""

import gzip
import io
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.inputs import Input
from dialects.reading import reader
from workers.formats import MAX_COLUMNS, MAX_LINE_BYTES, Bounds, Check, Format, Line, Unreadable, read

GENEROUS = Bounds(bytes=10**9, lines=10**6)


def ours(task: str = "translation") -> Check:
    return reader("bushel", None, task)


def lines(data: bytes, format: Format, task: str = "translation", bounds: Bounds = GENEROUS) -> list[Line]:
    return [line for line in read(io.BytesIO(data), format, ours(task), bounds).lines if not line.is_nothing]


def problem(data: bytes, format: Format, task: str = "translation") -> tuple[str, int | None, int | None]:
    """Code, line and column of the only problem in the data."""
    found = [problem for line in lines(data, format, task) for problem in line.problems]
    assert len(found) == 1, found
    assert found[0].message
    return found[0].code, found[0].line, found[0].column


JSONL, TXT = Format("jsonl"), Format("txt")
CSV = Format("csv", "text", "id")


def test_jsonl_takes_strings_objects_and_messages() -> None:
    data = (
        b'"hello"\n\n{"custom_id": "b", "text": "two", "params": {"num_beams": 2}}\n'
        b'{"messages": [{"role": "user", "content": "x"}]}'
    )

    found = lines(data, JSONL, "generation")

    assert [(line.number, line.input) for line in found] == [
        (1, Input({"text": "hello"})),
        (3, Input({"text": "two"}, "b", {"num_beams": 2})),
        (4, Input({"messages": [{"role": "user", "content": "x"}]})),
    ]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_line_endings_and_bom_are_no_part_of_the_text(ending: bytes, bom: bytes) -> None:
    found = lines(bom + "größer".encode() + ending + b"two" + ending, TXT)

    assert [line.input.body for line in found if line.input] == [{"text": "größer"}, {"text": "two"}]


def test_blank_txt_lines_keep_their_place() -> None:
    found = lines(b"one\n\n  \nfour", TXT)

    assert [(line.number, line.blank) for line in found] == [(1, False), (2, True), (3, True), (4, False)]


def test_csv_keeps_all_cells_and_counts_lines_inside_quotes() -> None:
    source = read(io.BytesIO(b'id,text,note\n1,"a, b","two\nlines"\n2,c,"say ""x"""\n'), CSV, ours(), GENEROUS)

    found = list(source.lines)

    assert source.columns == ["id", "text", "note"]
    assert [(line.number, line.custom_id, line.extra) for line in found] == [
        (2, "1", ["1", "a, b", "two\nlines"]),
        (4, "2", ["2", "c", 'say "x"']),
    ]


def test_csv_is_read_as_it_stands_unless_it_is_said_to_be_escaped() -> None:
    data = b"id,text\n'=1,'- Nein.\n'a,''-1\n2,'tis so\n"

    def read_with(formulas: str | None) -> list[tuple[str | None, str]]:
        lines = read(io.BytesIO(data), replace(CSV, csv_formulas=formulas), ours(), GENEROUS).lines
        return [(line.custom_id, line.input.body["text"]) for line in lines if line.input is not None]

    as_it_stands = [("'=1", "'- Nein."), ("'a", "''-1"), ("2", "'tis so")]
    assert read_with(None) == read_with("escape") == read_with("keep") == as_it_stands
    assert read_with("round_trip") == [("=1", "- Nein."), ("'a", "'-1"), ("2", "'tis so")]


def test_csv_without_a_header_names_columns_by_number() -> None:
    source = read(io.BytesIO(b"7;hello\n8;world\n"), Format("csv", "2", "1", ";", False), ours(), GENEROUS)

    found = list(source.lines)

    assert source.columns == ["column_1", "column_2"]
    assert [(line.number, line.custom_id, line.input and line.input.body["text"]) for line in found] == [
        (1, "7", "hello"),
        (2, "8", "world"),
    ]


def test_jsonl_of_another_shape_is_read_by_its_own_keys() -> None:
    found = lines(b'{"id": 7, "src": "hello", "meta": {"a": 1}}', Format("jsonl", "src", "id"))

    assert found[0].input == Input({"text": "hello"}, "7")


def test_gzip_is_recognised_by_content() -> None:
    assert [line.number for line in lines(gzip.compress(b"one\ntwo\n"), TXT)] == [1, 2]


@pytest.mark.parametrize(
    ("data", "format", "expected"),
    [
        pytest.param(b'"ok"\n{"text" 1}', JSONL, ("invalid_json_line", 2, 9), id="syntax"),
        pytest.param('"ö" x'.encode(), JSONL, ("invalid_json_line", 1, 5), id="column in characters"),
        pytest.param(b'{"text": NaN}', JSONL, ("invalid_json_line", 1, 10), id="NaN"),
        pytest.param(b'{"text": "a"} {"text": "b"}', JSONL, ("invalid_json_line", 1, 15), id="two values"),
        pytest.param(b'{"text": "\\ud800"}', JSONL, ("invalid_json_line", 1, None), id="lone surrogate"),
        pytest.param(b'{"text": 1e999}', JSONL, ("invalid_json_line", 1, None), id="number too large"),
        pytest.param(b"[" * 100_000, JSONL, ("invalid_json_line", 1, None), id="deep"),
        pytest.param(b'{"text": "a\\u0000b"}', JSONL, ("invalid_character", 1, 2), id="NUL"),
        pytest.param(b"[1]", JSONL, ("invalid_input", 1, None), id="a list"),
        pytest.param(b'{"txet": "a"}\n', JSONL, None, id="misspelled key"),
        pytest.param(b'{"text": ""}', JSONL, ("empty_text", 1, None), id="empty"),
        pytest.param(b'{"text": 5}', JSONL, ("invalid_text", 1, None), id="number as text"),
        pytest.param(b'{"custom_id": 5, "text": "a"}', JSONL, ("invalid_custom_id", 1, None), id="number as id"),
        pytest.param(b'{"messages": []}', JSONL, ("invalid_input", 1, None), id="messages for translation"),
        pytest.param(b"ok\nbad \xff byte", TXT, ("invalid_encoding", 2, 5), id="txt not utf-8"),
        pytest.param("größe \xff".encode("latin-1"), TXT, ("invalid_encoding", 1, 3), id="latin-1"),
        pytest.param(b"a\0b", TXT, ("invalid_character", 1, 2), id="txt NUL"),
        pytest.param(b"id,text\n1,a,b\n", CSV, ("wrong_cell_count", 2, 3), id="csv too many cells"),
        pytest.param(b"id,text\n1\n", CSV, ("wrong_cell_count", 2, 2), id="csv too few cells"),
        pytest.param(b"id,text\n1,\n", CSV, ("empty_text", 2, None), id="csv empty"),
        pytest.param(b"id,text\n1,a\xffb\n", CSV, ("invalid_encoding", 2, 2), id="csv not utf-8"),
        pytest.param(b"id,text\n,a\n", CSV, ("invalid_custom_id", 2, None), id="csv empty id"),
    ],
)
def test_a_bad_line_is_located(data: bytes, format: Format, expected: tuple[str, int, int] | None) -> None:
    if expected is None:
        codes = {problem.code for line in lines(data, format) for problem in line.problems}
        assert codes == {"unknown_field", "missing_text"}
    else:
        assert problem(data, format) == expected


def test_reading_goes_on_after_bad_lines() -> None:
    found = lines(b'{\n"ok"\n[]\n"fine"\n', JSONL)

    assert [bool(line.problems) for line in found] == [True, False, True, False]


@pytest.mark.parametrize(
    ("data", "format", "code", "line"),
    [
        pytest.param(b"id,txt\n1,a\n", CSV, "missing_column", 1, id="column missing"),
        pytest.param(b"text,text,id\n", CSV, "missing_column", 1, id="column twice"),
        pytest.param(b'id,text\n1,"a\n2,b\n', CSV, "invalid_csv", 2, id="quote never closed"),
        pytest.param(b'id,text\n1,"a"b\n', CSV, "invalid_csv", 2, id="text after quote"),
        pytest.param(b"%PDF-1.7\n%\xe2\xe3", TXT, "binary_file", 1, id="pdf"),
        pytest.param(b"PK\x03\x04\x14\0", CSV, "binary_file", 1, id="office document"),
        pytest.param("x".encode("utf-16"), TXT, "invalid_encoding", 1, id="utf-16"),
        pytest.param(gzip.compress(b"one\ntwo\nthree\n" * 1000)[:-9], TXT, "invalid_gzip", None, id="gzip cut off"),
        pytest.param(b"\x1f\x8bnot gzip at all", TXT, "invalid_gzip", 1, id="gzip damaged"),
    ],
)
def test_what_makes_the_rest_unreadable_says_so(data: bytes, format: Format, code: str, line: int | None) -> None:
    with pytest.raises(Unreadable) as caught:
        lines(data, format)

    assert caught.value.problem.code == code
    assert caught.value.problem.hint
    if line is not None:
        assert caught.value.problem.line == line


def test_a_line_over_the_limit_is_refused_and_the_next_one_read() -> None:
    data = b"a" * (MAX_LINE_BYTES + 5) + b"\nnext\n"

    found = lines(data, TXT)

    assert [(line.number, bool(line.problems)) for line in found] == [(1, True), (2, False)]


@pytest.mark.parametrize("ending", [b"\n", b""], ids=["ended", "the last"])
def test_a_line_may_be_exactly_as_long_as_it_may(ending: bytes) -> None:
    for size, is_taken in ((MAX_LINE_BYTES - 1, True), (MAX_LINE_BYTES, True), (MAX_LINE_BYTES + 1, False)):
        line = b'{"text": "a"}'.ljust(size - len(ending)) + ending
        [found] = lines(line, JSONL)

        assert (found.input is not None) is is_taken, size
        if found.problems:
            assert (found.problems[0].code, f"{MAX_LINE_BYTES:,}" in found.problems[0].message) == (
                "line_too_long",
                True,
            )


@pytest.mark.parametrize(
    ("bounds", "code", "said"),
    [
        pytest.param(Bounds(10**9, 1_000), "too_many_lines", "1,000 lines", id="lines"),
        pytest.param(Bounds(4_000, 10**9), "file_too_large", "4,000 bytes", id="bytes after unpacking"),
    ],
)
def test_a_file_may_be_exactly_as_large_as_it_may(bounds: Bounds, code: str, said: str) -> None:
    for count in (999, 1_000):
        assert len(lines(gzip.compress(b"one\n" * count), TXT, bounds=bounds)) == count

    with pytest.raises(Unreadable) as caught:
        lines(gzip.compress(b"one\n" * 1_000 + b"\n"), TXT, bounds=bounds)

    assert caught.value.problem.code == code
    assert said in caught.value.problem.message


def test_a_table_may_have_exactly_as_many_columns_as_it_may() -> None:
    for count in (MAX_COLUMNS - 1, MAX_COLUMNS):
        names = ",".join(["text", *(f"c{n}" for n in range(count - 1))])
        [found] = lines(f"{names}\none{',' * (count - 1)}\n".encode(), Format("csv"))
        assert found.input is not None

    with pytest.raises(Unreadable) as caught:
        lines((",".join(["text", *(f"c{n}" for n in range(MAX_COLUMNS))]) + "\none\n").encode(), Format("csv"))

    assert f"{MAX_COLUMNS:,}" in caught.value.problem.message


def test_a_gzip_bomb_stops_early_and_small() -> None:
    bomb = gzip.compress(b"a line of text\n" * 10_000_000)
    tracemalloc.start()

    with pytest.raises(Unreadable) as caught:
        for _ in read(io.BytesIO(bomb), TXT, ours(), Bounds(1_000_000, 10**9)).lines:
            pass

    assert caught.value.problem.code == "file_too_large"
    assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("format", [TXT, JSONL, CSV], ids=lambda format: format.type)
def test_a_file_of_newlines_is_bounded_too(format: Format) -> None:
    with pytest.raises(Unreadable) as caught:
        lines(gzip.compress(b"\n" * 1_000_000), format, bounds=Bounds(10**9, 1_000))

    assert (caught.value.problem.code, caught.value.problem.line) == ("too_many_lines", 1_001)


@given(st.binary(max_size=300), st.sampled_from([JSONL, TXT, CSV, Format("csv", "1", None, "\t", False)]))
def test_no_bytes_whatsoever_raise_anything_but_unreadable(data: bytes, format: Format) -> None:
    try:
        found = lines(data, format)
    except Unreadable:
        return
    for line in found:
        assert (line.input is None) == bool(line.problems)
