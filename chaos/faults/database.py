"""PostgreSQL restarted, cut off, locked, full, closed to writing."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from chaos.faults import processes
from chaos.stack import Stack


def restart_immediately(stack: Stack) -> Sequence[int] | None:
    """As `pg_ctl restart -m immediate` does: no checkpoint, everybody is thrown out."""
    roles = stack.roles()
    if "postgres" not in roles:
        return None
    os.kill(roles["postgres"], signal.SIGQUIT)
    return ()


def kill(stack: Stack) -> Sequence[int] | None:
    return None if processes.kill(stack, "postgres") is None else ()


def terminate_backends(stack: Stack) -> Sequence[int] | None:
    """Cut every connection of the service, in whatever statement it is."""
    try:
        with stack.administrator() as connection:
            cut(connection)
    except psycopg.OperationalError:
        return None
    return ()


def cut(connection: psycopg.Connection[Any]) -> None:
    connection.execute("""
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE usename = 'bushel' AND backend_type = 'client backend'
    """)


@contextmanager
def setting(stack: Stack, name: str, value: str) -> Iterator[None]:
    """Every new session has it while the block lasts, and there are none but new ones."""
    with stack.administrator() as connection:
        connection.execute(f"ALTER DATABASE bushel SET {name} = {value}".encode())
    terminate_backends(stack)
    try:
        yield
    finally:
        with stack.administrator() as connection:
            # Or the setting to be undone could forbid to undo it.
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER DATABASE bushel RESET {name}".encode())
        terminate_backends(stack)


@contextmanager
def locked(stack: Stack, table: str) -> Iterator[None]:
    """Nobody writes to the table while the block lasts."""
    with stack.administrator() as connection, connection.transaction():
        connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE".encode())
        yield


def deadlock(stack: Stack, seconds: float) -> int:
    """Take the rows of jobs and then those of leased chunks, against the service's order.

    PostgreSQL ends one of the two sides, the service's as often as ours. The number of deadlocks is returned.
    """
    ended = threading.Event()
    threading.Timer(seconds, ended.set).start()
    with stack.administrator() as connection:
        while not ended.is_set():
            try:
                with connection.transaction():
                    connection.execute("SELECT id FROM jobs WHERE status = 'in_progress' FOR UPDATE")
                    time.sleep(0.2)
                    connection.execute("SELECT id FROM chunks WHERE state = 'leased' FOR UPDATE")
            except psycopg.errors.DeadlockDetected:
                pass
        found = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = 'bushel'").fetchone()
    return int(found[0]) if found else 0


@contextmanager
def crowded(stack: Stack, connections: int) -> Iterator[int]:
    """So many connections are taken while the block lasts, or as many as there are left."""
    taken: list[psycopg.Connection[Any]] = []
    try:
        for _ in range(connections):
            try:
                taken.append(psycopg.connect(stack.database_url, connect_timeout=3))
            except psycopg.OperationalError:
                break
        yield len(taken)
    finally:
        for connection in taken:
            connection.close()
