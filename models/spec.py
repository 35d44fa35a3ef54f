"""What the registry says about one model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

Scalar = str | int | float | bool
NOTHING: Mapping[str, Scalar] = MappingProxyType({})


class Task(StrEnum):
    TRANSLATION = "translation"
    SUMMARIZATION = "summarization"
    GENERATION = "generation"
    EMBEDDING = "embedding"


class Tier(StrEnum):
    """What a user may ask for instead of a model: how good, at what cost. In this order, the costliest first."""

    BEST = "best"
    BALANCED = "balanced"
    FAST = "fast"


class EngineKind(StrEnum):
    CTRANSLATE2 = "ctranslate2"
    TRANSFORMERS = "transformers"
    ECHO = "echo"


# What each engine can make of the weights. Whether the device at hand can run it is only known when the model loads.
QUANTIZATIONS: Mapping[EngineKind, tuple[str, ...]] = MappingProxyType(
    {
        EngineKind.CTRANSLATE2: (
            "default",
            "int8",
            "int8_float16",
            "int8_bf16",
            "int16",
            "float16",
            "bfloat16",
            "float32",
        ),
        EngineKind.TRANSFORMERS: ("default", "float16", "bfloat16", "float32"),
        EngineKind.ECHO: ("default",),
    }
)

# What an entry's `options` may hold, and of which type; the engines say what they mean.
OPTIONS: Mapping[EngineKind, Mapping[str, type]] = MappingProxyType(
    {
        EngineKind.CTRANSLATE2: {
            "inter_threads": int,
            "intra_threads": int,
            "batch_tokens": int,
            "scores": bool,
            "shortlist": bool,
        },
        EngineKind.TRANSFORMERS: {"batch_tokens": int, "scores": bool, "normalize": bool},
        EngineKind.ECHO: {
            "transform": str,
            "seconds_per_batch": float,
            "seconds_per_item": float,
            "batch_tokens": int,
            "capacity": int,
            "unavailable": str,
            "load_seconds": float,
            "oom_at": int,
            "log": str,
            "markers": bool,
            "scores": bool,
        },
    }
)
# The options that only some tasks have a use for.
OPTION_TASKS: Mapping[str, frozenset[Task]] = MappingProxyType(
    {
        "scores": frozenset({Task.TRANSLATION, Task.SUMMARIZATION, Task.GENERATION}),
        "shortlist": frozenset({Task.TRANSLATION, Task.SUMMARIZATION}),
        "normalize": frozenset({Task.EMBEDDING}),
    }
)


def usual_engine(task: Task) -> EngineKind:
    """What runs a model whose entry names no engine."""
    return EngineKind.TRANSFORMERS if task is Task.EMBEDDING else EngineKind.CTRANSLATE2


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A registered model. `source` is a folder (absolute, once loaded) or a hub id, which then has a `revision`.

    `prefix` is put before every input, with `{source_lang}` and `{target_lang}` filled in. `defaults` are
    decoding parameters that hold unless a request says otherwise; `options` are for the engine. Models that do the
    same at different cost are a `family`, in which each is a `tier`; a model has both or neither. `language_pairs`
    (source, target) are all that a translator can do, if that is less than every source with every target.
    """

    name: str
    task: Task
    source: str | Path
    engine: EngineKind = EngineKind.CTRANSLATE2
    revision: str | None = None
    quantization: str = "default"
    source_languages: tuple[str, ...] = ()
    target_languages: tuple[str, ...] = ()
    language_pairs: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    defaults: Mapping[str, object] = field(default_factory=dict)
    default: bool = False
    description: str = ""
    license: str = ""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    family: str | None = None
    tier: Tier | None = None

    @property
    def is_local(self) -> bool:
        """Whether the weights are a folder of the operator's, not a hub repository."""
        return isinstance(self.source, Path)

    @property
    def is_pinned(self) -> bool:
        """False when the hub may change the model under its name: `main` moves, a commit or a tag does not."""
        return self.is_local or self.revision not in (None, "main", "master")
