"""What a worker does, for its heartbeat."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from workers.device import DeviceClock, Running


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory: what loading it took, since when (Unix seconds) it is there, and on what device."""

    load_seconds: float
    loaded_at: float
    device: str


class Pipeline(Protocol):
    """What is asked of a runner."""

    @property
    def device(self) -> DeviceClock: ...

    def speeds(self) -> Mapping[str, float]:
        """Tokens a second, in and out, that models did here lately."""
        ...


def activity(pipeline: Pipeline | None, loaded: Mapping[str, Loaded]) -> dict[str, Any]:
    """As the heartbeat tells it; times are Unix seconds.

    {"busy": 0 to 1 or null, "memory_bytes", "device_memory_bytes" or null, "models": {name: {"load_seconds",
    "loaded_at", "tokens_per_second" or null}}, "running": {"chunk", "model", "since", "items"} or null}
    """
    speeds = pipeline.speeds() if pipeline else {}
    running = pipeline.device.running if pipeline else None
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
