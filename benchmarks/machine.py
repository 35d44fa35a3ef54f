"""What the numbers were measured on, for the line above a table."""

import os
import platform
from pathlib import Path


def describe() -> str:
    """Processor, how many of them we may use, how busy they were just now."""
    load = os.getloadavg()[0]
    return f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs for us, load {load:.1f}, Python {_python()}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _python() -> str:
    return platform.python_version()
