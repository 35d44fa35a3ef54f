"""A claimed chunk on its way through a worker: stored inputs to prompts, generations to results.

What can go wrong with one item goes wrong with that item alone. An item may have several prompts, and each of them
several copies; it is answered as a whole, once all of them are.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec

from db.chunks import Claim, ClaimedItem
from db.recording import NewResult
from db.states import Outcome, Reuse
from db.usage import Spent
from models.params import copies
from telemetry.traces import Moment, now
from workers import planning
from workers.engines.base import BadParam, Encoded, Engine, Generation, Message, Params, Prompt
from workers.isolation import Fault, Outputs, WrongOutputs
from workers.outputs import output_of

logger = logging.getLogger(__name__)

# Of one item. Each takes some 500 bytes while it is an object, and 70 in the ledger, where a value has 255 MB at most.
MOST_LOGPROBS = 500_000


@dataclass(slots=True)
class Work:
    """A chunk under lease, with what is known of it so far."""

    claim: Claim
    engine: Engine
    params: Params = field(default_factory=Params)
    items: list[ClaimedItem] = field(default_factory=list)
    # Results that are there already, by place in `items`, and the keys under which the others may be remembered.
    known: dict[int, NewResult] = field(default_factory=dict)
    keys: dict[int, bytes] = field(default_factory=dict)
    # What to compute, prompt after prompt, and which positions in it belong to the item at which place in `items`;
    # known ones, twins and refused ones have none.
    encoded: list[Encoded] = field(default_factory=list)
    spans: dict[int, range] = field(default_factory=dict)
    refused: dict[int, Fault] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=Outputs)
    # By the wall's clock, as are the moments: what it went through, in order.
    claimed_at: float = field(default_factory=now)
    moments: list[Moment] = field(default_factory=list)
    # On the monotonic clock; None while it waits for the device.
    begun_at: float | None = None
    # While the engine is at it, on the same clock; None while it waits for its turn, or for the database.
    busy_since: float | None = None
    # What it had of the device, and how long it was there, perhaps beside another chunk.
    seconds: float = 0.0
    seconds_there: float = 0.0
    joules: float | None = None
    # Recording it went wrong in a way that may be no more than an acknowledgement that was lost.
    is_doubtful: bool = False
    # Its time is nearly over, and it has items of several prompts, which are generated as one.
    is_late: bool = False
    progress: int = 0
    # Set when nothing more should be generated; `lost` when the lease is gone besides.
    stop: threading.Event = field(default_factory=threading.Event)
    lost: bool = False

    @property
    def lease(self) -> tuple[int, int]:
        return self.claim.chunk_id, self.claim.attempt

    @property
    def spent(self) -> Spent:
        return Spent(self.seconds, self.joules)

    @property
    def is_copied(self) -> bool:
        """Whether all its results are those of other chunks of the job, which had recipes of their own."""
        return len(self.known) == len(self.items) and all(each.reuse is Reuse.SAME for each in self.known.values())

    @property
    def consumed(self) -> int:
        """Input tokens of the prompts that have an output."""
        return sum(len(self.encoded[at]) for at in self.outputs.generations)

    @property
    def produced(self) -> int:
        """Output tokens."""
        return sum(len(each.tokens) for generation in self.outputs.generations.values() for each in generation.all)

    def note_time(self, seconds: float) -> bool:
        """Whether to stop because the chunk has taken so many seconds and may never end.

        A single prompt ends or hangs, and a hang is not ours to end. But an item of many prompts may simply be too
        much for this device, and would be so again and again.
        """
        assert self.begun_at is not None
        if time.monotonic() - self.begun_at > seconds:
            self.is_late = any(len(span) > 1 for span in self.spans.values())
        return self.is_late

    def slices(self, seconds_per_token: float | None) -> list[list[int]]:
        """Positions in `encoded`, cut by pace; the prompts of one item stay together, since half an item is nothing."""
        spans = list(self.spans.values())
        lengths = [sum(len(self.encoded[at]) for at in span) for span in spans]
        cut = planning.slices(lengths, seconds_per_token)
        return [list(chain.from_iterable(spans[member] for member in members)) for members in cut]

    def advance(self) -> None:
        self.progress += 1

    def begin(self) -> None:
        self.begun_at = self.busy_since = time.monotonic()
        if self.moments:
            last = self.moments[-1]
            ready = last.began + last.seconds
            self.moments.append(Moment("device_wait", ready, max(0.0, now() - ready)))

    def end(self, seconds: float) -> None:
        assert self.begun_at is not None
        self.seconds, self.seconds_there = seconds, time.monotonic() - self.begun_at
        self.busy_since = None
        self.moments.append(Moment("device", now() - self.seconds_there, self.seconds_there))

    @contextmanager
    def busy(self) -> Iterator[None]:
        """The engine is at it again while the block lasts, and may hang again."""
        self.busy_since = time.monotonic()
        try:
            yield
        finally:
            self.busy_since = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note what the part inside takes, whatever comes of it."""
        began, clock = now(), time.perf_counter()
        try:
            yield
        finally:
            self.moments.append(Moment(name, began, time.perf_counter() - clock))


