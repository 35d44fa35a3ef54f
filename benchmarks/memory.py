"""Peak memory of processes, as the kernel kept it. Linux."""

from collections.abc import Iterable
from pathlib import Path


def peak(pids: Iterable[int]) -> int:
    """The sum of the processes' highest resident sizes (VmHWM), in bytes.

    Pages that processes share are counted for each of them, so that this is never too little.
    """
    return sum(_kilobytes(pid, "VmHWM") for pid in pids) * 1024


def forget_peaks(pids: Iterable[int]) -> None:
    """Let the high-water marks begin anew from what the processes hold now."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _kilobytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(f"/proc/{pid}/status has no {name}")
