"""How much memory processes and their children hold, in bytes, as the kernel tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """By name of the process, its children counted in: what is resident now, and the most there ever was."""

    resident: dict[str, int]
    peak: dict[str, int]

    @classmethod
    def of(cls, pids: Mapping[str, int]) -> "Memory":
        families = {name: _family(pid) for name, pid in pids.items()}
        resident, peak = (
            {name: sum(_told(pid, field) for pid in family) for name, family in families.items()}
            for field in ("VmRSS", "VmHWM")
        )
        return cls(resident, peak)

    def line(self) -> str:
        parts = [
            f"{name} {size / 2**20:.0f} MB (peak {self.peak[name] / 2**20:.0f})" for name, size in self.resident.items()
        ]
        return "memory: " + ", ".join(parts)


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            found += _family(int(child))
    return found


def _told(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