def _prompts(body: dict[str, Any]) -> list[Prompt]:
    if "messages" in body:
        return [Prompt(messages=tuple(Message(turn["role"], turn["content"]) for turn in body["messages"]))]
    return [Prompt(text) for text in body["texts"]] if "texts" in body else [Prompt(body["text"])]


def twins_of(items: Sequence[ClaimedItem]) -> dict[int, int]:
    """Which item of a chunk takes the outcome of which other one there, by their places.

    Of items that are equal to one that is not there, the first stands for the others.
    """
    same = [(place, item.same_as) for place, item in enumerate(items) if item.same_as is not None]
    if not same:
        return {}
    place_of = {item.idx: place for place, item in enumerate(items)}
    firsts = {place: place_of.setdefault(idx, place) for place, idx in same}
    return {place: first for place, first in firsts.items() if first != place}


def _own(work: Work) -> list[int]:
    """The places of the items that have to be computed."""
    twin_of = twins_of(work.items)
    return [place for place in range(len(work.items)) if place not in twin_of and place not in work.known]


def encode(work: Work) -> None:
    """Fill in what is to be computed: not what is known, not twins, not items that are refused."""
    prompts_of = {place: _prompts(work.items[place].input) for place in _own(work)}
    encoded = iter(_encoded(work, list(chain.from_iterable(prompts_of.values()))))
    number = copies(work.claim.params)
    for place, prompts in prompts_of.items():
        mine = [next(encoded) for _ in prompts]
        fault = next((fault for each in mine if (fault := _judged(each, work))), None)
        fault = fault or _bounded(len(mine) * number, work)
        if fault is not None:
            work.refused[place] = fault
            continue
        prepared = [
            msgspec.structs.replace(each, choice=choice) if choice else each
            for each in mine
            if isinstance(each, Encoded)
            for choice in range(number)
        ]
        work.spans[place] = range(len(work.encoded), len(work.encoded) + len(prepared))
        work.encoded += prepared


def _encoded(work: Work, prompts: list[Prompt]) -> Sequence[Encoded | Fault]:
    """All prompts at once; should that fail, one by one, so that a bad one fails alone."""
    try:
        return _all_encoded(work, prompts)
    except BadParam as exc:
        return [_bad_param(exc)] * len(prompts)
    except Exception as exc:
        logger.warning("encoding one by one: %s", type(exc).__name__, extra=log_fields(work, "encode_failed"))
    return [_encoded_alone(work, prompt) for prompt in prompts]


def _all_encoded(work: Work, prompts: list[Prompt]) -> list[Encoded]:
    encoded = work.engine.encode(prompts, work.params)
    if len(encoded) != len(prompts):
        raise WrongOutputs(f"the engine encoded {len(prompts)} prompts as {len(encoded)}")
    return encoded


