"""The data folder: is it there, is it ours and ours alone, has it room, and does a `bushel up` run in it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cli.checkup.finding import Finding, info, ok, problem
from cli.checkup.scene import AS_OWNER, Kind, Scene
from cli.show import moment, size

_LEAST_FREE, _PAUSE_FREE = 512 * 2**20, 128 * 2**20
_SERVERS = {"postgres": ("postgres",), "valkey": ("valkey-server",)}


def data(scene: Scene) -> Iterator[Finding]:
    folder = scene.data
    if not folder.exists():
        if scene.kind is Kind.STACK:
            yield info(f"{folder} is not there yet", f"the first start makes it: bushel up --data {folder}")
        else:
            yield info(f"{folder} is not there; the first worker makes it for converted models")
        return
    if not folder.is_dir():
        yield problem(f"{folder} is no folder", "name another by --data or BUSHEL_DATA")
        return
    found = folder.stat()
    told = f"{folder} of {_user(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o}"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        advice = f"run as {_user(found.st_uid)}, or change its owner or mode; a file system may be read-only"
        yield problem(f"{told}, cannot be used by {_user(os.geteuid())}", advice)
        return
    if found.st_mode & 0o022:
        yield problem(f"{told}: others may change what is in it", f"chmod go-w {folder}")
    else:
        yield ok(told)
    yield from _closed(folder / "client.json", "has the API key")
    yield from room(scene, folder, "data folder")


def _closed(path: Path, what: str) -> Iterator[Finding]:
    if path.exists() and path.stat().st_mode & 0o077:
        yield problem(f"{path} {what}, and others may read it", f"chmod 600 {path}, and make a new key")


def room(scene: Scene, folder: Path, what: str) -> Iterator[Finding]:
    """What is free for what is written to the folder, against what the API and the workers want to keep free."""
    place = os.statvfs(folder)
    free = place.f_bavail * place.f_frsize
    least = _whole(scene, "BUSHEL_MIN_FREE_BYTES", _LEAST_FREE)
    pause = _whole(scene, "BUSHEL_PAUSE_FREE_BYTES", _PAUSE_FREE)
    told = f"{size(free)} free for the {what}"
    advice = "make room: bushel delete JOB, a shorter BUSHEL_RETENTION_DAYS, or a larger disk"
    if free < pause:
        yield problem(f"{told}: workers pause below {size(pause)} (BUSHEL_PAUSE_FREE_BYTES)", advice)
    elif free < least:
        yield problem(f"{told}: uploads and jobs are refused below {size(least)} (BUSHEL_MIN_FREE_BYTES)", advice)
    elif place.f_files and not place.f_favail:
        yield problem(f"no file can be made for the {what}, since the disk has no inodes left", advice)
    else:
        yield ok(told)


def _whole(scene: Scene, name: str, usual: int) -> int:
    """A setting that the check of settings judges, if it is none."""
    value = scene.environment.get(name, "")
    return int(value) if value.isdecimal() else usual


def stack(scene: Scene) -> Iterator[Finding]:
    from cli.stack.lock import holder

    try:
        pid = holder(scene.data)
    except PermissionError as exc:
        yield problem(f"whether a `bushel up` runs here cannot be seen: {exc}", AS_OWNER)
        return
    if pid is not None:
        told = f"process {pid}" if pid else "a process that has just started"
        yield ok(f"a `bushel up` runs here: {told}{_since(pid)}")
        return
    left = list(_left(scene.data))
    yield from left
    if not scene.has_started:
        yield info("no `bushel up` has ever run here", f"start it: bushel up --data {scene.data}")
    elif not left:
        last = _last(scene.data)
        was = f"; the last one was process {last}, and its lock file means nothing now" if last else ""
        yield problem(f"no `bushel up` runs here{was}", f"start it: bushel up --data {scene.data}")


def _left(folder: Path) -> Iterator[Finding]:
    """Servers that outlived the `bushel up` that started them."""
    from cli.stack.errors import MissingParts
    from cli.stack.leftovers import leftovers

    for part, names in _SERVERS.items():
        try:
            found = leftovers(folder / part / "data", names)
        except MissingParts:
            yield info("whether servers were left behind cannot be told: psutil is not installed")
            return
        if found:
            yield problem(
                f"{names[0]} (process {found[0].pid}) of an earlier `bushel up` still works here, without it",
                f"it was killed; the next start ends what is left: bushel up --data {folder}",
            )


def _last(folder: Path) -> str | None:
    try:
        written = (folder / "bushel.lock").read_text("ascii", "replace").strip()
    except OSError:
        return None
    return written if written.isdigit() else None


def _since(pid: int) -> str:
    try:
        import psutil
    except ImportError:
        return ""
    try:
        began = psutil.Process(pid).create_time() if pid else None
    except psutil.Error:
        return ""
    return f", since {moment(began)}" if began else ""


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
