"""What the runner asks of a runtime: encode prompts, generate, decode, and say what it can do.

Errors an engine may raise (anything else is a fault of the batch, which the runner bisects):

    EngineError
    ├── ModelUnavailable   the model cannot be loaded; no item is to blame
    ├── OutOfMemory        this batch did not fit; smaller ones may
    └── EngineBroken       the process is spoiled (a sticky CUDA error); it must be replaced

    ValueError
    └── BadParam           a decoding parameter that only the loaded model can judge; names it
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec


class EngineError(Exception):
    """Root of what engines raise on purpose."""


class ModelUnavailable(EngineError):
    """The model cannot be loaded here; the message says why and what to do."""


class OutOfMemory(EngineError):
    """The device could not hold this batch; `is_shared` if another call's were on it too, which may be why."""

    def __init__(self, message: str, is_shared: bool = False) -> None:
        super().__init__(message)
        self.is_shared = is_shared


class EngineBroken(EngineError):
    """The device context is lost for this process; only a new process helps."""


class BadParam(ValueError):
    """A decoding parameter cannot be honoured; the message is for the user."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn of a chat, in the field's usual roles: system, user, assistant."""

    role: str
    content: str


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """One input as the user gave it: a text, or the turns of a chat (never both)."""

    text: str = ""
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Params:
    """Decoding parameters of a chunk; every field is already checked against the model.

    `temperature` 0 means deterministic (beam search or greedy); above 0 it samples.
    `stop` strings are literal; output ends before the first one. Languages are the model's own codes.
    `n` is how many of the best a beam search gives, at most as many as it has beams. Without beams it is 1: samples of
    one input are prompts of their own.
    """

    max_new_tokens: int = 256
    min_new_tokens: int = 0
    num_beams: int = 1
    n: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    # How many likely tokens to tell beside each chosen one; 0 is the chosen one's log-probability alone.
    top_logprobs: int | None = None
    # A JSON Schema, as JSON text, that the output must satisfy.
    json_schema: str | None = None


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """A prompt in the engine's own tokens, cut to the model's limit.

    `dropped` counts the tokens cut off at the end (0: nothing is missing), so that the caller
    can refuse the item or tell the user; an engine never hides a cut. `choice` tells copies of one
    prompt apart, which are to be sampled differently.
    """

    tokens: tuple[str, ...] | tuple[int, ...]
    dropped: int = 0
    choice: int = 0

    def __len__(self) -> int:
        return len(self.tokens)


FinishReason = Literal["stop", "length"]


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """One output token as text and bytes, its natural log-probability, and the likeliest tokens in its place."""

    text: str
    bytes: bytes
    logprob: float
    top: "tuple[TokenLogprob, ...]" = ()


class Generation(msgspec.Struct, frozen=True, gc=False):
    """Output for the prompt at `index` of the call. `score` is the mean log-probability per token, if known.

    `others` are what a search with `n` above 1 found next best, in its order; their `index` is the same. An encoder
    makes a `vector` instead: 32-bit floats, little-endian.
    """

    index: int
    tokens: tuple[str, ...] | tuple[int, ...]
    finish_reason: FinishReason
    score: float | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    vector: bytes | None = None
    others: "tuple[Generation, ...]" = ()

    @property
    def all(self) -> "tuple[Generation, ...]":
        """This one and the others, the best first."""
        return (self, *self.others)


def ranked(generations: Sequence[Generation]) -> Generation:
    """The first, which is the best, with the others."""
    first, *others = generations
    return msgspec.structs.replace(first, others=tuple(others)) if others else first


@dataclass(frozen=True, slots=True)
class Limits:
    """Lengths in tokens; `max_output` bounds new tokens. `shared_context`: input + output ≤ max_input."""

    max_input: int
    max_output: int
    shared_context: bool = False


@dataclass(slots=True)
class Tally:
    """What the batches of an engine have come to since it was loaded, for whoever asks how full they are.

    `tokens` are those of the prompts, `padded_tokens` what they take on the device, where each is as long as the
    longest of its batch, and `room_tokens` what the batches could have taken. The generating thread adds.
    """

    batches: int = 0
    prompts: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    room_tokens: int = 0

    def add(self, lengths: Sequence[int], room_tokens: int) -> None:
        """A batch has run. A prompt that is longer than there is room goes all the same, and fills it.

        >>> tally = Tally()
        >>> tally.add([3, 1], 100)
        >>> tally
        Tally(batches=1, prompts=2, tokens=4, padded_tokens=6, room_tokens=100)
        """
        padded = max(lengths, default=0) * len(lengths)
        self.batches += 1
        self.prompts += len(lengths)
        self.tokens += sum(lengths)
        self.padded_tokens += padded
        self.room_tokens += max(room_tokens, padded)

    def since(self, earlier: "Tally") -> "Tally":
        """What was added after `earlier` was copied."""
        return Tally(
            self.batches - earlier.batches,
            self.prompts - earlier.prompts,
            self.tokens - earlier.tokens,
            self.padded_tokens - earlier.padded_tokens,
            self.room_tokens - earlier.room_tokens,
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """Provenance of results: equal recipes and inputs give equal greedy outputs."""

    model: str
    revision: str
    weights_hash: str
    quantization: str
    tokenizer_hash: str
    engine: str
    engine_version: str
    device: str
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def ignore() -> None:
    """For whoever need not be told."""


class Engine(Protocol):
    """A loaded model. Used by one generating thread; `encode` and `decode` may run in others meanwhile."""

    @property
    def limits(self) -> Limits: ...

    @property
    def recipe(self) -> Recipe: ...

    @property
    def tally(self) -> Tally: ...

    def encode(self, prompts: Sequence[Prompt], params: Params) -> list[Encoded]:
        """Same length and order as `prompts`. Leaves room for `params.max_new_tokens` in a shared context.

        Raises ValueError, with a message for the user, when a prompt is of a kind the model cannot take, and BadParam
        when it is not the prompts but `params.json_schema` that cannot be honoured.
        """
        ...

    def generate(
        self,
        prompts: Sequence[Encoded],
        params: Params,
        should_stop: Callable[[], bool],
        on_drained: Callable[[], None] = ignore,
    ) -> Iterator[Generation]:
        """Yield one Generation per prompt, in any order, as they get ready.

        An engine that can have the batches of two calls on its device calls `on_drained`, in the thread that iterates,
        once the last batch is there: another thread may call it then, so that nothing waits for the last batches to
        end.

        Cuts `prompts` into device batches by itself. Looks at `should_stop` at least once a second
        while decoding; once it is true, returns early without the unfinished ones. Raises OutOfMemory
        after `shrink` could help; what was yielded before stays valid.
        """
        ...

    def shrink(self) -> bool:
        """Halve the device batch from now on; False when it is already a single prompt."""
        ...

    def decode(self, generations: Sequence[Generation], params: Params) -> list[str]:
        """Texts in the order of `generations`, stop strings and special tokens removed."""
        ...

    def close(self) -> None:
        """Give the memory back. The engine is not used again."""
        ...
