"""The device pipeline of a worker: claim and encode | generate | decode and record, each in its own thread.

The queues between the stages hold one chunk each, so that the device always has the next chunk at
hand and never waits for the database, and a stopping worker has little to hand back. A fourth
thread keeps the leases: it renews them, sees within a second when a job was cancelled, and ends the
process when a chunk is past its hard deadline.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from db import chunks, leases, rates
from db.chunks import Claim, ClaimedItem
from db.doorbell import FINALIZE, WORK, Doorbell
from db.errors import LeaseLost
from db.recipes import recipe_id
from db.recording import NewResult, Recorded, record
from db.session import Sessions
from db.states import JobStatus, Outcome
from workers import isolation
from workers.engines.base import Encoded, Engine, EngineBroken, Generation, Message, ModelUnavailable, Params, Prompt
from workers.isolation import Fault, Outputs
from workers.planning import CHUNK_PATIENCE_SECONDS, slices

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
WATCH_SECONDS = 0.5
RETRY_SECONDS = 1.0
EXIT_BROKEN = 70


class Models(Protocol):
    """What the runner needs of the shelf."""

    def loaded(self) -> list[str]: ...
    def may_load(self, name: str) -> bool: ...
    def take(self, name: str) -> Engine: ...
    def put_back(self, name: str) -> None: ...


@dataclass(slots=True)
class Work:
    """A claimed chunk on its way through the stages."""

    claim: Claim
    engine: Engine
    params: Params
    items: list[ClaimedItem]
    # Positions in `items` of those to compute; twins and refused ones are not among them.
    places: list[int] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)
    refused: dict[int, Fault] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=Outputs)
    seconds: float = 0.0
    progress: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    lost: bool = False
    claimed_at: float = field(default_factory=time.monotonic)

    @property
    def consumed(self) -> int:
        """Input tokens of the prompts that have an output."""
        return sum(len(self.encoded[at]) for at in self.outputs.generations)

    @property
    def produced(self) -> int:
        return sum(len(generation.tokens) for generation in self.outputs.generations.values())

    @property
    def lease(self) -> tuple[int, int]:
        return self.claim.chunk_id, self.claim.attempt


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
    ) -> None:
        self._sessions, self._shelf, self._doorbell, self._owner = sessions, shelf, doorbell, owner
        self._models, self._deadline, self._poll = models, chunk_deadline_seconds, poll_seconds
        self._end_process = end_process
        self._bell = threading.Event()
        self._stopping = threading.Event()
        self._drained = threading.Event()
        self._to_device: queue.Queue[Work | None] = queue.Queue(maxsize=1)
        self._to_record: queue.Queue[Work | None] = queue.Queue(maxsize=1)
        self._pace: dict[str, float] = {}
        self._held: dict[tuple[int, int], Work] = {}
        # Notified when a chunk leaves.
        self._lock = threading.Condition()
        self._threads = [
            threading.Thread(target=self._surely, args=(stage,), name=stage.__name__.strip("_"), daemon=True)
            for stage in (self._read, self._generate, self._write, self._keep_leases)
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
        reader, device, writer, keeper = self._threads
        give_up_at = time.monotonic() + grace_seconds
        for thread in (reader, device, writer):
            thread.join(max(0.0, give_up_at - time.monotonic()))
        with self._lock:
            for work in self._held.values():
                work.stop.set()
        for thread in (reader, device, writer):
            thread.join()
        self._drained.set()
        keeper.join()

    # --- first stage -------------------------------------------------------------------------

    def _read(self) -> None:
        while not self._stopping.is_set():
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
                self._to_device.put(work)
                continue
            self._bell.wait(self._poll)
            self._bell.clear()
        self._to_device.put(None)

    def _next_work(self) -> Work | None:
        self._leave_suspects_alone()
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
        if work is None or not work.claim.crashes or len(self._held) == 1:
            return work
        self._hand_back(work)
        self._until_idle()
        return self._claim(candidate, engine)

    def _leave_suspects_alone(self) -> None:
        with self._lock:
            is_suspect = any(work.claim.crashes for work in self._held.values())
        if is_suspect:
            self._until_idle()

    def _until_idle(self) -> None:
        """Wait until no chunk is held; each leaves in bounded time, or its deadline ends the process."""
        with self._lock:
            self._lock.wait_for(lambda: not self._held)

    def _claim(self, candidate: chunks.Candidate, engine: Engine) -> Work | None:
        with self._sessions() as session:
            claim = chunks.claim(session, candidate, self._owner, self._deadline)
            if claim is None:
                session.rollback()
                return None
            session.commit()
        params = Params(**_tupled(claim.params))
        work = Work(claim, engine, params, [])
        with self._lock:
            self._held[work.lease] = work
        # The next worker hears of what is left, and rings on in its turn.
        self._doorbell.ring(WORK, claim.model)
        try:
            with self._sessions() as session:
                work.items = chunks.items_of(session, claim.chunk_id)
        except SQLAlchemyError as exc:
            logger.warning("chunk %s not read: %s", claim.chunk_id, exc, extra=_fields(work, "chunk_unreadable"))
            self._hand_back(work)
            return None
        _encode(work)
        return work

    def _hand_back(self, work: Work) -> None:
        """Give the chunk up as it is. If even that fails, its lease runs out and the reconciler does it."""
        self._let_go(work)
        try:
            with self._sessions.begin() as session:
                record(session, *work.lease, [])
        except (LeaseLost, SQLAlchemyError) as exc:
            logger.warning("chunk %s not handed back: %s", work.claim.chunk_id, exc, extra=_fields(work, "lease_lost"))

    # --- second stage ------------------------------------------------------------------------

    def _generate(self) -> None:
        while (work := self._to_device.get()) is not None:
            began = time.monotonic()
            try:
                work.outputs = isolation.generate(
                    work.engine,
                    work.encoded,
                    work.params,
                    work.stop.is_set,
                    partial(_advance, work),
                    slices([len(prompt) for prompt in work.encoded], self._pace.get(work.claim.model)),
                    partial(self._is_enough, began),
                )
            except EngineBroken as exc:
                logger.critical("the engine is broken: %s", exc, extra=_fields(work, "engine_broken"))
                self._end_process(EXIT_BROKEN)
            work.seconds = time.monotonic() - began
            self._note_pace(work)
            self._to_record.put(work)
        self._to_record.put(None)

    def _is_enough(self, began: float) -> bool:
        return self._stopping.is_set() or time.monotonic() - began > CHUNK_PATIENCE_SECONDS

    def _note_pace(self, work: Work) -> None:
        """Seconds per input token of the latest chunk. Only this thread touches it."""
        if tokens := work.consumed:
            self._pace[work.claim.model] = max(work.seconds, 1e-6) / tokens

    # --- third stage -------------------------------------------------------------------------

    def _write(self) -> None:
        while (work := self._to_record.get()) is not None:
            try:
                results = _results(work)
            except Exception:
                logger.exception("chunk %s cannot be decoded", work.claim.chunk_id, extra=_fields(work, "undecodable"))
                results = _all_failed(work)
            recorded = self._record(work, results)
            self._let_go(work)
            self._shelf.put_back(work.claim.model)
            if recorded is None:
                continue
            if recorded.finalize:
                self._doorbell.ring(FINALIZE, recorded.job_id)
            if recorded.handed_back:
                self._doorbell.ring(WORK, work.claim.model)

    def _record(self, work: Work, results: list[NewResult]) -> Recorded | None:
        """Write until it is written or the lease is gone; the database may be away for a while.

        When a commit's acknowledgement is lost, the next try finds the chunk done: LeaseLost, rightly.
        A stopping process tries no longer than its lease can last.
        """
        give_up_at = time.monotonic() + chunks.LEASE_SECONDS
        while not (work.lost or (self._stopping.is_set() and time.monotonic() > give_up_at)):
            try:
                with self._sessions.begin() as session:
                    recipe = recipe_id(session, asdict(work.engine.recipe) | {"params": work.claim.params})
                    recorded = record(session, *work.lease, results, recipe)
                    rates.observe(session, work.claim.model, work.consumed, work.produced, work.seconds)
                logger.info(
                    "chunk %s: %d results in %.2f s",
                    work.claim.chunk_id,
                    len(results),
                    work.seconds,
                    extra=_fields(work, "chunk_recorded"),
                )
                return recorded
            except LeaseLost as exc:
                logger.warning("%s", exc, extra=_fields(work, "lease_lost"))
                return None
            except SQLAlchemyError as exc:
                logger.warning("cannot record, trying again: %s", exc, extra=_fields(work, "record_failed"))
                self._drained.wait(RETRY_SECONDS)
        return None

    def _let_go(self, work: Work) -> None:
        with self._lock:
            self._held.pop(work.lease, None)
            self._lock.notify_all()

    # --- leases ------------------------------------------------------------------------------

    def _keep_leases(self) -> None:
        renew_at = time.monotonic()
        while not self._drained.wait(WATCH_SECONDS):
            with self._lock:
                mine = dict(self._held)
            if not mine:
                continue
            self._watch_deadlines(mine)
            try:
                self._watch(mine)
                if time.monotonic() >= renew_at:
                    with self._sessions.begin() as session:
                        leases.renew(session, {lease: work.progress for lease, work in mine.items()})
                    renew_at = time.monotonic() + HEARTBEAT_SECONDS
            except (SQLAlchemyError, OSError) as exc:
                logger.warning("cannot renew leases: %s", exc, extra={"action": "renew_failed"})

    def _watch_deadlines(self, mine: dict[tuple[int, int], Work]) -> None:
        """By this process's clock, for when the database is away, or took the chunk back before we looked."""
        for work in mine.values():
            if time.monotonic() - work.claimed_at > self._deadline:
                self._end_hanging(work)

    def _end_hanging(self, work: Work) -> None:
        logger.critical("chunk %s hangs; ending the process", work.claim.chunk_id, extra=_fields(work, "chunk_hangs"))
        self._end_process(EXIT_BROKEN)

    def _watch(self, mine: dict[tuple[int, int], Work]) -> None:
        with self._sessions() as session:
            standing = {(held.chunk_id, held.attempt): held for held in leases.held(session, list(mine))}
        for lease, work in mine.items():
            held = standing.get(lease)
            if held is None:
                # Recorded a moment ago, or taken away; the fence tells which when it is written.
                with self._lock:
                    work.lost = lease in self._held
                work.stop.set()
            elif held.job_status is not JobStatus.IN_PROGRESS:
                work.stop.set()
            elif held.past_deadline:
                self._end_hanging(work)


