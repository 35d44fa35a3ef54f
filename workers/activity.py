"""What a worker does and how much of its device that takes, for its heartbeat and its metrics."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

WINDOW_SECONDS = 60.0


class DeviceClock:
    """How long the device has been busy, and how long it waited for work. One thread begins and ends, any may ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._made_at = clock()
        self._busy = 0.0
        self._begun_at: float | None = None
        # Those that reach into the window: when each began and ended.
        self._spells: deque[tuple[float, float]] = deque()

    def begin(self) -> None:
        with self._lock:
            self._begun_at = self._clock()

    def end(self) -> None:
        with self._lock:
            now = self._clock()
            assert self._begun_at is not None, "the device was not busy"
            self._busy += now - self._begun_at
            self._spells.append((self._begun_at, now))
            self._begun_at = None
            self._forget(now)

    def seconds(self) -> tuple[float, float]:
        """Busy and idle, since the clock was made; both never fall."""
        with self._lock:
            now = self._clock()
            busy = self._busy + (now - self._begun_at if self._begun_at is not None else 0.0)
            return busy, now - self._made_at - busy

    def share(self) -> float:
        """The busy part of the last minute, or of the time since the clock was made; 0 to 1."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            since = max(self._made_at, now - WINDOW_SECONDS)
            spells = [*self._spells, *([(self._begun_at, now)] if self._begun_at is not None else [])]
            busy = sum(ended - max(begun, since) for begun, ended in spells)
            return min(1.0, busy / (now - since)) if now > since else 0.0

    def _forget(self, now: float) -> None:
        while self._spells and self._spells[0][1] <= now - WINDOW_SECONDS:
            self._spells.popleft()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory: what loading it took, and since when (Unix seconds) it is there."""

    load_seconds: float
    loaded_at: float


@dataclass(frozen=True, slots=True)
class Running:
    """The chunk that is on the device, since when (Unix seconds), and its items."""

    chunk_id: int
    model: str
    since: float
    items: int


class Pipeline(Protocol):
    """What is asked of a runner."""

    @property
    def device(self) -> DeviceClock: ...

    @property
    def running(self) -> Running | None: ...

    def speeds(self) -> Mapping[str, float]:
        """Tokens a second, in and out, that models did here lately."""
        ...


def activity(pipeline: Pipeline | None, loaded: Mapping[str, Loaded]) -> dict[str, Any]:
    """As the heartbeat tells it; times are Unix seconds.

    {"busy": 0 to 1 or null, "memory_bytes", "device_memory_bytes" or null, "models": {name: {"load_seconds",
    "loaded_at", "tokens_per_second" or null}}, "running": {"chunk", "model", "since", "items"} or null}
    """
    speeds = pipeline.speeds() if pipeline else {}
    running = pipeline.running if pipeline else None
    return {
        "busy": round(pipeline.device.share(), 3) if pipeline else None,
        "memory_bytes": memory_bytes(),
        "device_memory_bytes": device_memory_bytes(),
        "models": {name: _model(each, speeds.get(name)) for name, each in loaded.items()},
        "running": None if running is None else _running(running),
    }


def _model(loaded: Loaded, speed: float | None) -> dict[str, Any]:
    return {
        "load_seconds": round(loaded.load_seconds, 3),
        "loaded_at": int(loaded.loaded_at),
        "tokens_per_second": None if speed is None else round(speed, 1),
    }


def _running(running: Running) -> dict[str, Any]:
    return {
        "chunk": running.chunk_id,
        "model": running.model,
        "since": int(running.since),
        "items": running.items,
    }


def memory_bytes() -> int | None:
    """What the process has in memory; None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            found = next((line for line in file if line.startswith("VmRSS:")), None)
    except OSError:
        return None
    return None if found is None else int(found.split()[1]) * 1024


def device_memory_bytes() -> int | None:
    """What torch holds of the GPU's memory; None where it has none, and of engines that are not built on it."""
    # Asked only if an engine has imported it: an io process never does.
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    return int(cuda.memory_reserved())
