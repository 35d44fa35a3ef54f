"""The models a worker has in memory, loaded when first asked for, the longest unused one put away."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from models.registry import Registry
from models.spec import ModelSpec
from workers import metrics
from workers.activity import Loaded
from workers.engines.base import Engine, ModelUnavailable

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


@dataclass(slots=True)
class _Failure:
    message: str
    pause: float
    retry_at: float


class Shelf:
    """Loaded engines by model name.

    Loading failures touch no item: the model is left alone for a growing pause (1 to 60 s), its
    message shown to whoever waits for it.
    """

    def __init__(
        self,
        registry: Registry,
        open_engine: Callable[[ModelSpec], Engine],
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._open, self._capacity, self._clock = registry, open_engine, capacity, clock
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._loads: dict[str, Loaded] = {}
        self._in_use: dict[str, int] = {}
        self._failures: dict[str, _Failure] = {}
        # Guards the four above, never for long; notified when an engine is put back.
        self._lock = threading.Condition()
        # Held while a model loads, which may take minutes: whoever only looks at the shelf does not wait for that.
        self._loading = threading.Lock()

    def loaded(self) -> list[str]:
        with self._lock:
            return list(self._engines)

    def loads(self) -> dict[str, Loaded]:
        """Of the loaded ones, what loading took and when it was over."""
        with self._lock:
            return {name: self._loads[name] for name in self._engines if name in self._loads}

    def devices(self) -> list[str]:
        """Those that the engines so far found, also of models that were put away."""
        with self._lock:
            return sorted({loaded.device for loaded in self._loads.values()})

    def unavailable(self) -> dict[str, str]:
        with self._lock:
            return {name: failure.message for name, failure in self._failures.items()}

    def may_load(self, name: str) -> bool:
        """False while the model rests after a failure."""
        with self._lock:
            failure = self._failures.get(name)
            return failure is None or failure.retry_at <= self._clock()

    def take(self, name: str) -> Engine:
        """The loaded engine; loads it (seconds to minutes) when needed. Raises ModelUnavailable.

        Every take needs a put_back: an engine that is still in use is not put away, and a take that
        needs its room waits.
        """
        with self._loading:
            with self._lock:
                engine = self._engines.get(name)
                if engine is None:
                    self._make_room()
            if engine is None:
                engine = self._load(name)
            with self._lock:
                self._engines[name] = engine
                self._engines.move_to_end(name)
                self._in_use[name] = self._in_use.get(name, 0) + 1
                return engine

    def put_back(self, name: str) -> None:
        with self._lock:
            self._in_use[name] -= 1
            self._lock.notify_all()

    def close(self) -> None:
        with self._lock:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    def _make_room(self) -> None:
        while len(self._engines) >= self._capacity:
            idle = next((name for name in self._engines if not self._in_use.get(name)), None)
            if idle is None:
                self._lock.wait()
                continue
            logger.info("model %s put away", idle, extra={"action": "model_unloaded", "model": idle})
            self._engines.pop(idle).close()

    def _load(self, name: str) -> Engine:
        began = self._clock()
        try:
            engine = self._open(self._registry.get(name))
        except Exception as exc:
            message = str(exc) if isinstance(exc, ModelUnavailable) else f"{type(exc).__name__}: {exc}"
            self._note_failure(name, message)
            metrics.LOADS.labels(name, "failed").inc()
            logger.error(
                "model %s cannot be loaded: %s",
                name,
                message,
                exc_info=exc,
                extra={"action": "model_failed", "model": name},
            )
            raise ModelUnavailable(message) from exc
        seconds = self._clock() - began
        with self._lock:
            self._failures.pop(name, None)
            self._loads[name] = Loaded(seconds, time.time(), engine.recipe.device)
        metrics.LOADS.labels(name, "loaded").inc()
        metrics.LOAD_SECONDS.labels(name).set(seconds)
        logger.info("model %s loaded in %.1f s", name, seconds, extra={"action": "model_loaded", "model": name})
        return engine

    def _note_failure(self, name: str, message: str) -> None:
        with self._lock:
            before = self._failures.get(name)
            pause = min(_LONGEST_PAUSE, before.pause * 2) if before else _FIRST_PAUSE
            self._failures[name] = _Failure(message, pause, self._clock() + pause)