def _encoded_alone(work: Work, prompt: Prompt) -> Encoded | Fault:
    try:
        [encoded] = _all_encoded(work, [prompt])
    except BadParam as exc:
        return _bad_param(exc)
    except ValueError as exc:
        # What engines raise on purpose for an input they cannot take; its message is for the user.
        return Fault("invalid_input", str(exc))
    except Exception as exc:
        logger.warning("an input cannot be encoded", exc_info=exc, extra=log_fields(work, "encode_failed"))
        return Fault("engine_error", f"the input could not be encoded: {type(exc).__name__}")
    return encoded


def _bad_param(exc: BadParam) -> Fault:
    return Fault("invalid_value", str(exc), exc.param)


def _judged(encoded: Encoded | Fault, work: Work) -> Fault | None:
    if isinstance(encoded, Fault):
        return encoded
    if not encoded.dropped or work.claim.long_input != "error":
        return None
    limits = work.engine.limits
    beside, advice = "", "shorten it"
    if limits.shared_context:
        longest = min(work.params.max_new_tokens, limits.max_output)
        beside, advice = f" beside the {longest} that the output may have", "shorten it, allow a shorter output"
    return Fault(
        "input_too_long",
        f"the input has {len(encoded) + encoded.dropped} tokens, the model takes {len(encoded)}{beside}; {advice}"
        ' or submit a job with long_input: "truncate"',
    )


def _bounded(outputs: int, work: Work) -> Fault | None:
    """A fault of an item whose log-probabilities would be more than may be held, stored and read as one."""
    if work.params.top_logprobs is None:
        return None
    tokens = min(work.params.max_new_tokens, work.engine.limits.max_output)
    wanted = outputs * tokens * (1 + work.params.top_logprobs)
    if wanted <= MOST_LOGPROBS:
        return None
    return Fault(
        "too_many_logprobs",
        f"{outputs:,} outputs of up to {tokens:,} tokens could have {wanted:,} log-probabilities, and one answer at "
        f"most {MOST_LOGPROBS:,}; ask for fewer outputs, tokens or alternatives",
        "top_logprobs",
    )


def _too_much(span: range) -> Fault:
    return Fault(
        "item_too_large",
        f"the {len(span)} outputs asked for take longer than a worker may be at one item; ask for fewer at once",
    )


def results_of(work: Work) -> list[NewResult]:
    """Decode what was generated, and give twins the outcome of their original; with what was known before.

    An item fails with the first fault among its prompts, and is left open when some were not reached - unless
    that is because they take longer than a chunk may.
    """
    texts = _texts_of(work)
    faults = dict(work.refused)
    found_at = dict(work.known)
    for place, span in work.spans.items():
        found = [work.outputs.faults.get(at) or texts.get(at) for at in span]
        if (fault := next((each for each in found if isinstance(each, Fault)), None)) is not None:
            faults[place] = fault
        elif None not in found:
            said = chain.from_iterable(each for each in found if isinstance(each, list))
            found_at[place] = _succeeded(work, place, list(said))
        elif work.is_late and len(span) > 1 and found != [None] * len(span):
            faults[place] = _too_much(span)
    found_at |= {place: _failed(work.items[place].idx, fault) for place, fault in faults.items()}
    return [*found_at.values(), *_twins(work, found_at)]


def _succeeded(work: Work, place: int, texts: list[str]) -> NewResult:
    span, item = work.spans[place], work.items[place]
    encoded = [work.encoded[at] for at in span]
    made = [
        # Several outputs of a prompt stand for as many copies of it.
        (each, msgspec.structs.replace(work.encoded[at], choice=rank) if rank else work.encoded[at])
        for at in span
        for rank, each in enumerate(work.outputs.generations[at].all)
    ]
    return NewResult(
        item.idx,
        Outcome.SUCCEEDED,
        output_of(texts, [each for each, _ in made], [each for _, each in made], is_list="texts" in item.input),
        # A prompt is read once, however many copies are made of it.
        input_tokens=sum(len(each) for each in encoded if each.choice == 0),
        output_tokens=sum(len(each.tokens) for each, _ in made),
        cache_key=work.keys.get(place),
    )