def _advance(work: Work) -> None:
    work.progress += 1


def _tupled(params: dict[str, Any]) -> dict[str, Any]:
    return params | {"stop": tuple(params.get("stop") or ())}


def _prompt(body: dict[str, Any]) -> Prompt:
    if "messages" in body:
        return Prompt(messages=tuple(Message(turn["role"], turn["content"]) for turn in body["messages"]))
    return Prompt(body["text"])


def _encode(work: Work) -> None:
    """Fill in what is to be computed: not twins, not items that are refused."""
    places = [place for place, item in enumerate(work.items) if item.same_as is None]
    for place, encoded in zip(places, _encoded(work, places), strict=True):
        if isinstance(encoded, Fault):
            work.refused[place] = encoded
        elif encoded.dropped and work.claim.long_input == "error":
            work.refused[place] = _too_long(encoded)
        else:
            work.places.append(place)
            work.encoded.append(encoded)


def _encoded(work: Work, places: list[int]) -> Sequence[Encoded | Fault]:
    """All prompts at once; should that fail, one by one, so that a bad one fails alone."""
    prompts = [_prompt(work.items[place].input) for place in places]
    try:
        return work.engine.encode(prompts, work.params)
    except Exception as exc:
        logger.warning("encoding one by one: %s", type(exc).__name__, extra=_fields(work, "encode_failed"))
    return [_encoded_alone(work, prompt) for prompt in prompts]


