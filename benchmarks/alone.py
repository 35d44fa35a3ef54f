"""Our engine without our service: encode, generate, decode, by the protocol that the worker uses."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.decoding import Decoding
from benchmarks.service import BenchmarkFailed
from models.params import check
from models.spec import ModelSpec
from workers.engines.base import Engine, Generation, Prompt
from workers.engines.load import decoding_params, open_engine


class Alone:
    """A loaded engine; `cache` holds conversions and calibrations."""

    def __init__(self, spec: ModelSpec, cache: Path, device: str) -> None:
        self._spec = spec
        self._engine: Engine = open_engine(spec, cache, device)

    def translate(self, lines: Sequence[str], decoding: Decoding) -> list[str]:
        clean, problems = check(decoding.params(), self._spec)
        if problems:
            raise BenchmarkFailed(f"{self._spec.name}: {problems[0]}")
        params = decoding_params(clean)
        encoded = self._engine.encode([Prompt(line) for line in lines], params)
        found: list[Generation | None] = [None] * len(lines)
        for generation in self._engine.generate(encoded, params, lambda: False):
            found[generation.index] = generation
        whole = [generation for generation in found if generation is not None]
        if len(whole) != len(lines):
            raise BenchmarkFailed(f"the engine answered {len(whole)} of {len(lines)} lines")
        return self._engine.decode(whole, params)

    def close(self) -> None:
        self._engine.close()
