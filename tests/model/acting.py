"""How anybody acts on the ledger in the model: in transactions that may stand still, and what is known of them."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import deliveries
from db.doorbell import RecordingDoorbell
from tests.model.expectations import ExpectedJob, Lease
from tests.model.steps import Step, is_lock_timeout
from tests.model.world import World

T = TypeVar("T")
MOST_JOBS, MOST_OPEN, MOST_STEPS = 6, 3, 3

picks = st.integers(0, 11)
# Whether whoever acts stops before its commit; most do not, or nobody would ever get anywhere.
stops = st.sampled_from([False, False, False, True])


class Ends(Exception):
    """The transaction is to be undone, with a value for who began it."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Acting(RuleBasedStateMachine):
    """What has happened so far. Subclasses say in which `world`."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.tenants = self.world.wipe()
        self.bell = RecordingDoorbell()
        self.jobs: dict[str, ExpectedJob] = {}
        self.leases: list[Lease] = []
        self.tries: list[deliveries.Claim] = []
        self.hooks: list[tuple[str, str]] = []
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        # Transactions that wait for their commit, each with what it means to us once it is there.
        self.open: list[tuple[Session, Callable[[], None]]] = []
        self.steps: list[Step] = []
        self.rows: dict[str, Any] = {}
        self.results: dict[tuple[str, int], tuple[Any, ...]] = {}
        self.chunks: dict[int, Any] = {}
        self.delivered: set[str] = set()
        self.restarts = self.kills = 0

    def transact(
        self, work: Callable[[Session], T], done: Callable[[T], None] | None = None, stop: bool = False
    ) -> None:
        """Run `work` in a transaction, and `done` with what came of it once that is committed.

        A lock timeout is as if it had not been tried. `Ends` rolls back, and is an outcome too.
        """
        session = self.world.sessions()
        try:
            value = work(session)
            if stop and len(self.open) < MOST_OPEN:
                self.open.append((session, lambda: done(value) if done else None))
                return
            session.commit()
        except Ends as exc:
            session.close()
            if done:
                done(exc.value)
            return
        except Exception as exc:
            session.close()
            if not is_lock_timeout(exc):
                raise
            return
        session.close()
        if done:
            done(value)

    def move_clock(self, statement: str, **values: Any) -> None:
        self.transact(lambda session: session.execute(text(statement), values))

    def step(self, name: str, work: Callable[[], Any], stop: bool) -> None:
        """Let a process do a step of the service, whole or up to its first commit."""
        if stop and len(self.steps) < MOST_STEPS:
            step = Step(name, work)
            self.steps.append(step)
            self.proceed(step)
            return
        try:
            work()
        except Exception as exc:
            if not is_lock_timeout(exc):
                raise

    def proceed(self, step: Step) -> None:
        step.go()
        if step.is_over:
            self.steps.remove(step)

    def job(self, pick: int) -> ExpectedJob:
        known = list(self.jobs.values())
        return known[pick % len(known)]

    @property
    def nobody_waits(self) -> bool:
        """Whether nothing is locked."""
        return not self.open and not self.steps

    def live(self) -> list[Lease]:
        return [lease for lease in self.leases if lease.is_live]

    def _waiting(self, *statuses: str) -> list[str]:
        return [id for id in self.jobs if id in self.rows and self.rows[id].status in statuses]

    def _runs(self, job_id: str) -> bool:
        return job_id in self.jobs and self.rows[job_id].status == "in_progress" and not self.rows[job_id].paused
