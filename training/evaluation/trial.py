"""One model in a process of its own: loaded, timed, its memory measured, its perplexity taken.

The process serves the calls of a Trial until it is closed, so that several models, each loaded once, can take turns.
Nothing of a runtime is imported before the model is opened: what one engine brings must not count as another's memory.
A program that imports torch at its top gives it to every trial, as a spawned process imports the program again.

    TrialFailed   the model cannot do it; the message says which model and why
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from models.spec import EngineKind, ModelSpec
from training.errors import TrainingError
from training.evaluation.perplexity import Perplexity
from training.evaluation.references import Item
from workers.engines.base import Engine, EngineError, Params, Prompt

START_SECONDS = 60.0


class TrialFailed(TrainingError):
    """A model cannot be measured."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"model {model}: {why}")
        self.model = model


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is known once a model is open. Sizes are bytes of weights: as shipped, and as the engine reads them."""

    seconds: float
    shipped_bytes: int
    engine_bytes: int
    recipe: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over all texts, from text to text. `cut` inputs were too long; `unfinished` outputs hit the limit."""

    seconds: float
    outputs: list[str] = field(repr=False)
    input_tokens: int
    output_tokens: int
    cut: int
    unfinished: int


@dataclass(frozen=True, slots=True)
class _Job:
    spec: ModelSpec
    cache: Path
    params: Params
    device: str | None


class Trial:
    """A model's process, seen from outside. Calls wait for their answer; a context manager ends it."""

    def __init__(self, spec: ModelSpec, cache: Path, params: Params, device: str | None = None) -> None:
        self.spec = spec
        # Spawned, not forked: a fork would count this process's memory as its own, and threads do not survive one.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, _Job(spec, cache, params, device)), daemon=True)
        self._process.start()
        theirs.close()

    def load(self) -> Loaded:
        return cast(Loaded, self._ask("load"))

    def run(self, texts: Sequence[str], params: Params | None = None) -> Round:
        """Work through the texts once. The order within is the engine's business, as it is in a job.

        `params` are for this once, None for those of the trial.
        """
        return cast(Round, self._ask("run", list(texts), params))

    def peak_bytes(self) -> int:
        """The highest resident size since the model was loaded."""
        return cast(int, self._ask("peak"))

    def perplexity(self, items: Sequence[Item]) -> Perplexity:
        """This gives the engine's memory back first; `run` is over."""
        return cast(Perplexity, self._ask("perplexity", list(items)))

    def nats(self, texts: Sequence[str]) -> list[float]:
        """How much each text surprises the model; like `perplexity`, when `run` is over."""
        return cast(list[float], self._ask("nats", list(texts)))

    def baseline(self, items: Sequence[Item], training: Sequence[Item]) -> Perplexity:
        """That of a 3-gram model of the same tokens which has read `training`."""
        return cast(Perplexity, self._ask("baseline", list(items), list(training)))

    def close(self) -> None:
        self._connection.close()
        self._process.join(START_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> "Trial":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # It may be in the middle of something that nobody waits for any more.
            self._process.kill()
        self.close()

    def _ask(self, what: str, *arguments: object) -> object:
        try:
            self._connection.send((what, arguments))
            is_done, answer = self._connection.recv()
        except (EOFError, OSError) as exc:
            self._process.join(START_SECONDS)
            raise TrialFailed(self.spec.name, _ended(self._process.exitcode)) from exc
        if not is_done:
            raise TrialFailed(self.spec.name, str(answer))
        return answer


class _Bench:
    """The process's side: the model, and what is done with it."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._engine: Engine | None = None

    def load(self) -> Loaded:
        from workers.engines.load import open_engine

        job = self._job
        began = time.perf_counter()
        self._engine = engine = open_engine(job.spec, job.cache, job.device)
        self._limits = engine.limits
        seconds = time.perf_counter() - began
        shipped, used = _sizes(job.spec, job.cache)
        # Conversion and calibration are the first time's, and not what running the model takes.
        _forget_peak()
        return Loaded(seconds, shipped, used, asdict(engine.recipe))

    def run(self, texts: list[str], other: Params | None) -> Round:
        if self._engine is None:
            raise RuntimeError("the model is not loaded")
        engine, params = self._engine, other or self._job.params
        began = time.perf_counter()
        prompts = engine.encode([Prompt(text) for text in texts], params)
        made = sorted(engine.generate(prompts, params, lambda: False), key=lambda each: each.index)
        outputs = engine.decode(made, params)
        seconds = time.perf_counter() - began
        if len(outputs) != len(texts):
            raise RuntimeError(f"{len(outputs)} outputs for {len(texts)} inputs")
        return Round(
            seconds=seconds,
            outputs=outputs,
            input_tokens=sum(map(len, prompts)),
            output_tokens=sum(len(each.tokens) for each in made),
            cut=sum(prompt.dropped > 0 for prompt in prompts),
            unfinished=sum(each.finish_reason == "length" for each in made),
        )

    def peak(self) -> int:
        return _peak()

    def perplexity(self, items: list[Item]) -> Perplexity:
        from training.evaluation.perplexity import measure

        self._close()
        job = self._job
        return measure(job.spec, job.cache, self._limits, job.params, items, job.device)

    def nats(self, texts: list[str]) -> list[float]:
        from training.evaluation.perplexity import nats

        self._close()
        job = self._job
        return nats(job.spec, job.cache, self._limits, job.params, [Item(text) for text in texts], job.device)

    def baseline(self, items: list[Item], training: list[Item]) -> Perplexity:
        from training.evaluation.perplexity import baseline

        job = self._job
        return baseline(job.spec, job.cache, self._limits, job.params, items, training)

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def _serve(connection: Connection, job: _Job) -> None:
    bench = _Bench(job)
    calls: dict[str, Callable[..., object]] = {
        "load": bench.load,
        "run": bench.run,
        "peak": bench.peak,
        "perplexity": bench.perplexity,
        "nats": bench.nats,
        "baseline": bench.baseline,
    }
    while True:
        try:
            what, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[bool, object] = (True, calls[what](*arguments))
        except EngineError as exc:
            # What engines raise on purpose names the model already.
            answer = (False, str(exc).removeprefix(f"model {job.spec.name}: "))
        # The edge of the process: whatever it is, the other side must hear of it.
        except Exception as exc:
            answer = (False, f"{what} failed: {type(exc).__name__}: {exc}")
        connection.send(answer)


def _sizes(spec: ModelSpec, cache: Path) -> tuple[int, int]:
    from workers.engines.files import find_files

    if spec.engine is EngineKind.ECHO:
        return 0, 0
    files = find_files(spec, cache)
    shipped = sum(path.stat().st_size for path in files.weights)
    if spec.engine is not EngineKind.CTRANSLATE2:
        return shipped, shipped
    from workers.engines.convert import converted
    from workers.engines.ctranslate2 import COMPUTE_TYPES

    folder = converted(spec, files, COMPUTE_TYPES.get(spec.quantization, spec.quantization), cache)
    return shipped, (folder / "model.bin").stat().st_size


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # Not Linux: macOS counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        # The peak of loading is then part of it: too much, never too little.
        return


def _ended(status: int | None) -> str:
    return f"its process ended with status {status}" + (" (killed: out of memory?)" if status == -9 else "")
