"""Cells that a spreadsheet would take for a formula, and the `'` that keeps it from doing so (ASVS 1.2.10).

A cell that begins with one of the characters below is given a `'` in front, unless it is nothing but a number. One that
begins with `'` before such a character gets another, so that taking one away again is always right:

>>> marked("=1+1"), marked("-5.2"), marked("- Ja."), marked("'=1"), marked("it's")
("'=1+1", '-5.2', "'- Ja.", "''=1", "it's")
>>> unmarked("'=1+1"), unmarked("-5.2"), unmarked("''=1"), unmarked("'tis")
('=1+1', '-5.2', "'=1", "'tis")
"""

import re
from enum import StrEnum
from typing import Any

# OWASP's list with its double-width twins, and NUL, which some programs drop before they look.
_RISKY = r"[=+\-@\t\r\n\0\uff1d\uff0b\uff0d\uff20]"
_FORMULA = re.compile(f"'*{_RISKY}")
_ESCAPED = re.compile(f"'+{_RISKY}")
_NUMBER = re.compile(r"[+-]?\d[\d.,]*(e[+-]?\d+)?%?\Z", re.IGNORECASE | re.ASCII)


class Formulas(StrEnum):
    """What becomes of such cells in a job's CSV files.

    ESCAPE: marked where we write them, left alone where we read them. KEEP: left alone. ROUND_TRIP: unmarked where we
    read them, and marked again where we write them; for files that were written with ESCAPE.
    """

    ESCAPE = "escape"
    KEEP = "keep"
    ROUND_TRIP = "round_trip"

    @classmethod
    def of(cls, job_format: Any) -> "Formulas":
        """From a job row's format; jobs that were made before there was a choice are escaped."""
        return cls(job_format.get("csv_formulas") or cls.ESCAPE)


def marked(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.match(cell) else cell


def unmarked(cell: str) -> str:
    """What `marked` was given; of a cell that it never returns, the cell itself or without the `'`."""
    return cell[1:] if _ESCAPED.match(cell) else cell
