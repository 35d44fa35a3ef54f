"""The pages for operators name commands, settings, files and checks that exist."""

import re
from pathlib import Path

import pytest

from api.health import examine
from cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("docs/operations.md", "docs/security.md", "SECURITY.md")]
each_page = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])


@each_page
def test_a_page_names_settings_that_exist(page: Path) -> None:
    documented = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bBUSHEL_[A-Z_]+\b", page.read_text(encoding="utf-8")))

    assert {name for name in named if f"| `{name}` |" not in documented} == set()


@each_page
def test_a_page_names_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests|deploy|docs|workers|api|cli|db)/[\w./@-]+\.\w+)`", text))
    linked = {page.parent / target for target in re.findall(r"\]\(([\w./-]+)\)", text)}

    assert {path for path in named if not (ROOT / path).is_file()} == set()
    assert {path for path in linked if not path.is_file()} == set()


@each_page
def test_a_page_names_commands_that_exist(page: Path) -> None:
    named = re.findall(r"`bushel (\w+)(?: ([a-z]+)\b)?", page.read_text(encoding="utf-8"))

    assert {command for command, _ in named} <= set(COMMANDS)
    for command, sub in named:
        if command in ("keys", "webhooks", "files") and sub:
            source = (ROOT / f"cli/{command}.py").read_text(encoding="utf-8")
            assert re.search(rf'def {sub}_?\(|command\("{sub}"', source), f"bushel {command} {sub}"


def test_every_check_of_readiness_has_its_row() -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    checks = [name for name in examine.__code__.co_consts if isinstance(name, tuple)][-1]

    assert len(checks) >= 5
    assert [name for name in checks if f"| `{name}` |" not in page] == []
