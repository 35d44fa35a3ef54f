"""What all engines on torch have in common: devices, number types, and what torch's errors mean."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from workers.engines.base import Encoded, EngineBroken, ModelUnavailable, OutOfMemory
from workers.engines.batches import Budget

TYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
BATCH_TOKENS: Mapping[str, int] = {"cpu": 2048, "cuda": 32768}


def find_device(device: str | None) -> torch.device:
    """The device of this name, or the best there is; ModelUnavailable if it is not there."""
    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as exc:
        raise ModelUnavailable(f"device {device!r} is unknown to torch; it must be cpu, cuda or cuda:N") from exc
    if where.type not in BATCH_TOKENS:
        raise ModelUnavailable(f"device {device!r} is not supported; it must be cpu, cuda or cuda:N")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailable(f"device {device!r} is not there: torch sees {torch.cuda.device_count()} of them")
    return where


@contextlib.contextmanager
def translated_faults(budget: Budget, device: torch.device, prompts: Sequence[Encoded]) -> Iterator[None]:
    """Translate what torch raises for a batch. Any CUDA error but a full memory spoils the process for good."""
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        fault = _fault(exc)
        if isinstance(fault, OutOfMemory):
            budget.note_failure(len(prompts), len(prompts) * max(map(len, prompts)))
            release(device)
        if fault is None:
            raise
        raise fault from exc


def release(device: torch.device) -> None:
    """Give back to the device what torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _fault(exc: Exception) -> OutOfMemory | EngineBroken | None:
    text = str(exc).lower()
    if (
        isinstance(exc, (MemoryError, torch.OutOfMemoryError))
        or "can't allocate memory" in text
        or "out of memory" in text
    ):
        return OutOfMemory(str(exc) or "out of memory")
    if isinstance(exc, torch.AcceleratorError) or "cuda" in text or "cublas" in text or "cudnn" in text:
        return EngineBroken(str(exc))
    return None
