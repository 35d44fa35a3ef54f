"""The keys that are pressed at a terminal, one by one and unseen."""

import os
import re
import termios
from types import TracebackType
from typing import IO, Any

_NAMES = {b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"\x1b[5~": "page up"}
_NAMES |= {b"\x1b[6~": "page down", b"k": "up", b"j": "down", b" ": "page down", b"q": "quit", b"Q": "quit"}
_KEY = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)


class Keyboard:
    """While the block lasts, keys arrive at once and are not echoed; Ctrl-C stays what it is.

    Without a terminal there are no keys, and `fileno` is None.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.fileno = stream.fileno() if stream.isatty() else None
        self._before: list[Any] = []

    def __enter__(self) -> "Keyboard":
        if self.fileno is not None:
            self._before = termios.tcgetattr(self.fileno)
            now = termios.tcgetattr(self.fileno)
            now[3] &= ~(termios.ICANON | termios.ECHO)
            # Ctrl-Z would leave the shell with our screen.
            now[6][termios.VSUSP] = b"\x00"
            termios.tcsetattr(self.fileno, termios.TCSANOW, now)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.fileno is not None:
            # What was typed and not read is not for the shell.
            termios.tcsetattr(self.fileno, termios.TCSAFLUSH, self._before)

    def pressed(self) -> list[str]:
        """The names of the keys that wait to be read, empty where one has none; call it when there are some."""
        if self.fileno is None:
            return []
        # Nothing at all: the terminal is gone.
        return named(os.read(self.fileno, 1024)) or ["quit"]


def named(typed: bytes) -> list[str]:
    r"""
    >>> named(b"j\x1b[Axq"), named(b"\x1b[200~")
    (['down', 'up', '', 'quit'], [''])
    """
    return [_NAMES.get(key, "") for key in _KEY.findall(typed)]
