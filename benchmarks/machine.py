"""What the numbers were measured on."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe() -> str:
    """For the line above a table: processor, how many of them we may use, how busy they were just now."""
    load = os.getloadavg()[0]
    return f"{_processor()}, {cpus()} CPUs for us, load {load:.1f}, Python {_python()}"


def facts() -> dict[str, str | int | float]:
    """The same as data, with the memory and the system."""
    return {
        "processor": _processor(),
        "cpus": cpus(),
        "memory_gib": round(_memory_kilobytes() / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": _python(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed here."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cpus() -> int:
    return len(os.sched_getaffinity(0))


def keep_to(count: int) -> None:
    """Use no more than so many processors from here on, in this process and in those it starts."""
    allowed = sorted(os.sched_getaffinity(0))
    if count > len(allowed):
        raise SystemExit(f"--cpus {count}: there are only {len(allowed)} processors for us")
    os.sched_setaffinity(0, allowed[:count])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_kilobytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1])
    raise LookupError("/proc/meminfo has no MemTotal")


def _python() -> str:
    return platform.python_version()
