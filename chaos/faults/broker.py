"""The broker forgets, is full, and is talked to by strangers."""

import random
import shutil
from collections.abc import Sequence

import redis

from chaos.faults import processes
from chaos.stack import Stack
from db.doorbell import DELIVER, FINALIZE, INGEST, WORK, CeleryDoorbell, broker, model_queue


def flush(stack: Stack) -> Sequence[int] | None:
    """None while it is being started again."""
    try:
        with stack.broker() as connection:
            connection.flushall()
    except redis.ConnectionError:
        return None
    return ()


def restart_empty(stack: Stack) -> Sequence[int] | None:
    """Killed, and its append-only file with it."""
    if "valkey" not in stack.roles():
        return None
    shutil.rmtree(stack.where.valkey.folder / "data" / "appendonlydir", ignore_errors=True)
    return () if processes.kill(stack, "valkey") is not None else None


def limit_memory(stack: Stack, limit: str) -> Sequence[int]:
    with stack.broker() as connection:
        connection.config_set("maxmemory", limit)
    return ()


def disconnect_all(stack: Stack) -> Sequence[int]:
    with stack.broker() as connection:
        connection.client_kill_filter(user="bushel")
    return ()


def rings(seed: int, job_ids: Sequence[str], models: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Messages of every kind: doubled, out of order, of known and of unknown ids."""
    chance = random.Random(seed)
    strange = ("job_none", "x" * 5_000, "job'; DROP TABLE jobs", "")
    said: list[tuple[str, ...]] = [(DELIVER,), *((WORK, model) for model in (*models, "no-such-model"))]
    for job_id in (*job_ids, *strange):
        said += [(INGEST, job_id), (FINALIZE, job_id)]
    return [chance.choice(said) for _ in range(count)]


def ring(stack: Stack, messages: Sequence[tuple[str, ...]]) -> Sequence[int]:
    bell = CeleryDoorbell(broker(stack.where.valkey.url))
    for task, *arguments in messages:
        bell.ring(task, *arguments)
    return ()


def listeners(stack: Stack) -> int:
    """Clients that wait for a message at this moment."""
    with stack.broker() as connection:
        return int(connection.info("clients")["blocked_clients"])


def waiting(stack: Stack, model: str) -> int:
    """Rings for the model's workers that nobody has taken yet."""
    with stack.broker() as connection:
        return int(connection.llen(f"bushel:{model_queue(model)}"))
