"""One part of the stack as a child process: started so that it cannot outlive us, stopped so that it may tidy up."""

import contextlib
import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.stack.errors import MissingParts, PartFailed
from cli.stack.identity import Identity
from cli.stack.logs import Log

Probe = Callable[["Child"], str | None]
"""Why the part is not ready yet; None once it is. Called a few times a second; must answer within seconds."""

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05


def always_ready(child: "Child") -> str | None:
    """The probe of a part that is ready as soon as it runs."""
    return None


def nothing_to_prepare() -> None:
    """The preparation of a part that needs none."""


@dataclass(frozen=True, slots=True)
class Part:
    """What to run, how to see that it is ready, and how to end it.

    `stop` lists signals with the seconds each is given before the next; SIGKILL to the whole process group
    always comes last. `orphaned` is what the kernel sends the part when its supervisor is killed.
    `longest_pause` bounds the seconds before a restart, however often it has died.
    `prepare` runs before every start, also before a restart. A part that runs `once` is ready when it has
    ended with status 0. Lines of its log that match `important` are shown at the terminal.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    prepare: Callable[[], None] = nothing_to_prepare
    probe: Probe = always_ready
    start_seconds: float = 30.0
    stop: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGTERM, 10.0),)
    orphaned: signal.Signals = signal.SIGKILL
    identity: Identity | None = None
    once: bool = False
    longest_pause: float = 30.0
    important: re.Pattern[str] | None = None


class Child:
    """A running, or not yet or no longer running, part."""

    def __init__(self, part: Part, log: Log) -> None:
        self.part, self.log = part, log
        self._process: subprocess.Popen[bytes] | None = None
        self._group_is_gone = False
        self.started_at = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Run it, in a session of its own: Ctrl-C in the terminal is for us alone, who stop the parts in order.

        Call from a thread that lives as long as the parts should: the kernel ties their death signal to the
        thread that started them, not to the process.
        """
        self.part.prepare()
        output = self.log.open()
        self._group_is_gone = False
        self.started_at = time.time()
        try:
            self._process = subprocess.Popen(
                self.part.command,
                env={**os.environ, **self.part.environment},
                cwd=self.part.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent(self.part.orphaned, self.part.identity),
            )
        except FileNotFoundError as exc:
            raise MissingParts(self.part.command[0]) from exc
        except OSError as exc:
            raise PartFailed(self.part.name, f"cannot be run: {exc}") from exc
        finally:
            os.close(output)

    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal, as subprocess has it."""
        return self._process.poll() if self._process else 0

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def not_ready_because(self) -> str | None:
        return self.part.probe(self)

    def wait_until_ready(self) -> None:
        """PartFailed, with the end of the log, when it dies or its time runs out first."""
        deadline = time.monotonic() + self.part.start_seconds
        while (reason := self.not_ready_because()) is not None:
            if not self.is_running():
                raise self.failure(describe_exit(self.exit_code()))
            if time.monotonic() > deadline:
                self.stop()
                raise self.failure(f"was not ready after {self.part.start_seconds:.0f} s: {reason}")
            self.wait(_POLL_SECONDS)

    def failure(self, reason: str) -> PartFailed:
        return PartFailed(self.part.name, reason, self.log.path, self.log.tail())

    def wait(self, seconds: float) -> bool:
        """Wait for its end; True when it has ended."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill_group(self) -> None:
        """End it and everything it started that stayed in its process group; once per start."""
        if self._process is None or self._group_is_gone:
            return
        # The group outlives its leader, so this also reaches what a dead leader left behind; while a member
        # lives, its number is given to nobody else. PermissionError is macOS's answer for a group of zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._group_is_gone = True
        self._process.wait()

    def stop(self) -> None:
        """Signals of the part in turn, each with its time, then SIGKILL for the group."""
        for number, seconds in self.part.stop:
            self.signal(number)
            if self.wait(seconds):
                break
        self.kill_group()


def describe_exit(code: int | None) -> str:
    """An exit status in words: `exited with status 3`, `was killed by SIGSEGV`."""
    if code is None:
        return "is running"
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"exited with status {code}"


def die_with_parent(number: signal.Signals, identity: Identity | None = None) -> Callable[[], None]:
    """For `preexec_fn`: the kernel sends the child `number` when the thread that started it ends.

    Linux only; elsewhere the next start clears away what was left. The child becomes `identity` first, and
    leaves no core file should it crash: that would hold texts and keys.
    """
    # Everything that can take a lock (finding libc, ctypes' own set-up) happens before the fork.
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if identity is not None:
            identity.become()
        if libc is not None:
            # After the change of user, which clears it.
            libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return prepare
