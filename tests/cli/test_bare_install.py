"""With the command line alone installed - click, rich, httpx - nothing else is missed before it is needed."""

import subprocess
import sys

import pytest

# Python refuses to import a module whose entry is None, as if it were not installed.
ABSENT = (
    "sqlalchemy",
    "structlog",
    "prometheus_client",
    "psycopg",
    "flask",
    "celery",
    "pydantic",
    "pydantic_settings",
    "torch",
    "msgspec",
    "fsspec",
)
SCRIPT = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); from cli.main import main; main(sys.argv[1:])"


def bushel(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("submit", "--help"),
        ("translate", "--help"),
        ("up", "--help"),
        ("logs", "--help"),
        ("models", "list"),
        ("--version",),
    ],
    ids=" ".join,
)
def test_it_works_without_the_server_side(arguments: tuple[str, ...]) -> None:
    done = bushel(*arguments)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [("keys", "list"), ("keys", "create"), ("up",)], ids=" ".join)
def test_what_needs_the_server_side_says_so_in_a_line(arguments: tuple[str, ...], tmp_path: object) -> None:
    done = bushel(
        "--data", str(tmp_path), *arguments, *(("--data", str(tmp_path), "--port", "0") if arguments == ("up",) else ())
    )

    assert done.returncode in (1, 2)
    assert "pip install 'bushel[local]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_talking_to_a_server_needs_nothing_more() -> None:
    done = bushel("--url", "http://127.0.0.1:1", "status")

    assert done.returncode == 3
    assert "is `bushel up` running?" in done.stderr
