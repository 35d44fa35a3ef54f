"""The GPU's meter, with libraries of the tests' own in place of the driver's."""

import ctypes
import uuid
from typing import Any, cast

import pytest

from workers.energy import GPUMeter

# What CUDA shows as devices 0 and 1, as CUDA_VISIBLE_DEVICES left and ordered them.
SHOWN = [uuid.UUID(int=2), uuid.UUID(int=1)]


class Driver:
    """CUDA's and NVML's calls; `millijoules` is what each GPU has used, by its UUID."""

    def __init__(self, **statuses: int) -> None:
        self.loaded: list[str] = []
        self.statuses = statuses
        self.millijoules = {f"GPU-{uuid.UUID(int=1)}": 1_000, f"GPU-{uuid.UUID(int=2)}": 2_500}
        self._handles: list[str] = []

    def load(self, name: str) -> ctypes.CDLL:
        self.loaded.append(name)
        return cast("ctypes.CDLL", self)

    def cuInit(self, flags: int) -> int:
        return self.statuses.get("cuInit", 0)

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0 if ordinal < len(SHOWN) else 101

    def cuDeviceGetUuid(self, raw: Any, device: Any) -> int:
        raw._obj[:] = SHOWN[device.value].bytes
        return 0

    def nvmlInit_v2(self) -> int:
        return self.statuses.get("nvmlInit_v2", 0)

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:
        self._handles.append(name.decode())
        handle._obj.value = len(self._handles)
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, count: Any) -> int:
        count._obj.value = self.millijoules[self._handles[handle.value - 1]]
        return self.statuses.get("nvmlDeviceGetTotalEnergyConsumption", 0)


def test_the_counter_is_read_in_joules() -> None:
    driver = Driver()
    meter = GPUMeter(driver.load)

    assert meter.joules("cuda") == 2.5
    driver.millijoules[f"GPU-{uuid.UUID(int=2)}"] += 750
    assert meter.joules("cuda") == 3.25


def test_a_device_is_the_one_that_engines_mean_by_its_number() -> None:
    meter = GPUMeter(Driver().load)

    assert [meter.joules(device) for device in ("cuda:1", "cuda:0", "cuda")] == [1.0, 2.5, 2.5]


def test_nothing_is_looked_for_on_a_cpu() -> None:
    driver = Driver()

    assert GPUMeter(driver.load).joules("cpu") is None
    assert driver.loaded == []


@pytest.mark.parametrize("call", ["cuInit", "nvmlInit_v2", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_gpu_that_does_not_tell_is_asked_once(call: str) -> None:
    driver = Driver(**{call: 3})
    meter = GPUMeter(driver.load)

    assert [meter.joules("cuda") for _ in range(3)] == [None] * 3
    assert len(driver.loaded) == len(set(driver.loaded))


def test_a_number_that_no_gpu_has_is_not_measured() -> None:
    assert GPUMeter(Driver().load).joules("cuda:7") is None


def test_a_machine_without_the_driver_measures_nothing() -> None:
    asked: list[str] = []

    def load(name: str) -> ctypes.CDLL:
        asked.append(name)
        raise OSError(f"{name}: cannot open shared object file")

    meter = GPUMeter(load)

    assert [meter.joules("cuda:0") for _ in range(2)] == [None, None]
    assert len(asked) == 1


def test_a_driver_too_old_to_count_measures_nothing() -> None:
    class Old(Driver):
        nvmlDeviceGetTotalEnergyConsumption = property()  # type: ignore[assignment]

    assert GPUMeter(Old().load).joules("cuda") is None
