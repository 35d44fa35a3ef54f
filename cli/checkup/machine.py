"""The machine: processors, memory, what a container allows of them, and GPUs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cli.checkup.finding import Finding, ok, problem, warning
from cli.checkup.scene import Scene
from cli.show import size

_LITTLE_MEMORY = 2 * 2**30
_LITTLE_LEFT = 512 * 2**20
_UNLIMITED = 2**60
_DRIVER = Path("/proc/driver/nvidia/version")
_ASK_SECONDS = 30
# Asked in a process of its own: a driver that hangs can be left alone, and torch takes a second to import.
_ASK = """
import json
found = {}
try:
    import torch
    found["torch"] = [torch.version.cuda, torch.cuda.device_count()]
    found["names"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
except Exception as exc:
    found["torch_error"] = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
try:
    import ctranslate2
    found["ctranslate2"] = ctranslate2.get_cuda_device_count()
except Exception as exc:
    found["ctranslate2_error"] = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
print(json.dumps(found))
"""


def machine(scene: Scene, root: Path = Path("/")) -> Iterator[Finding]:
    """`root` is where /proc and /sys are."""
    cores, allowed = _processors(), _cores(root)
    if allowed is None or allowed >= cores:
        yield ok(f"{cores} processor cores")
    else:
        told = f"{cores} processor cores, of which control groups allow {allowed:g}"
        advice = "engines start a thread for each core: let OMP_NUM_THREADS say how many there really are"
        yield warning(told, advice)
    total, free = _memory(root)
    if total is not None and free is not None:
        yield _judged_memory(total, free)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _judged_memory(total: int, free: int) -> Finding:
    told = f"{size(free)} of {size(total)} memory free"
    if free < _LITTLE_LEFT:
        return warning(told, "stop something, or serve fewer models: BUSHEL_MAX_LOADED_MODELS")
    if total < _LITTLE_MEMORY:
        return warning(told, "a worker with one small model takes about 1 GiB; everything together 2 GiB")
    return ok(told)


def _cores(root: Path) -> float | None:
    """What control groups allow, by their version 2 or 1; None: everything."""
    allowed = []
    for group in _groups(root):
        words = _words(group / "cpu.max")
        if not words:
            words = [word for name in ("quota", "period") for word in _words(group / f"cpu/cpu.cfs_{name}_us")]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            allowed.append(int(words[0]) / int(words[1]))
    return min(allowed, default=None)


def _memory(root: Path) -> tuple[int | None, int | None]:
    """Total and free, of the machine or of a control group, whichever has less."""
    lines = dict(line.split(":", 1) for line in _text(root / "proc/meminfo").splitlines() if ":" in line)
    total, free = (_kibibytes(lines.get(name)) for name in ("MemTotal", "MemAvailable"))
    old = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for group in _groups(root):
        for most, used in (("memory.max", "memory.current"), old):
            limit, taken = (_number(group / name) for name in (most, used))
            if limit is not None and limit < _UNLIMITED:
                total = limit if total is None else min(total, limit)
                left = limit - (taken or 0)
                free = left if free is None else min(free, left)
    return total, free


def _groups(root: Path) -> list[Path]:
    """That of a container, which it sees as the root; and our own below it, where a service manager has set limits."""
    top = root / "sys/fs/cgroup"
    own = [line[3:] for line in _text(root / "proc/self/cgroup").splitlines() if line.startswith("0::/")]
    return [top, *(top / path.lstrip("/") for path in own if path != "/")]


def _kibibytes(text: str | None) -> int | None:
    return int(text.split()[0]) * 1024 if text else None


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        # Not every system has every one of them.
        return ""


def gpu(scene: Scene) -> Iterator[Finding]:
    driver = _text(_DRIVER).splitlines()
    wanted = scene.environment.get("BUSHEL_DEVICE", "")
    if not driver and not Path("/dev/nvidia0").exists():
        if wanted.startswith("cuda"):
            yield problem("BUSHEL_DEVICE wants a GPU, and there is none with a driver", "install one, or unset it")
        else:
            yield ok("none; models run on the processor")
        return
    yield ok(
        f"driver: {driver[0].removeprefix('NVRM version: ').strip()}" if driver else "a device without a driver's word"
    )
    found = asked()
    if found is None:
        yield problem("the libraries that run models cannot be asked for it", "is the driver in order: nvidia-smi")
    else:
        yield from judged(found)


def asked(seconds: float = _ASK_SECONDS) -> dict[str, object] | None:
    """What torch and CTranslate2 see; None if asking them ends badly, or not in time."""
    command = [sys.executable, "-c", _ASK]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        found: dict[str, object] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return found


def judged(found: dict[str, object]) -> Iterator[Finding]:
    """What the two libraries that run models say of the devices."""
    if error := found.get("torch_error"):
        yield warning(f"torch cannot be asked: {error}", "pip install 'bushel[worker]'")
    elif isinstance(told := found.get("torch"), list):
        names = found.get("names")
        if told[0] is None:
            advice = "install one with CUDA: README.md, PyTorch"
            yield warning("there is a GPU, and this torch is built without CUDA", advice)
        elif not told[1]:
            advice = f"is the driver new enough for CUDA {told[0]}, and is the device given to the container"
            yield warning("there is a GPU, and torch sees none", advice)
        else:
            yield ok(f"torch sees {', '.join(map(str, names)) if isinstance(names, list) else told[1]}")
    if error := found.get("ctranslate2_error"):
        yield warning(f"CTranslate2 cannot be asked: {error}", "pip install 'bushel[worker]'")
    elif not found.get("ctranslate2"):
        yield warning("there is a GPU, and CTranslate2 sees none", "its models run on the processor; is CUDA 12 there")
    else:
        yield ok(f"CTranslate2 sees {found['ctranslate2']}")
