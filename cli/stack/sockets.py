"""Where the Unix sockets of a data folder live: a private folder whose path is short enough for the kernel."""

import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path

from cli.stack.errors import StackError

# sun_path holds 108 bytes on Linux and 104 on macOS, with the final zero.
_LONGEST_PATH = 107 if sys.platform == "linux" else 103


def socket_folder(folder: Path, longest_name: str, owner: int | None = None) -> Path:
    """A 0700 folder for the sockets of the part whose data is in `folder`, made if need be, given to user `owner`.

    In a shared /tmp anybody could have made that folder first, so one that belongs to a stranger is refused.
    """
    return _private(socket_place(folder, longest_name), os.geteuid() if owner is None else owner)


def socket_place(folder: Path, longest_name: str) -> Path:
    """Where that folder is, or will be. Makes nothing.

    `folder`/run where that fits; otherwise a folder under XDG_RUNTIME_DIR or the temporary folder named
    after a hash of the path, so that the same data always finds the same sockets.
    """
    resolved = folder.resolve()
    name = f"bushel-{hashlib.sha256(os.fsencode(resolved)).hexdigest()[:12]}"
    bases = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]
    candidates = [resolved / "run", *(Path(base) / name for base in bases if base and Path(base).is_dir())]
    for candidate in candidates:
        if len(os.fsencode(candidate / longest_name)) <= _LONGEST_PATH:
            return candidate
    raise StackError(f"no folder with a path short enough for a Unix socket; tried {', '.join(map(str, candidates))}")


def _private(folder: Path, owner: int) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), owner):
        raise StackError(f"{folder} belongs to somebody else; remove it, or set XDG_RUNTIME_DIR to a folder of yours")
    if found.st_uid != owner:
        os.chown(folder, owner, -1)
    folder.chmod(0o700)
    return folder