def _encoded_alone(work: Work, prompt: Prompt) -> Encoded | Fault:
    try:
        [encoded] = work.engine.encode([prompt], work.params)
    except ValueError as exc:
        # What engines raise on purpose for an input they cannot take; its message is for the user.
        return Fault("invalid_input", str(exc))
    except Exception as exc:
        logger.warning("an input cannot be encoded", exc_info=exc, extra=_fields(work, "encode_failed"))
        return Fault("engine_error", f"the input could not be encoded: {type(exc).__name__}")
    return encoded


def _too_long(encoded: Encoded) -> Fault:
    length = len(encoded) + encoded.dropped
    return Fault(
        "input_too_long",
        f"the input has {length} tokens, the model takes {len(encoded)}; shorten it or submit with"
        ' long_input: "truncate"',
    )


def _results(work: Work) -> list[NewResult]:
    """Decode what was generated and give twins the outcome of their original."""
    order = sorted(work.outputs.generations)
    generations = [work.outputs.generations[at] for at in order]
    texts = _texts(work, generations)
    by_idx: dict[int, NewResult] = {}
    for at, generation, text in zip(order, generations, texts, strict=True):
        idx = work.items[work.places[at]].idx
        if isinstance(text, Fault):
            by_idx[idx] = _failed(idx, text)
            continue
        by_idx[idx] = NewResult(
            idx,
            Outcome.SUCCEEDED,
            _output(text, generation, work.encoded[at]),
            input_tokens=len(work.encoded[at]),
            output_tokens=len(generation.tokens),
        )
    faults = {work.places[at]: fault for at, fault in work.outputs.faults.items()} | work.refused
    for place, fault in faults.items():
        idx = work.items[place].idx
        by_idx[idx] = _failed(idx, fault)
    return [*by_idx.values(), *_twins(work, by_idx)]


