"""Start the parts in order, keep them running, stop them in the reverse order."""

import contextlib
import enum
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.stack.errors import PartFailed
from cli.stack.logs import Log
from cli.stack.process import Child, Part, describe_exit

FIRST_DELAY = 0.5
_HEALTHY_SECONDS = 60.0
_LOOP_AFTER = 5
_SLOW_SECONDS = 10.0
_TICK_SECONDS = 0.25
_ECHOED_PER_MINUTE = 10


class Tone(enum.StrEnum):
    """How good the news is."""

    INFO = "info"
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


Announce = Callable[[str, str, Tone], None]
"""Tell the person at the terminal: name of the part, sentence, tone."""


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do between two stages; what it raises ends the start."""

    name: str
    run: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """Parts that start together once all earlier stages are ready, and stop together before those stop."""

    parts: tuple[Part, ...]


class Interrupted(Exception):
    """Somebody asked us to stop before everything was ready."""


class State(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"  # for its next start, after it died
    DONE = "done"  # a part that runs once, and has


def delay_after(deaths: int, longest: float) -> float:
    """Seconds to wait before the next start of a part that died `deaths` times in a row.

    >>> [delay_after(n, 30.0) for n in (1, 2, 3, 7, 50)]
    [0.5, 1.0, 2.0, 30.0, 30.0]
    """
    return min(longest, FIRST_DELAY * 2.0 ** min(deaths - 1, 16))


class _Watched:
    """A part and how it fares."""

    def __init__(self, part: Part, log: Log) -> None:
        self.part = part
        self.child = Child(part, log)
        self.state = State.WAITING
        self.was_ready = self.said_slow = False
        self.deaths = 0
        self.since = 0.0
        self.due = 0.0
        self.echoed = 0
        self.echoed_since = 0.0

    def start(self) -> None:
        self.state, self.since, self.said_slow = State.STARTING, time.monotonic(), False
        self.child.start()


class Supervisor:
    """Runs `plan` until a signal ends it.

    A part that has never been ready ends the run with PartFailed when it fails; any other is started again,
    after a pause that doubles from half a second to the part's longest, and the others stay up. Use from the
    main thread: signals arrive there, and the parts' lives are tied to it.
    """

    def __init__(self, plan: Sequence[Stage | Action], logs: Path, announce: Announce) -> None:
        self._plan, self._logs, self._announce = plan, logs, announce
        self._stages: list[list[_Watched]] = []
        self._stops = 0
        self._wake: socket.socket | None = None

    def run(self, when_up: Callable[[], None]) -> None:
        """Start all, call `when_up`, watch until SIGINT, SIGTERM or SIGHUP, then stop all; also on failure.

        Interrupted is raised when that signal came before everything was ready.
        """
        with self._signals():
            try:
                self._start_all()
                when_up()
                while not self._stops:
                    self._watch()
                    self._pause(_TICK_SECONDS)
            finally:
                self._stop_all()

    @property
    def was_hurried(self) -> bool:
        """Whether a second signal cut the stop short."""
        return self._stops > 1

    def _say(self, name: str, text: str, tone: Tone) -> None:
        # Whoever read us may be gone: Ctrl-C ends the `tee` behind us before us, a closed window ends the terminal.
        # That must not keep the parts from being watched and stopped in order; their logs have it all.
        with contextlib.suppress(OSError):
            self._announce(name, text, tone)

    # Starting

    def _start_all(self) -> None:
        for step in self._plan:
            self._check_interrupted()
            if isinstance(step, Action):
                step.run()
            else:
                self._start_stage(step)

    def _start_stage(self, stage: Stage) -> None:
        watched = [_Watched(part, self._log(part)) for part in stage.parts]
        self._stages.append(watched)
        for one in watched:
            one.start()
        while not all(one.state in (State.READY, State.DONE) for one in watched):
            self._check_interrupted()
            self._watch()
            self._pause(0.05)

    def _log(self, part: Part) -> Log:
        log = Log(self._logs / f"{part.name}.log", part.important)
        log.rotate()
        return log

    def _check_interrupted(self) -> None:
        if self._stops:
            raise Interrupted

    # Watching

    def _watch(self) -> None:
        """One look at every part. What a part that has never been ready fails with is raised."""
        for stage in self._stages:
            for one in stage:
                if one.state is State.WAITING and time.monotonic() >= one.due:
                    self._start_again(one)
                elif failure := self._look(one):
                    if not one.was_ready:
                        raise failure
                    self._plan_restart(one, failure)
        for stage in self._stages:
            for one in stage:
                self._echo(one)

    def _look(self, one: _Watched) -> PartFailed | None:
        """Note what became of the part since the last look; its failure, if it failed."""
        if one.state in (State.DONE, State.WAITING):
            return None
        now = time.monotonic()
        if not one.child.is_running():
            return self._ended(one)
        if one.state is State.READY:
            if now - one.since > _HEALTHY_SECONDS:
                one.deaths = 0
            return None
        reason = "it is still at work" if one.part.once else one.child.not_ready_because()
        if reason is None:
            self._say(one.part.name, f"ready ({now - one.since:.1f} s)", Tone.GOOD)
            one.state, one.since, one.was_ready = State.READY, now, True
        elif now - one.since > one.part.start_seconds:
            one.child.kill_group()
            return one.child.failure(f"was not ready after {one.part.start_seconds:.0f} s: {reason}")
        elif now - one.since > _SLOW_SECONDS and not one.said_slow:
            one.said_slow = True
            self._say(one.part.name, f"not ready yet: {reason}", Tone.WARNING)
        return None

    def _ended(self, one: _Watched) -> PartFailed | None:
        code = one.child.exit_code()
        one.child.kill_group()
        if one.part.once and code == 0:
            self._say(one.part.name, f"done ({time.monotonic() - one.since:.1f} s)", Tone.GOOD)
            one.state = State.DONE
            return None
        return one.child.failure(describe_exit(code))

    def _start_again(self, one: _Watched) -> None:
        try:
            one.start()
        except Exception as exc:  # whatever hinders one part must not take the others down
            self._plan_restart(one, PartFailed(one.part.name, f"could not be started: {exc}"))

    def _plan_restart(self, one: _Watched, failure: PartFailed) -> None:
        one.deaths += 1
        delay = delay_after(one.deaths, one.part.longest_pause)
        one.state, one.due = State.WAITING, time.monotonic() + delay
        again = f"starting it again in {delay:g} s"
        if one.deaths == _LOOP_AFTER:
            self._say(
                one.part.name,
                f"keeps dying ({one.deaths} times in a row): {failure.reason}; everything else stays up; {again}. "
                f"Log: {one.child.log.path}\n{failure.tail}",
                Tone.BAD,
            )
        else:
            self._say(one.part.name, f"{failure.reason}; {again}", Tone.WARNING)

    def _echo(self, one: _Watched) -> None:
        now = time.monotonic()
        if now - one.echoed_since > 60:
            one.echoed, one.echoed_since = 0, now
        for line in one.child.log.new_important_lines():
            one.echoed += 1
            if one.echoed < _ECHOED_PER_MINUTE:
                self._say(one.part.name, line.strip()[:400], Tone.WARNING)
            elif one.echoed == _ECHOED_PER_MINUTE:
                self._say(one.part.name, f"says more; see {one.child.log.path}", Tone.WARNING)
        one.child.log.bound()

    # Stopping

    def _stop_all(self) -> None:
        if any(one.child.is_running() for stage in self._stages for one in stage):
            self._say("bushel", "stopping; a second Ctrl-C hurries", Tone.INFO)
        for stage in reversed(self._stages):
            running = [_Ending(one.child) for one in stage if one.child.is_running()]
            while waiting := [ending for ending in running if not ending.advance(self.was_hurried)]:
                self._pause(min(0.1, *(ending.seconds_left for ending in waiting)))
            for ending in running:
                name, how = ending.child.part.name, describe_exit(ending.child.exit_code())
                tone, text = (Tone.WARNING, f"stopped ({how})") if ending.was_killed else (Tone.INFO, "stopped")
                self._say(name, text, tone)
            for one in stage:
                one.child.kill_group()

    # Signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn signals into wake-ups of `_pause`, so that nothing is done inside a handler."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        before_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        stops = [signal.SIGINT, signal.SIGTERM]
        # `nohup` has asked us to stay when the terminal goes.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            stops.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._count_stop) for number in stops}
        # Not ignored but heard, which is what makes a child's end wake us.
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._wake = reader
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)
            self._wake = None
            reader.close()
            writer.close()

    def _count_stop(self, number: int, frame: object) -> None:
        self._stops += 1

    def _pause(self, seconds: float) -> None:
        """Until `seconds` are over or a signal arrives."""
        assert self._wake is not None
        if select.select([self._wake], [], [], max(0.0, seconds))[0]:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4096)


class _Ending:
    """One child on its way out: its signals in turn, each with its time, then SIGKILL."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.was_killed = False
        self._next = 0
        self._until = time.monotonic()

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def advance(self, hurry: bool) -> bool:
        """Do what is due; True once the child is gone."""
        if not self.child.is_running():
            return True
        if hurry:
            self._hurry()
        if time.monotonic() >= self._until:
            self._send_next()
        return not self.child.is_running()

    def _hurry(self) -> None:
        # A part with a last signal of its own (PostgreSQL's immediate shutdown) still gets that one.
        last = len(self.child.part.stop) - 1
        if self._next <= last and last > 0:
            self._next, self._until = last, 0.0
        elif last == 0:
            self._next, self._until = 1, 0.0

    def _send_next(self) -> None:
        if self._next < len(self.child.part.stop):
            number, seconds = self.child.part.stop[self._next]
            self.child.signal(number)
            self._next, self._until = self._next + 1, time.monotonic() + seconds
        else:
            self.was_killed = True
            self.child.kill_group()
