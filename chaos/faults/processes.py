"""Processes killed, frozen, asked to leave."""

import contextlib
import os
import signal
from collections.abc import Sequence

import psutil

from chaos.stack import Stack

# What a random kill may hit, by role.
EVERYBODY = ("worker-1", "worker-2", "worker-io", "api", "api-child", "valkey", "postgres", "backend", "up")
SUPERVISOR = "up"


def kill(stack: Stack, role: str) -> Sequence[int] | None:
    """SIGKILL. The processes that die of it and may have held leases; None when nobody has the role just now."""
    roles = stack.roles()
    if role not in roles:
        return None
    pids = [roles[role]]
    if role == SUPERVISOR:
        # The kernel ends its children with it.
        pids = [pid for name, pid in roles.items() if name.startswith(("worker", SUPERVISOR)) and _is_child(pid, roles)]
    os.kill(roles[role], signal.SIGKILL)
    return pids


def _is_child(pid: int, roles: dict[str, int]) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return pid == roles[SUPERVISOR] or psutil.Process(pid).ppid() == roles[SUPERVISOR]
    return False


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def is_frozen(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def ask_to_leave(pid: int) -> Sequence[int]:
    os.kill(pid, signal.SIGTERM)
    return ()
