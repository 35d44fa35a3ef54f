"""A claimed chunk on its way through a worker: stored inputs to prompts, generations to results.

What can go wrong with one item goes wrong with that item alone.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from db.chunks import Claim, ClaimedItem
from db.recording import NewResult
from db.states import Outcome
from workers.engines.base import Encoded, Engine, Generation, Message, Params, Prompt
from workers.isolation import Fault, Outputs

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Work:
    """A chunk under lease, with what is known of it so far."""

    claim: Claim
    engine: Engine
    params: Params
    items: list[ClaimedItem] = field(default_factory=list)
    # Positions in `items` of those to compute; twins and refused ones are not among them.
    places: list[int] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)
    refused: dict[int, Fault] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=Outputs)
    # On the monotonic clock; None while it waits for the device.
    begun_at: float | None = None
    seconds: float = 0.0
    progress: int = 0
    # Set when nothing more should be generated; `lost` when the lease is gone besides.
    stop: threading.Event = field(default_factory=threading.Event)
    lost: bool = False

    @property
    def lease(self) -> tuple[int, int]:
        return self.claim.chunk_id, self.claim.attempt

    @property
    def consumed(self) -> int:
        """Input tokens of the prompts that have an output."""
        return sum(len(self.encoded[at]) for at in self.outputs.generations)

    @property
    def produced(self) -> int:
        """Output tokens."""
        return sum(len(generation.tokens) for generation in self.outputs.generations.values())

    def advance(self) -> None:
        self.progress += 1

    def begin(self) -> None:
        self.begun_at = time.monotonic()

    def end(self) -> None:
        assert self.begun_at is not None
        self.seconds = time.monotonic() - self.begun_at


def _prompt(body: dict[str, Any]) -> Prompt:
    if "messages" in body:
        return Prompt(messages=tuple(Message(turn["role"], turn["content"]) for turn in body["messages"]))
    return Prompt(body["text"])


def encode(work: Work) -> None:
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
        logger.warning("encoding one by one: %s", type(exc).__name__, extra=log_fields(work, "encode_failed"))
    return [_encoded_alone(work, prompt) for prompt in prompts]


def _encoded_alone(work: Work, prompt: Prompt) -> Encoded | Fault:
    try:
        [encoded] = work.engine.encode([prompt], work.params)
    except ValueError as exc:
        # What engines raise on purpose for an input they cannot take; its message is for the user.
        return Fault("invalid_input", str(exc))
    except Exception as exc:
        logger.warning("an input cannot be encoded", exc_info=exc, extra=log_fields(work, "encode_failed"))
        return Fault("engine_error", f"the input could not be encoded: {type(exc).__name__}")
    return encoded


def _too_long(encoded: Encoded) -> Fault:
    length = len(encoded) + encoded.dropped
    return Fault(
        "input_too_long",
        f"the input has {length} tokens, the model takes {len(encoded)}; shorten it or submit with"
        ' long_input: "truncate"',
    )


def results_of(work: Work) -> list[NewResult]:
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
        logger.warning("decoding one by one: %s", type(exc).__name__, extra=log_fields(work, "decode_failed"))
    return [_text_alone(work, generation) for generation in generations]


def _text_alone(work: Work, generation: Generation) -> str | Fault:
    try:
        [text] = work.engine.decode([generation], work.params)
    except Exception as exc:
        logger.warning("an output cannot be decoded", exc_info=exc, extra=log_fields(work, "decode_failed"))
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


def all_failed(work: Work) -> list[NewResult]:
    """What is left when the outputs of a chunk cannot be read, or not be stored."""
    fault = Fault("engine_error", "the outputs of this item's chunk are unusable; the worker's log says why")
    return [_failed(item.idx, fault) for item in work.items]


def log_fields(work: Work, action: str) -> dict[str, Any]:
    return {
        "action": action,
        "job_id": work.claim.job_id,
        "chunk_id": work.claim.chunk_id,
        "attempt": work.claim.attempt,
        "model": work.claim.model,
    }
