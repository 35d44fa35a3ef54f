"""A small disk of its own for a folder, filled and emptied again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.errors import Skipped


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
