"""Disks that fail: a small one of its own for a folder, filled and emptied again; one that does not write through."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from chaos.errors import ChaosFailed, Skipped
from chaos.stack import until

_ATTACHED_SECONDS = 20.0


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator["Disk"]:
    """A tmpfs on the folder while the block lasts. Skipped where that is not allowed."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        raise Skipped("needs root on Linux, to mount a small tmpfs")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise Skipped(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Disk:
    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self, leave_bytes: int = 0) -> None:
        """Until there is room for no more than so many bytes."""
        found = os.statvfs(self._ballast.parent)
        size = found.f_bavail * found.f_frsize - leave_bytes
        with self._ballast.open("ab") as file:
            while size > 0:
                piece = min(size, 2**20)
                try:
                    file.write(b"\0" * piece)
                    file.flush()
                except OSError:
                    return
                size -= piece

    def heal(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def failing_syncs(pids: Collection[int], told: Path) -> Iterator[None]:
    """Every fsync of these processes, and of those that they start, is an EIO while the block lasts.

    `told` gets a line for each of them. Skipped where there is no strace, or nobody may trace.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise Skipped("needs strace (Debian: apt install strace)")
    command = [strace, "-f", "-qq", "-o", str(told), "-e", "trace=fsync,fdatasync"]
    command += ["-e", "inject=fsync,fdatasync:error=EIO", *(word for pid in pids for word in ("-p", str(pid)))]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        try:
            until(lambda: tracer.poll() is not None or _are_traced(pids), _ATTACHED_SECONDS, "tracing")
        except ChaosFailed as exc:
            raise Skipped(f"nobody may trace processes here ({exc})") from exc
        if tracer.poll() is not None:
            _, said = tracer.communicate()
            raise Skipped(f"nobody may trace processes here: {said.decode(errors='replace').strip()[:300]}")
        yield
    finally:
        # On SIGTERM it lets go of everybody first, and they go on.
        with contextlib.suppress(ProcessLookupError):
            tracer.send_signal(signal.SIGTERM)
        try:
            tracer.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.communicate()
        _let_run(pids)


def _let_run(pids: Collection[int]) -> None:
    """Who was about to be stopped for the tracer when it left stays stopped, and its parent waits for it."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)


def _are_traced(pids: Collection[int]) -> bool:
    """All that are still there, with all of their threads."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            for thread in psutil.Process(pid).threads():
                status = Path(f"/proc/{pid}/task/{thread.id}/status").read_text()
                if "TracerPid:\t0\n" in status:
                    return False
    return True
