"""What a spreadsheet would run, and that marking it loses nothing."""

import csv
import io

from hypothesis import example, given
from hypothesis import strategies as st

from db.formulas import marked, unmarked
from db.inputs import storable
from db.lines import ResultRow, writer_for
from tests.ledger import BOUNDS
from workers.formats import Format, read

CELLS = st.text(st.sampled_from("=+-@\t\r\n\0\uff1d'\" ,;a1.e%"), max_size=6) | st.text(max_size=20)


@given(CELLS)
@example("'-5")
@example("-5")
def test_taking_the_mark_away_is_always_right(cell: str) -> None:
    assert unmarked(marked(cell)) == cell


@given(CELLS)
def test_no_marked_cell_begins_as_a_formula_does(cell: str) -> None:
    first = marked(cell)[:1]

    assert first not in tuple("=@\t\r\n\0\uff1d\uff0b\uff0d\uff20")
    assert first not in ("+", "-") or cell[1:].strip("0123456789.,eE+-%") == ""


@given(st.lists(CELLS.filter(lambda cell: cell.strip() and storable(cell) == cell), min_size=2, max_size=2))
def test_a_file_written_by_a_job_is_read_back_to_the_character(texts: list[str]) -> None:
    """RFC 4180 in both directions, formulas, quotes and line breaks among the cells."""
    job = {"type": "csv", "columns": ["id", "text"], "delimiter": ","}
    writer = writer_for("csv", job)
    row = ResultRow(0, 1, "a", 2, "succeeded", {"text": texts[0]}, ["7", texts[0]], {"text": texts[1]})
    written = writer.header() + writer.line(row)

    again = Format("csv", "output", "id", csv_formulas="round_trip")
    [line] = [line for line in read(io.BytesIO(written), again, _no_json, BOUNDS).lines if not line.is_nothing]

    assert list(csv.reader(io.StringIO(written.decode(), newline=""), strict=True))[1][1] == marked(texts[0])
    assert line.input is not None and line.input.body == {"text": texts[1]}
    assert line.extra is not None and line.extra[1] == texts[0]


def _no_json(value: object) -> None:
    raise AssertionError(f"a CSV has no JSON: {value!r}")
