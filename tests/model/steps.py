"""Steps of the service that stand still before each of their commits, while others go on."""

import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.session import Sessions

_here = threading.local()


class Killed(BaseException):
    """What a step meets instead of its next commit when its process was killed."""


def listen(sessions: Sessions) -> None:
    """Let steps that work with these sessions stand still before they commit."""
    event.listen(sessions, "before_commit", _stand_still)


def _stand_still(session: Session) -> None:
    step: Step | None = getattr(_here, "step", None)
    if step is not None:
        step.stand_still()


def is_lock_timeout(error: BaseException) -> bool:
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) == "55P03"


class Step:
    """`work` in a thread of its own. It runs only while `go` waits for it, so that its seed alone decides what happens.

    Where it stands still it has done all of a transaction but the commit, and holds the locks.
    """

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        self.name, self._work = name, work
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._is_killed = False
        self.is_over = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def go(self) -> None:
        """On to before the next commit, or to the end; what made it fail is raised here."""
        self._mine.release()
        self._theirs.acquire()
        if self.is_over:
            self._thread.join()
        if self.error is not None and not is_lock_timeout(self.error):
            raise self.error

    def kill(self) -> None:
        """End it where it stands: its transaction is rolled back, and it never begins another one."""
        self._is_killed = True
        while not self.is_over:
            self.go()

    def stand_still(self) -> None:
        if not self._is_killed:
            self._theirs.release()
            self._mine.acquire()
        if self._is_killed:
            raise Killed(self.name)

    def _run(self) -> None:
        self._mine.acquire()
        _here.step = self
        try:
            if not self._is_killed:
                self._work()
        except Killed:
            pass
        except BaseException as exc:
            self.error = exc
        finally:
            self.is_over = True
            self._theirs.release()
