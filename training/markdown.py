"""Markdown made of texts that may hold anything."""

import re
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """The first `left` columns to the left, the others to the right.

    >>> print(table(["what", "n"], [["items", "10"]]))
    | what | n |
    | :-- | --: |
    | items | 10 |
    """
    rule = [":--"] * left + ["--:"] * (len(header) - left)
    # A bar in a name would be taken for the end of its cell.
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in (header, rule, *rows))


def escaped(text: str) -> str:
    """The text as it reads, on one line: nothing in it is taken for markup, HTML included.

    >>> print(escaped("*a* <b>"))
    &#42;a&#42; &#60;b&#62;
    """
    # Entities, not backslashes: these hold in every dialect, and inside a table's cell. The dots and colons are those
    # that some dialects make links of.
    pattern = r"[\\`*_\[\]<>#|~$&@]|:(?=//)|(?<=www)\."
    return " ".join(re.sub(pattern, lambda each: f"&#{ord(each.group())};", text).split())
