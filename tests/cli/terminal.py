"""A command in a terminal of a given size, as a person has it: what is on the screen, and keys to press."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from types import TracebackType

_HOME = b"\x1b[H"
_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)")


class Terminal:
    """`with Terminal(["top"], 80, 24, environment) as terminal:` runs `bushel top`, and kills it if it is left running.

    Understands as much of what terminals are told as a command needs that draws whole screens, and no more.
    """

    def __init__(self, arguments: list[str], columns: int, rows: int, environment: Mapping[str, str]) -> None:
        self._ours, self._theirs = pty.openpty()
        self.said = b""
        self.rows = rows
        self.resize(columns, rows)
        self.settings = termios.tcgetattr(self._theirs)
        plain = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**plain, **environment, "TERM": "xterm-256color"},
            # Ctrl-C and changes of size go to the process whose terminal it is.
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def resize(self, columns: int, rows: int) -> None:
        """Forgets what was drawn before."""
        self.rows = rows
        self.said = b""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def has_ended(self) -> bool:
        self._read()
        return self.process.poll() is not None

    def screen(self) -> str:
        """The last screen that was drawn whole, without its colours; empty if there is none."""
        self._read()
        for drawn in reversed(self.said.split(_HOME)[1:]):
            lines = drawn.replace(b"\r", b"").split(b"\n")
            if len(lines) >= self.rows and not re.search(rb"\x1b\[[0-9;?]*$", lines[-1]):
                return "\n".join(_SEQUENCE.sub("", line.decode()).rstrip() for line in lines)
        return ""

    def is_as_before(self) -> bool:
        """Echo and line editing are as they were, the shell's screen is back, and the cursor can be seen."""
        self._read()
        is_back = self.said.rfind(b"\x1b[?1049l") > self.said.rfind(b"\x1b[?1049h")
        sees_cursor = self.said.rfind(b"\x1b[?25h") > self.said.rfind(b"\x1b[?25l")
        return is_back and sees_cursor and termios.tcgetattr(self._theirs) == self.settings

    def _read(self) -> None:
        while select.select([self._ours], [], [], 0)[0]:
            self.said += os.read(self._ours, 65536)
