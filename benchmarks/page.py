"""The page with the figures: each benchmark writes between its own two marks and touches nothing else."""

from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
IMAGES = PAGE.parent / "images"


class NoPlace(LookupError):
    """The page has no marks of that name, or not in their order."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the page has no lines {_marks(name)[0]} and {_marks(name)[1]} to write between")
        self.name = name


def filled(page: str, name: str, content: str) -> str:
    """The page with that content, and nothing else, between the marks of the name.

    >>> filled("a\\n<!-- bench: x -->\\nold\\n<!-- end of x -->\\nb\\n", "x", "new")
    'a\\n<!-- bench: x -->\\nnew\\n<!-- end of x -->\\nb\\n'
    """
    begin, end = _marks(name)
    before, found, rest = page.partition(f"{begin}\n")
    _, has_end, after = rest.partition(end)
    if not (found and has_end):
        raise NoPlace(name)
    return f"{before}{begin}\n{content.strip()}\n{end}{after}"


def write(name: str, content: str, path: Path = PAGE) -> None:
    path.write_text(filled(path.read_text(encoding="utf-8"), name, content), encoding="utf-8")


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- bench: {name} -->", f"<!-- end of {name} -->"
