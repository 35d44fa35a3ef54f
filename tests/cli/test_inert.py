"""What strangers wrote is shown, and does nothing to the terminal."""

import io
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from cli.inert import InertConsole, inert
from cli.main import run
from tests.cli.fake_bushel import FakeBushel

Captured = pytest.CaptureFixture[str]

MARK = "\ufffd"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("plain, naïve, 日本, שלום", "plain, naïve, 日本, שלום", id="letters"),
        pytest.param("\x1b[2J", f"{MARK}[2J", id="an escape sequence"),
        pytest.param("\x9b2J", f"{MARK}2J", id="one that begins with a single character"),
        pytest.param("a\nb\tc\rd\x07", f"a{MARK}b{MARK}c{MARK}d{MARK}", id="controls"),
        pytest.param("\u202ea\u2066b\u200fc", f"{MARK}a{MARK}b{MARK}c", id="directions"),
        pytest.param("a\u2028b\u2029c\ud800", f"a{MARK}b{MARK}c{MARK}", id="separators and half a character"),
        pytest.param("\u0645\u06cc\u200c\u062e 👨\u200d👩", "\u0645\u06cc\u200c\u062e 👨\u200d👩", id="joiners stay"),
    ],
)
def test_only_what_instructs_is_marked(text: str, expected: str) -> None:
    assert inert(text) == expected


def test_a_console_says_nothing_to_the_terminal_but_its_own_styles() -> None:
    out = io.StringIO()
    console = InertConsole(file=out, force_terminal=True, color_system="standard", width=40)
    table = Table("a\x1b[2J", box=None)
    table.add_row("b\x9b1m\u202e")

    console.print(Text("x\x1b]0;t\x07\ny", style="red"))
    console.print(table)

    said = out.getvalue()
    assert f"\x1b[31mx{MARK}]0;t" in said and "\ny" in said.replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert "\x1b[2J" not in said and "\x9b" not in said and "\u202e" not in said


@pytest.mark.parametrize("command", ["status", "watch"])
def test_the_ids_and_errors_of_items_are_inert(
    command: str, capfd: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hostile = "a\x1b[2J\x1b]0;owned\x07\x9b1m\u202eb"
    with FakeBushel() as fake:
        monkeypatch.setenv("BUSHEL_URL", fake.url)
        monkeypatch.setenv("BUSHEL_API_KEY", "bsh_test")
        monkeypatch.setenv("BUSHEL_DATA", str(tmp_path / "none"))
        inputs = [{"text": "FAIL", "custom_id": hostile}]
        job_id = fake.add_job(inputs, model=hostile)  # type: ignore[arg-type]
        fake.state.looks[job_id] = 1

        assert run([command, job_id]) == 1

    said = "".join(capfd.readouterr())
    assert f"a{MARK}[2J" in said and "too_long" in said
    assert not set("\x1b\x07\x9b\u202e") & set(said)
