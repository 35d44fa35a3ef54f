"""The device pipeline of a worker: claim and encode | generate | decode and record, each in its own thread.

Between the stages there is one chunk each, so that the device always has the next chunk at hand and
never waits for the database, what is urgent waits for no more than that, and a stopping worker has
little to hand back. The second stage has two threads: where the engine allows it, a chunk begins while
the last batches of the one before it are still on the device. One more thread keeps the leases: it
renews them, sees within a second when a job was cancelled, and ends the process when a chunk is past
its hard deadline.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from db import chunks, faults, leases, rates, usage
from db.doorbell import FINALIZE, WORK, Doorbell
from db.errors import LeaseLost
from db.recipes import recipe_id
from db.recording import NewResult, Recorded, record
from db.session import Sessions
from workers import isolation, metrics, observation
from workers.device import DeviceClock, Running
from workers.energy import GPUMeter, Meter, between
from workers.engines.base import Engine, EngineBroken, ModelUnavailable, Tally
from workers.engines.load import decoding_params
from workers.keeper import Keeper
from workers.planning import CHUNK_PATIENCE_SECONDS
from workers.reuse import look_up
from workers.turn import Turn
from workers.work import Work, all_failed, encode, log_fields, refuse_all, results_of

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
EXIT_BROKEN = 70
# One chunk that feeds the device, and one whose last batches are on it.
LANES = 2
# Of the newest chunk in the average speed: about the last five count.
SPEED_WEIGHT = 0.2
# An item that is still at it by this part of its chunk's deadline is given up before the watchdog ends the process.
DEADLINE_SHARE = 0.8


class Models(Protocol):
    """What the runner needs of the shelf."""

    def loaded(self) -> list[str]: ...
    def may_load(self, name: str) -> bool: ...
    def take(self, name: str) -> Engine: ...
    def put_back(self, name: str) -> None: ...


class Runner:
    """Serves `models` until stopped. `end_process` is what the watchdog calls with an exit status."""

    def __init__(
        self,
        sessions: Sessions,
        shelf: Models,
        doorbell: Doorbell,
        owner: str,
        models: list[str],
        chunk_deadline_seconds: float,
        poll_seconds: float,
        end_process: Callable[[int], None] = os._exit,
        has_room: Callable[[], bool] = lambda: True,
        meter: Meter | None = None,
    ) -> None:
        self._sessions, self._shelf, self._doorbell, self._owner = sessions, shelf, doorbell, owner
        self._models, self._deadline, self._poll = models, chunk_deadline_seconds, poll_seconds
        self._end_process, self._has_room = end_process, has_room
        self._meter = meter or GPUMeter()
        self._bell = threading.Event()
        self._stopping = threading.Event()
        # Taken before a chunk is claimed, free again when the device begins it: a second one at hand would not keep the
        # device any busier, but would be run before whatever becomes urgent meanwhile.
        self._room = threading.Semaphore(1)
        self._to_device: queue.Queue[Work | None] = queue.Queue()
        # Set while the chunk at hand is one that somebody waits for.
        self._urgent = threading.Event()
        self._to_record: queue.Queue[Work | None] = queue.Queue(maxsize=1)
        self._pace: dict[str, float] = {}
        # Tokens a second of the latest chunks, for whoever asks how the models do.
        self._speeds: dict[str, float] = {}
        self.device = DeviceClock()
        # Held by the lane that takes a chunk, until all of it is on the device.
        self._feeding = threading.Lock()
        self._lanes = LANES
        # What each engine's batches had come to when they were last counted.
        self._counted: WeakKeyDictionary[Engine, Tally] = WeakKeyDictionary()
        self._keeper = Keeper(sessions, chunk_deadline_seconds, partial(end_process, EXIT_BROKEN))
        self._threads = [
            threading.Thread(target=self._surely, args=(stage,), name=name, daemon=True)
            for name, stage in (
                ("reader", self._read),
                *((f"device-{lane}", self._generate) for lane in range(LANES)),
                ("writer", self._write),
                ("keeper", self._keeper.run),
            )
        ]

    def _surely(self, stage: Callable[[], None]) -> None:
        """Run a stage. One that dies of something unforeseen takes the process along: half a pipeline only hangs."""
        try:
            stage()
        except BaseException:
            # Base, because a panic in a tokenizer written in Rust is no Exception.
            logger.critical("a stage of the pipeline died", exc_info=True, extra={"action": "stage_died"})
            self._end_process(EXIT_BROKEN)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def leases_held(self) -> int:
        return self._keeper.count()

    def speeds(self) -> dict[str, float]:
        """Tokens a second, in and out, of each model's latest chunks."""
        return dict(self._speeds)

    def wake(self) -> None:
        """There may be work: look now instead of at the next poll."""
        self._bell.set()

    def begin_stop(self) -> None:
        """Claim no more. Safe inside a signal handler."""
        self._stopping.set()
        self._bell.set()

    def stop(self, grace_seconds: float) -> None:
        """Let the running chunk finish within the grace, then hand its rest back; return when all is written."""
        self.begin_stop()
        *stages, keeper = self._threads
        give_up_at = time.monotonic() + grace_seconds
        for thread in stages:
            thread.join(max(0.0, give_up_at - time.monotonic()))
        self._keeper.stop_all()
        for thread in stages:
            thread.join()
        self._keeper.close()
        keeper.join()

    # --- first stage -------------------------------------------------------------------------

    def _read(self) -> None:
        while self._room.acquire() and not self._stopping.is_set():
            try:
                work = self._next_work()
            except (SQLAlchemyError, OSError) as exc:
                logger.warning("cannot claim: %s", exc, extra={"action": "claim_failed"})
                work = None
            except Exception:
                # The task edge of this stage: whatever it is, the worker goes on and says so.
                logger.exception("claiming failed", extra={"action": "claim_failed"})
                work = None
            if work is not None:
                if work.claim.interactive:
                    self._urgent.set()
                self._to_device.put(work)
                continue
            self._room.release()
            self._bell.wait(self._poll)
            self._bell.clear()
        self._to_device.put(None)

    def _next_work(self) -> Work | None:
        if not self._has_room():
            # Results are rows, and rows need room too.
            return None
        if self._keeper.holds_suspect():
            self._keeper.wait_until_idle()
        models = [name for name in self._models if self._shelf.may_load(name)]
        with self._sessions() as session:
            candidates = chunks.candidates(session, models, self._shelf.loaded())
        for candidate in candidates:
            if not self._shelf.may_load(candidate.model):
                # It failed for a candidate before this one.
                continue
            try:
                engine = self._shelf.take(candidate.model)
            except ModelUnavailable:
                # The shelf said why and rests the model; nothing was claimed for it.
                continue
            work = None
            try:
                work = self._claim_alone(candidate, engine)
            finally:
                if work is None:
                    self._shelf.put_back(candidate.model)
            if work is not None:
                return work
        return None

    def _claim_alone(self, candidate: chunks.Candidate, engine: Engine) -> Work | None:
        """Claim; but a chunk that cost a worker before is not held beside others.

        Whichever of the chunks it holds kills a process, all of them are counted as its victims'
        killers. An item cut out to be tried alone has one death left, and must not lose it so.
        """
        work = self._claim(candidate, engine)
        if work is None or not work.claim.crashes or self._keeper.holds_only(work):
            return work
        self._hand_back(work)
        self._keeper.wait_until_idle()
        return self._claim(candidate, engine)

    def _claim(self, candidate: chunks.Candidate, engine: Engine) -> Work | None:
        with self._sessions() as session:
            claim = chunks.claim(session, candidate, self._owner, self._deadline)
            if claim is None:
                session.rollback()
                return None
            session.commit()
        faults.reached("after claim")
        work = Work(claim, engine)
        self._keeper.hold(work)
        try:
            observation.claimed(work)
            # The next worker hears of what is left, and rings on in its turn.
            self._doorbell.ring(WORK, claim.model)
            with observation.at_chunk(work):
                return self._prepared(work)
        except Exception:
            # Held on, it would be renewed for ever, and no deadline runs for what never begins.
            self._hand_back(work)
            raise

    def _prepared(self, work: Work) -> Work:
        """With its items, encoded. What can never be prepared fails: given back, it would come again, and for ever."""
        claim = work.claim
        try:
            with work.stage("read"), self._sessions() as session:
                work.items = chunks.items_of(session, claim.chunk_id)
                look_up(session, work)
        except SQLAlchemyError as exc:
            logger.warning("chunk %s not read: %s", claim.chunk_id, exc, extra=log_fields(work, "chunk_unreadable"))
            # Goes its way without items: the last stage gives it back as soon as the database is there again.
            work.stop.set()
            return work
        try:
            with work.stage("tokenize"):
                work.params = decoding_params(claim.params)
                encode(work)
        except Exception:
            logger.exception("chunk %s cannot be prepared", claim.chunk_id, extra=log_fields(work, "unpreparable"))
            refuse_all(work)
        return work

    def _hand_back(self, work: Work) -> None:
        """Give the chunk up as it is. If even that fails, its lease runs out and the reconciler does it."""
        self._keeper.let_go(work)
        try:
            with self._sessions.begin() as session:
                record(session, *work.lease, [])
        except (LeaseLost, SQLAlchemyError) as exc:
            logger.warning(
                "chunk %s not handed back: %s", work.claim.chunk_id, exc, extra=log_fields(work, "lease_lost")
            )

    # --- second stage ------------------------------------------------------------------------

    def _generate(self) -> None:
        while (work := self._generated()) is not None:
            faults.reached("after run")
            self._to_record.put(work)
        with self._feeding:
            self._lanes -= 1
            is_last = self._lanes == 0
        if is_last:
            self._to_record.put(None)

    def _generated(self) -> Work | None:
        with Turn(self._feeding) as turn:
            work = self._to_device.get()
            if work is None:
                # For the next lane.
                self._to_device.put(None)
                return None
            self._urgent.clear()
            self._room.release()
            with observation.at_chunk(work):
                self._run(work, turn)
            return work

    def _run(self, work: Work, turn: Turn) -> None:
        running = Running(work.claim.chunk_id, work.claim.model, time.time(), work.claim.items)
        self.device.begin(running)
        joules = self._meter.joules(work.engine.recipe.device)
        work.begin()
        try:
            work.outputs = isolation.generate(
                work.engine,
                work.encoded,
                work.params,
                partial(self._must_stop, work),
                work.advance,
                work.slices(self._pace.get(work.claim.model)),
                partial(self._is_enough, work),
                turn.pass_on,
            )
        except EngineBroken as exc:
            logger.critical("the engine is broken: %s", exc, extra=log_fields(work, "engine_broken"))
            self._end_process(EXIT_BROKEN)
        work.end(self.device.end(running))
        work.joules = between(joules, self._meter.joules(work.engine.recipe.device))

    def _must_stop(self, work: Work) -> bool:
        return work.stop.is_set() or work.note_time(DEADLINE_SHARE * self._deadline)

    def _is_enough(self, work: Work) -> bool:
        assert work.begun_at is not None
        if self._stopping.is_set() or time.monotonic() - work.begun_at > CHUNK_PATIENCE_SECONDS:
            return True
        # A slice at least, or requests without end would keep it from ever getting on.
        return self._urgent.is_set() and work.progress > 0

    def _note_pace(self, work: Work) -> None:
        """Seconds per input token of the latest chunk, and its speed. Only the third stage writes them."""
        if (tokens := work.consumed) and not work.claim.interactive:
            self._pace[work.claim.model] = max(work.seconds, 1e-6) / tokens
            speed = (tokens + work.produced) / max(work.seconds, 1e-6)
            before = self._speeds.get(work.claim.model, speed)
            self._speeds[work.claim.model] = before + SPEED_WEIGHT * (speed - before)

    # --- third stage -------------------------------------------------------------------------

    def _write(self) -> None:
        while (work := self._to_record.get()) is not None:
            with observation.at_chunk(work):
                self._settle(work)

    def _count_batches(self, work: Work) -> None:
        """With those of a chunk beside it, if that is where they ended."""
        model, now = work.claim.model, replace(work.engine.tally)
        metrics.count_batches(model, now.since(self._counted.get(work.engine, Tally())))
        metrics.HALVINGS.labels(model).inc(work.outputs.halvings)
        self._counted[work.engine] = now

    def _settle(self, work: Work) -> None:
        """Decode, record, let go, and ring for what is next."""
        self._note_pace(work)
        self._count_batches(work)
        with work.stage("detokenize"), work.busy():
            results = self._results(work)
        faults.reached("before record")
        with work.stage("write"):
            recorded, results = self._record(work, results)
        self._keeper.let_go(work)
        self._shelf.put_back(work.claim.model)
        observation.recorded(work, results, recorded)
        if recorded is None:
            self._acquit(work)
            self._charge(work)
            return
        faults.reached("between commit and ring")
        if recorded.finalize:
            self._doorbell.ring(FINALIZE, recorded.job_id)
        if recorded.handed_back or recorded.is_idle:
            self._doorbell.ring(WORK, work.claim.model)

    def _results(self, work: Work) -> list[NewResult]:
        try:
            return results_of(work)
        except Exception:
            logger.exception("chunk %s cannot be decoded", work.claim.chunk_id, extra=log_fields(work, "undecodable"))
            return all_failed(work)

    def _acquit(self, work: Work) -> None:
        """The chunk did not kill this process, which lives to say so; unless it outlived its deadline."""
        if work.seconds_there > DEADLINE_SHARE * self._deadline:
            return
        try:
            with self._sessions.begin() as session:
                is_charged = leases.acquit(session, work.claim.chunk_id, work.claim.crashes)
        except SQLAlchemyError as exc:
            logger.warning("a chunk is not acquitted: %s", exc, extra=log_fields(work, "acquit_failed"))
            return
        if is_charged:
            logger.info("chunk %s is acquitted", work.claim.chunk_id, extra=log_fields(work, "chunk_acquitted"))

    def _charge(self, work: Work) -> None:
        """Let the job pay for what was thrown away. Where it may have been recorded, not: better never than twice."""
        if work.is_doubtful:
            return
        try:
            with self._sessions.begin() as session:
                usage.waste(session, work.claim.job_id, work.claim.model, work.spent)
        except SQLAlchemyError as exc:
            logger.warning("what a chunk took is not counted: %s", exc, extra=log_fields(work, "charge_failed"))

    def _record(self, work: Work, results: list[NewResult]) -> tuple[Recorded | None, list[NewResult]]:
        """Write until it is written or (None) the lease is gone; the database may be away for a while. With what of it.

        When a commit's acknowledgement is lost, the next try finds the chunk done: LeaseLost, rightly.
        A stopping process tries no longer than its lease can last.
        """
        give_up_at = time.monotonic() + chunks.LEASE_SECONDS
        is_refused = False
        while not (work.lost or (self._stopping.is_set() and time.monotonic() > give_up_at)):
            try:
                with self._sessions.begin() as session:
                    made = asdict(work.engine.recipe) | {"params": work.claim.params}
                    recipe = None if work.is_copied else recipe_id(session, made)
                    recorded = record(session, *work.lease, results, recipe, work.spent)
                    if not work.claim.interactive:
                        is_whole = len(results) == work.claim.items and not work.known
                        tokens = work.claim.tokens if is_whole else 0
                        rates.observe(session, work.claim.model, work.consumed, work.produced, work.seconds, tokens)
                logger.info(
                    "chunk %s: %d results in %.2f s",
                    work.claim.chunk_id,
                    len(results),
                    work.seconds,
                    extra=log_fields(work, "chunk_recorded"),
                )
                return recorded, results
            except LeaseLost as exc:
                logger.warning("%s", exc, extra=log_fields(work, "lease_lost"))
                return None, results
            except (DataError, IntegrityError):
                # The database refuses these rows, and always will.
                logger.exception("results are refused", extra=log_fields(work, "results_refused"))
                if is_refused:
                    return None, results
                results, is_refused = all_failed(work), True
            except SQLAlchemyError as exc:
                work.is_doubtful = True
                logger.warning("cannot record, trying again: %s", exc, extra=log_fields(work, "record_failed"))
                self._keeper.pause(RETRY_SECONDS)
        return None, results
