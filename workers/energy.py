"""What a GPU has used of electricity, by the driver's own count; null for every other device.

The count is of the whole GPU (Volta and newer), so a chunk is charged with whatever ran beside it there too. It is read
from the driver's libraries themselves, which are there wherever the GPU works, and need no package. Asked lazily: a
worker on a CPU never looks for them.
"""

import ctypes
import logging
import uuid
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

_CUDA, _NVML = "libcuda.so.1", "libnvidia-ml.so.1"

Load = Callable[[str], ctypes.CDLL]


class Meter(Protocol):
    """What the runner needs of it."""

    def joules(self, device: str) -> float | None:
        """Used by the device since some moment in the past; None where that is not measured."""
        ...


class Unmeasured(Exception):
    """The device's energy cannot be read; the message says why."""


class GPUMeter:
    """Reads the counters of GPUs; `device` is cuda or cuda:N, counted as engines count."""

    def __init__(self, load: Load = ctypes.CDLL) -> None:
        self._load = load
        self._nvml: ctypes.CDLL | None = None
        # None: it was tried, and is not to be had.
        self._handles: dict[str, ctypes.c_void_p | None] = {}

    def joules(self, device: str) -> float | None:
        if not device.startswith("cuda"):
            return None
        if device not in self._handles:
            self._handles[device] = self._found(device)
        handle = self._handles[device]
        if handle is None or self._nvml is None:
            return None
        millijoules = ctypes.c_ulonglong()
        if self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) != 0:
            return None
        return millijoules.value / 1000

    def _found(self, device: str) -> ctypes.c_void_p | None:
        try:
            handle = self._handle(device)
        except (Unmeasured, OSError, AttributeError) as exc:
            # Once for each device: OSError is a library that is not there, AttributeError one that is too old.
            logger.info("energy of %s is not measured: %s", device, exc, extra={"action": "energy_unmeasured"})
            return None
        return handle

    def _handle(self, device: str) -> ctypes.c_void_p:
        """By its UUID, because NVML counts all GPUs, and engines those that CUDA_VISIBLE_DEVICES leaves them."""
        name = _uuid(self._load(_CUDA), int(device.partition(":")[2] or 0))
        nvml = self._load(_NVML)
        _check(nvml.nvmlInit_v2(), "nvmlInit_v2")
        handle = ctypes.c_void_p()
        _check(
            nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)), f"nvmlDeviceGetHandleByUUID of {name}"
        )
        count = ctypes.c_ulonglong()
        _check(
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(count)), "nvmlDeviceGetTotalEnergyConsumption"
        )
        self._nvml = nvml
        return handle


def _uuid(cuda: ctypes.CDLL, ordinal: int) -> str:
    _check(cuda.cuInit(0), "cuInit")
    device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    _check(cuda.cuDeviceGet(ctypes.byref(device), ordinal), "cuDeviceGet")
    _check(cuda.cuDeviceGetUuid(ctypes.byref(raw), device), "cuDeviceGetUuid")
    return f"GPU-{uuid.UUID(bytes=bytes(raw))}"


def _check(status: int, call: str) -> None:
    if status != 0:
        raise Unmeasured(f"{call} answered {status}")


def between(before: float | None, after: float | None) -> float | None:
    """What was used between two readings; a counter that went back was reset with the driver, and tells nothing.

    >>> between(1.5, 4.0), between(None, 4.0), between(4.0, 1.0)
    (2.5, None, None)
    """
    if before is None or after is None or after < before:
        return None
    return after - before
