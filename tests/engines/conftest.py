"""Models for the engine tests: tiny ones made here, and the translator that comes with Bushel."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.heldout import read_sources
from models.registry import BUILTIN, EngineKind, ModelSpec, Task, load
from tests import models as tiny
from workers.engines.base import Encoded, Engine, Generation, Params, Prompt
from workers.engines.load import open_engine

# Fixed, so that nothing is measured but where a test is about measuring.
SETTINGS = {"inter_threads": 2, "intra_threads": 1, "batch_tokens": 512}

MAKERS: dict[str, tuple[Callable[[Path], Path], dict[str, object]]] = {
    "marian": (
        tiny.make_marian,
        {"source_languages": ("en",), "target_languages": ("deu", "fra"), "prefix": ">>{target_lang}<< "},
    ),
    "marian-start": (
        partial(tiny.make_marian, has_start=True),
        {"source_languages": ("en",), "target_languages": ("deu",), "prefix": ">>{target_lang}<< "},
    ),
    "m2m100": (tiny.make_m2m100, {"source_languages": ("en", "de"), "target_languages": ("de", "fr")}),
    "t5": (tiny.make_t5, {"task": Task.SUMMARIZATION, "prefix": "summarize: "}),
    "t5-1.0": (partial(tiny.make_t5, kind="t5-1.0"), {"task": Task.SUMMARIZATION}),
    "flan-t5": (partial(tiny.make_t5, kind="flan-t5"), {"task": Task.SUMMARIZATION}),
    "mt5": (partial(tiny.make_t5, kind="mt5"), {"task": Task.SUMMARIZATION}),
    "bart": (tiny.make_bart, {"task": Task.SUMMARIZATION}),
    "pegasus": (tiny.make_pegasus, {"task": Task.SUMMARIZATION}),
    "llama": (tiny.make_causal, {"task": Task.GENERATION}),
    "qwen2": (partial(tiny.make_causal, kind="qwen2"), {"task": Task.GENERATION}),
    "gpt2": (partial(tiny.make_causal, kind="gpt2"), {"task": Task.GENERATION}),
    "llama-wide": (partial(tiny.make_causal, context=512, padding=9), {"task": Task.GENERATION}),
    "llama-pieces": (partial(tiny.make_causal, pieces=True), {"task": Task.GENERATION}),
    "bert": (tiny.make_bert, {"task": Task.EMBEDDING}),
    "mpnet": (partial(tiny.make_bert, kind="mpnet"), {"task": Task.EMBEDDING}),
    "st-mean": (partial(tiny.make_bert, pooling="mean_tokens"), {"task": Task.EMBEDDING}),
    "st-cls": (partial(tiny.make_bert, pooling="cls_token"), {"task": Task.EMBEDDING}),
}
SEQ2SEQ = ("marian", "m2m100", "t5", "bart", "pegasus")
# Variants that the two engines have to read alike, but that promise nothing else.
VARIANTS = ("marian-start", "t5-1.0", "flan-t5", "mt5")
CAUSAL = ("llama", "qwen2", "gpt2")


class Bench:
    """Makes each tiny model once, and opens it with either engine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.cache = root / "cache"
        self._engines: dict[str, Engine] = {}

    def spec(self, kind: str, engine: EngineKind = EngineKind.CTRANSLATE2, **changes: object) -> ModelSpec:
        if kind == "starter":
            return replace(starter(), engine=engine, **{"options": SETTINGS, "quantization": "float32", **changes})
        make, keys = MAKERS[kind]
        folder = self._root / kind
        if not folder.is_dir():
            folder.mkdir(parents=True)
            make(folder)
        usual = {"task": Task.TRANSLATION, "quantization": "float32", "options": SETTINGS}
        return ModelSpec(kind, source=folder, engine=engine, **{**usual, **keys, **changes})

    def open(self, kind: str, engine: EngineKind = EngineKind.CTRANSLATE2, **changes: object) -> Engine:
        key = repr((kind, engine, sorted(changes.items())))
        if key not in self._engines:
            self._engines[key] = open_engine(self.spec(kind, engine, **changes), self.cache, "cpu")
        return self._engines[key]

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("bench"))
    yield bench
    bench.close()


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return read_sources()


def starter() -> ModelSpec:
    """The translator that comes with Bushel, as one that only translates from English to German."""
    spec = load([BUILTIN]).default(Task.TRANSLATION)
    prefix = spec.prefix.format(target_lang="de")
    return replace(spec, prefix=prefix, language_pairs=(), source_languages=("en",), target_languages=("de",))


def languages(engine_spec: ModelSpec) -> dict[str, str]:
    """Parameters for the first source and the last target language, where there are any."""
    found = {}
    if engine_spec.source_languages:
        found["source_lang"] = engine_spec.source_languages[0]
    if engine_spec.target_languages:
        found["target_lang"] = engine_spec.target_languages[-1]
    return found


def generated(engine: Engine, encoded: list[Encoded], params: Params) -> list[Generation]:
    """All generations, in the order of the prompts."""
    made = sorted(engine.generate(encoded, params, lambda: False), key=lambda each: each.index)
    assert [each.index for each in made] == list(range(len(encoded)))
    return made


def outputs(engine: Engine, prompts: list[str] | list[Prompt], params: Params) -> list[str]:
    """Texts in, texts out."""
    encoded = engine.encode([Prompt(each) if isinstance(each, str) else each for each in prompts], params)
    return engine.decode(generated(engine, encoded, params), params)
