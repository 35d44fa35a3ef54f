"""An engine without a model, for tests: it answers with its input, and misbehaves when told to.

Told by the registry entry's options:

    transform           "none" (default), "upper" or "reverse"
    seconds_per_batch, seconds_per_item
                        how slow it is; it notices while waiting when it should stop
    batch_tokens        what a batch may hold (default 4096); `shrink` halves it
    capacity            tokens beyond which a batch does not fit: OutOfMemory
    unavailable         a text: the model cannot be loaded, for this reason
    load_seconds        how long loading takes
    oom_at              the batch with this number, counted over the process's life, does not fit
    log                 a file to which every text is written, a line each, before it is answered
    markers             true: texts may hold the markers below
    scores              true: an output has a score, -0.1

Of the `n` best of a search, each says a word less than the one before, and has a score lower by 0.1.

An embedding model answers with 8 numbers that look random but are the same for the same text, of length 1.

and by markers anywhere in an input:

    [[garbled]]         cannot be encoded: ValueError
    [[unencoded]]       is left out when its batch is encoded
    [[undecoded]]       is left out when its batch is decoded
    [[fail]]            ValueError for the batch it is in
    [[oom]]             OutOfMemory for the batch it is in, however small
    [[broken]]          EngineBroken, and so for every later call
    [[short]]           its batch is answered without its last text
    [[twice]]           its batch is answered twice
    [[kill]]            the process kills itself
    [[segfault]]        the process dies as of a wild pointer
    [[hang]]            never returns and notices nothing, as a lost driver does
    [[slow 1.5]]        takes so many seconds longer
"""

import hashlib
import math
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from models.spec import ModelSpec, Task
from workers.engines.base import (
    Encoded,
    EngineBroken,
    FinishReason,
    Generation,
    Limits,
    ModelUnavailable,
    OutOfMemory,
    Params,
    Prompt,
    Recipe,
    Tally,
    ignore,
    ranked,
)
from workers.engines.batches import Budget, token_batches
from workers.engines.stops import cut_text, cut_tokens
from workers.engines.tokens import full_prefix

# A word with the space before it, so that joining the tokens gives the text back.
WORD = re.compile(r"\s*\S+|\s+\Z")
SLOW = re.compile(r"\[\[slow (\d+(?:\.\d+)?)\]\]")
TRANSFORMS: dict[str, Callable[[str], str]] = {"none": str, "upper": str.upper, "reverse": lambda text: text[::-1]}


