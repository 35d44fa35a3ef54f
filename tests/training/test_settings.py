"""Options of the tools, from the command line and from a file."""

import argparse
from pathlib import Path

import pytest

from training.errors import AlreadyMade, BadSettings
from training.settings import parse, run


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("model")
    made.add_argument("out", type=Path)
    made.add_argument("--pairs", type=Path, required=True)
    made.add_argument("--most-pairs", dest="most", type=int, default=7)
    made.add_argument("--names", nargs="+", default=[])
    made.add_argument("--size", action="append")
    made.add_argument("--method", choices=["int8", "int4"], default="int8")
    made.add_argument("--smooth", action="store_true")
    return made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text('model = "m"\npairs = "p.tsv"\nmost-pairs = 9\nnames = ["a", "b"]\nsize = ["x=1"]\nsmooth = true\n')
    return path


def test_what_the_file_says_need_not_be_said(config: Path) -> None:
    found = parse(parser(), ["--config", str(config), "o"])

    assert (found.model, found.out, found.pairs) == ("m", Path("o"), Path("p.tsv"))
    assert (found.most, found.names, found.size, found.smooth, found.method) == (9, ["a", "b"], ["x=1"], True, "int8")


def test_the_command_line_wins(config: Path) -> None:
    words = ["other", "o", "--config", str(config), "--most-pairs", "3", "--names", "c", "--size", "y=2"]

    found = parse(parser(), words)

    assert (found.model, found.most, found.names) == ("other", 3, ["c"])
    assert found.size == ["x=1", "y=2"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("mode = 1", "unknown: mode; known: .*most_pairs", id="unknown"),
        pytest.param('most-pairs = "many"', "'many' will not do", id="type"),
        pytest.param('method = "int2"', "none of int8, int4", id="choice"),
        pytest.param("smooth = 1", "must be true or false", id="flag"),
        pytest.param('pairs = ["a"]', "not a list", id="list"),
        pytest.param("names = [true]", "a text or a number", id="inside a list"),
        pytest.param("names = [", "cannot be read", id="no TOML"),
    ],
)
def test_a_file_that_cannot_be_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)

    with pytest.raises(BadSettings, match=reason):
        parse(parser(), ["m", "o", "--pairs", "p", "--config", str(tmp_path / "c.toml")])


def test_what_neither_says_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text('model = "m"')

    with pytest.raises(SystemExit):
        parse(parser(), ["--config", str(tmp_path / "c.toml"), "o"])

    assert "--pairs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(BadSettings("no"), 1), (OSError("no"), 1), (AlreadyMade(Path("no")), 0)], ids=str
)
def test_a_tool_ends_with_a_line(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def tool() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(tool)

    assert ended.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == 1