def _texts(work: Work, generations: list[Generation]) -> Sequence[str | Fault]:
    """All outputs at once; should that fail, one by one, so that a bad one fails alone."""
    try:
        return work.engine.decode(generations, work.params)
    except Exception as exc:
        logger.warning("decoding one by one: %s", type(exc).__name__, extra=_fields(work, "decode_failed"))
    return [_text_alone(work, generation) for generation in generations]


def _text_alone(work: Work, generation: Generation) -> str | Fault:
    try:
        [text] = work.engine.decode([generation], work.params)
    except Exception as exc:
        logger.warning("an output cannot be decoded", exc_info=exc, extra=_fields(work, "decode_failed"))
        return Fault("engine_error", f"the output could not be decoded: {type(exc).__name__}")
    return text


def _twins(work: Work, by_idx: dict[int, NewResult]) -> list[NewResult]:
    # Twins cost nothing: their usage is zero, so that usage sums to what was computed.
    return [
        NewResult(item.idx, first.outcome, first.output, first.error_code, first.error_message)
        for item in work.items
        if item.same_as is not None and (first := by_idx.get(item.same_as)) is not None
    ]


def _output(text: str, generation: Generation, encoded: Encoded) -> dict[str, Any]:
    output: dict[str, Any] = {"text": text, "finish_reason": generation.finish_reason}
    if generation.score is not None:
        output["score"] = round(generation.score, 4)
    if encoded.dropped:
        output["truncated_tokens"] = encoded.dropped
    return output


def _failed(idx: int, fault: Fault) -> NewResult:
    return NewResult(idx, Outcome.FAILED, error_code=fault.code, error_message=fault.message)


def _all_failed(work: Work) -> list[NewResult]:
    message = "the output could not be decoded"
    return [
        NewResult(item.idx, Outcome.FAILED, error_code="engine_error", error_message=message) for item in work.items
    ]


def _fields(work: Work, action: str) -> dict[str, Any]:
    return {
        "action": action,
        "job_id": work.claim.job_id,
        "chunk_id": work.claim.chunk_id,
        "attempt": work.claim.attempt,
        "model": work.claim.model,
    }