class EchoEngine:
    """See the module."""

    def __init__(self, spec: ModelSpec, device: str = "cpu") -> None:
        self._spec = spec
        options = spec.options
        self._transform = TRANSFORMS[str(options.get("transform", "none"))]
        self._seconds_per_batch = float(options.get("seconds_per_batch", 0))
        self._seconds_per_item = float(options.get("seconds_per_item", 0))
        self._capacity = int(options["capacity"]) if "capacity" in options else None
        self._has_markers = bool(options.get("markers", False))
        self._wants_scores = bool(options.get("scores", False))
        self._budget = Budget(int(options.get("batch_tokens", 4096)))
        self._limits = Limits(spec.max_input_tokens or 1024, spec.max_output_tokens or 1024)
        self._oom_at = int(options.get("oom_at", 0))
        self._log = Path(str(options["log"])) if "log" in options else None
        self._device = device
        self._is_broken = False
        self._batches = 0
        self._tally = Tally()

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            model=self._spec.name,
            revision="local",
            weights_hash="0" * 64,
            quantization=self._spec.quantization,
            tokenizer_hash="0" * 64,
            engine="echo",
            engine_version="1",
            device=self._device,
            details={
                "transform": str(self._spec.options.get("transform", "none")),
                "prefix": self._spec.prefix,
                "scores": self._wants_scores,
            },
        )

    @property
    def tally(self) -> Tally:
        return self._tally

    def encode(self, prompts: Sequence[Prompt], params: Params) -> list[Encoded]:
        encoded = []
        for prompt in prompts:
            text = prompt.messages[-1].content if prompt.messages else prompt.text
            if self._has_markers and "[[garbled]]" in text:
                raise ValueError("this input is garbled")
            if self._has_markers and "[[unencoded]]" in text:
                continue
            words = tuple(WORD.findall(full_prefix(self._spec, params) + text))
            kept = words[: self._limits.max_input]
            encoded.append(Encoded(kept, dropped=len(words) - len(kept)))
        return encoded

    def generate(
        self,
        prompts: Sequence[Encoded],
        params: Params,
        should_stop: Callable[[], bool],
        on_drained: Callable[[], None] = ignore,
    ) -> Iterator[Generation]:
        for batch in token_batches([len(prompt) for prompt in prompts], self._budget.tokens):
            texts = ["".join(map(str, prompts[index].tokens)) for index in batch]
            self._misbehave(texts, sum(len(prompts[index]) for index in batch))
            if not _wait(self._seconds(texts), should_stop):
                return
            self._tally.add([len(prompts[index]) for index in batch], self._budget.tokens)
            self._note(texts)
            for index, text in self._answered(batch, texts):
                yield self._generation(index, text, params)

    def shrink(self) -> bool:
        return self._budget.shrink()

    def decode(self, generations: Sequence[Generation], params: Params) -> list[str]:
        texts = ["".join(map(str, each.tokens)) for each in generations]
        kept = [text for text in texts if not (self._has_markers and "[[undecoded]]" in text)]
        return [cut_text(text, params.stop) for text in kept]

    def close(self) -> None:
        """Nothing to give back."""

    def _generation(self, index: int, text: str, params: Params) -> Generation:
        if self._spec.task is Task.EMBEDDING:
            return Generation(index, (), "stop", vector=_vector(text))
        words = tuple(WORD.findall(self._transform(text)))
        kept, is_stopped = cut_tokens(
            words[: min(params.max_new_tokens, self._limits.max_output)], params.stop, "".join
        )
        reason: FinishReason = "stop" if is_stopped or len(kept) == len(words) else "length"
        return ranked(
            [Generation(index, kept[: max(1, len(kept) - rank)], reason, self._score(rank)) for rank in range(params.n)]
        )

    def _score(self, rank: int) -> float | None:
        return -0.1 * (rank + 1) if self._wants_scores else None

    def _seconds(self, texts: Sequence[str]) -> float:
        asked = [float(found) for text in texts for found in SLOW.findall(text)] if self._has_markers else []
        return self._seconds_per_batch + self._seconds_per_item * len(texts) + sum(asked)

    def _note(self, texts: Sequence[str]) -> None:
        """In one write, so that lines of several processes do not mix."""
        if self._log is not None:
            with self._log.open("ab", buffering=0) as file:
                file.write("".join(f"{text}\n" for text in texts).encode())

    def _answered(self, batch: Sequence[int], texts: Sequence[str]) -> list[tuple[int, str]]:
        """What is answered of a batch: each once, unless a marker says otherwise."""
        pairs = list(zip(batch, texts, strict=True))
        if self._has_markers and any("[[short]]" in text for text in texts):
            return pairs[:-1]
        if self._has_markers and any("[[twice]]" in text for text in texts):
            return pairs + pairs
        return pairs

    def _misbehave(self, texts: Sequence[str], tokens: int) -> None:
        self._batches += 1
        if self._batches == self._oom_at:
            self._budget.note_failure(len(texts), tokens)
            raise OutOfMemory(f"batch {self._batches} was to fail")
        if self._capacity is not None and tokens > self._capacity:
            self._budget.note_failure(len(texts), tokens)
            raise OutOfMemory(f"a batch of {tokens} tokens does not fit into {self._capacity}")
        if self._has_markers:
            self._obey("\n".join(texts), len(texts), tokens)

    def _obey(self, text: str, prompts: int, tokens: int) -> None:
        if "[[kill]]" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "[[segfault]]" in text:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "[[hang]]" in text:
            threading.Event().wait()
        if self._is_broken or "[[broken]]" in text:
            self._is_broken = True
            raise EngineBroken("CUDA error: device-side assert triggered")
        if "[[oom]]" in text:
            self._budget.note_failure(prompts, tokens)
            raise OutOfMemory("an input asked for it")
        if "[[fail]]" in text:
            raise ValueError("an input asked for it")


def _vector(text: str) -> bytes:
    numbers = [(byte - 127.5) / 127.5 for byte in hashlib.sha256(text.encode()).digest()[:8]]
    length = math.hypot(*numbers)
    return struct.pack("<8f", *(number / length for number in numbers))


def open_echo(spec: ModelSpec, device: str | None) -> EchoEngine:
    """The engine, unless the options say that it cannot be loaded, or cannot be understood."""
    if "unavailable" in spec.options:
        raise ModelUnavailable(f"model {spec.name}: {spec.options['unavailable']}")
    try:
        _wait(float(spec.options.get("load_seconds", 0)), lambda: False)
        return EchoEngine(spec, device or "cpu")
    except (KeyError, ValueError) as exc:
        raise ModelUnavailable(f"model {spec.name}: its options cannot be understood: {exc}") from exc


def _wait(seconds: float, should_stop: Callable[[], bool]) -> bool:
    """Wait, looking at `should_stop` on the way; False when it said so."""
    deadline = time.monotonic() + seconds
    clock = threading.Event()
    while not should_stop():
        left = deadline - time.monotonic()
        if left <= 0:
            return True
        clock.wait(min(left, 0.05))
    return False
