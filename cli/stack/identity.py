"""As whom PostgreSQL runs when we are root, because it refuses to run as root itself.

The wheel's own answer makes every folder from the file system's root down to the data readable for
everybody, /root included. Ours changes no permissions: where the chosen user could not pass through those
folders, the process keeps the one capability that lets it, which is still less than root has.
"""

import ctypes
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cli.stack.errors import StackError

# From linux/prctl.h, linux/securebits.h and linux/capability.h.
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_PR_SET_SECUREBITS, _NO_SETUID_FIXUP = 28, 1 << 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


@dataclass(frozen=True, slots=True)
class Identity:
    """A system user to become; `capability`, if any, survives the change."""

    name: str
    uid: int
    gid: int
    capability: int | None = None

    def become(self) -> None:
        """Drop root for good. For a process just forked, before exec."""
        if self.capability is not None:
            _check(_libc().prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "keep capabilities")
            # Else access(2), by which PostgreSQL looks for its programs, goes by the user alone. Where it may not be
            # set, programs in an open folder still work.
            _libc().prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP, 0, 0, 0)
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)
        if self.capability is not None:
            _keep_only(self.capability)


def server_identity(data: Path, passes_through: Iterable[Path]) -> Identity | None:
    """The user that owns, or will own, `data`; None when we are not root and nothing needs to change."""
    if os.geteuid() != 0:
        return None
    user = _owner(data) or _system_user()
    if all(_may_enter(user, path) for path in passes_through):
        return Identity(user.pw_name, user.pw_uid, user.pw_gid)
    return Identity(user.pw_name, user.pw_uid, user.pw_gid, _passing_capability(user.pw_name))


def _owner(data: Path) -> pwd.struct_passwd | None:
    """Whoever owns existing data keeps it: giving a cluster to another user needs a recursive chown."""
    try:
        uid = data.stat().st_uid
    except FileNotFoundError:
        return None
    if uid == 0:
        return None
    try:
        return pwd.getpwuid(uid)
    except KeyError as exc:
        raise StackError(f"{data} belongs to user id {uid}, which this system does not know") from exc


def _system_user() -> pwd.struct_passwd:
    for name in ("pgserver", "postgres"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    if shutil.which("useradd") is None:
        return pwd.getpwnam("nobody")
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "pgserver"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except (subprocess.SubprocessError, OSError) as exc:
        reason = getattr(exc, "stderr", None) or str(exc)
        raise StackError(
            f"PostgreSQL does not run as root, and the user 'pgserver' could not be made: {reason}"
        ) from exc
    return pwd.getpwnam("pgserver")


def _may_enter(user: pwd.struct_passwd, path: Path) -> bool:
    return all(_may_pass(user, folder) for folder in (path.resolve(), *path.resolve().parents) if folder.is_dir())


def _may_pass(user: pwd.struct_passwd, folder: Path) -> bool:
    found = folder.stat()
    if found.st_uid == user.pw_uid:
        return bool(found.st_mode & 0o100)
    return bool(found.st_mode & (0o010 if found.st_gid == user.pw_gid else 0o001))


def _passing_capability(name: str) -> int:
    held = _held_capabilities()
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if held & (1 << capability):
            return capability
    raise StackError(
        f"PostgreSQL does not run as root, and user '{name}' cannot reach the data folder; "
        "start as another user, or choose a --data that everybody may pass through"
    )


def _held_capabilities() -> int:
    if sys.platform != "linux":
        return 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _keep_only(capability: int) -> None:
    sets = (_Sets * 2)()
    sets[0] = _Sets(1 << capability, 1 << capability, 1 << capability)
    _check(_libc().capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets), "set capabilities")
    _check(_libc().prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0), "raise a capability")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"cannot {what}")
