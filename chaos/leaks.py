"""What no log may hold, whatever is done to the service: texts, the key, the broker's passwords."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from chaos.stack import Stack

# A word of every text that `chaos.arena.lines` makes, and of nothing else.
MARKER = "umbrellabird"
_AROUND = 150
# What `bushel up` says at the terminal, once: it is the only one who can.
_SHOWN = re.compile(r"^API key: .*$", re.MULTILINE)


def leaks(stack: Stack) -> list[str]:
    """In words, the first place of each in each log of the stack, those of the database and the broker among them."""
    words = {"a text": MARKER, **stack.secrets()}
    return [
        f"{log.relative_to(stack.folder)} has {what}: {_around(content, word)}"
        for log, content in _logs(stack.folder)
        for what, word in words.items()
        if word in content
    ]


def _logs(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in folder.rglob("*.log*"):
        # One that is rotated away just now is found under its next name, or was looked at.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                yield path, _SHOWN.sub("", path.read_text(errors="replace"), count=1)


def _around(content: str, word: str) -> str:
    """What stands there, without the word itself: this is told to people."""
    at = content.find(word)
    return repr(content[max(0, at - _AROUND) : at] + "…")