def _texts_of(work: Work) -> dict[int, list[str] | Fault]:
    """What each prompt's outputs say, by its position, or a fault among them."""
    made = [(at, each) for at, first in sorted(work.outputs.generations.items()) for each in first.all]
    texts: dict[int, list[str] | Fault] = {at: [] for at, _ in made}
    for (at, _), text in zip(made, _texts(work, [each for _, each in made]), strict=True):
        said = texts[at]
        if isinstance(text, Fault):
            texts[at] = text
        elif isinstance(said, list):
            said.append(text)
    return texts


def _texts(work: Work, generations: list[Generation]) -> Sequence[str | Fault]:
    """All outputs at once; should that fail, one by one, so that a bad one fails alone."""
    try:
        return _all_texts(work, generations)
    except Exception as exc:
        logger.warning("decoding one by one: %s", type(exc).__name__, extra=log_fields(work, "decode_failed"))
    return [_text_alone(work, generation) for generation in generations]


def _all_texts(work: Work, generations: list[Generation]) -> list[str]:
    texts = work.engine.decode(generations, work.params)
    if len(texts) != len(generations):
        raise WrongOutputs(f"the engine decoded {len(generations)} outputs as {len(texts)}")
    return texts


def _text_alone(work: Work, generation: Generation) -> str | Fault:
    try:
        [text] = _all_texts(work, [generation])
    except Exception as exc:
        logger.warning("an output cannot be decoded", exc_info=exc, extra=log_fields(work, "decode_failed"))
        return Fault("engine_error", f"the output could not be decoded: {type(exc).__name__}")
    return text


def _twins(work: Work, found_at: dict[int, NewResult]) -> list[NewResult]:
    return [
        as_twin(found_at[first], work.items[place].idx)
        for place, first in twins_of(work.items).items()
        if first in found_at and place not in found_at
    ]


def as_twin(first: NewResult, idx: int) -> NewResult:
    """The outcome of an item for one that is equal to it.

    Twins cost nothing: their usage is zero, so that usage sums to what was computed. What it took to make the output is
    said in it, for dialects that say so of every answer; a first that took it from elsewhere says that already.
    """
    output, taken = first.output, {"input_tokens": 0, "output_tokens": 0}
    if output is not None:
        taken = output.get("reused") or {"input_tokens": first.input_tokens, "output_tokens": first.output_tokens}
        output = output | {"reused": taken}
    return NewResult(
        idx,
        first.outcome,
        output,
        first.error_code,
        first.error_message,
        error_param=first.error_param,
        reuse=Reuse.SAME,
        saved_input_tokens=taken["input_tokens"],
        saved_output_tokens=taken["output_tokens"],
    )


def _failed(idx: int, fault: Fault) -> NewResult:
    return NewResult(idx, Outcome.FAILED, error_code=fault.code, error_message=fault.message, error_param=fault.param)


def all_failed(work: Work) -> list[NewResult]:
    """What is left when the outputs of a chunk cannot be read, or not be stored."""
    fault = Fault("engine_error", "the outputs of this item's chunk are unusable; the worker's log says why")
    return [_failed(item.idx, fault) for item in work.items]


def refuse_all(work: Work) -> None:
    """Leave nothing to compute, and every item with a fault: what is left when a chunk cannot be prepared."""
    fault = Fault("engine_error", "the inputs of this item's chunk cannot be prepared; the worker's log says why")
    work.encoded, work.spans = [], {}
    work.refused = dict.fromkeys(_own(work), fault)


def log_fields(work: Work, action: str) -> dict[str, Any]:
    return {
        "action": action,
        "job_id": work.claim.job_id,
        "chunk_id": work.claim.chunk_id,
        "attempt": work.claim.attempt,
        "model": work.claim.model,
    }
