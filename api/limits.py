"""How many requests a tenant may make in a second: counted by all API processes together, in the broker.

While that is away each process counts for itself, so that a tenant has at most its limit from each of them, and never
no limit at all. Plain commands only: the service's user of the broker may run no scripts.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError
from redis.retry import Retry

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 1
# A broker on the same network answers in less than a millisecond.
_TIMEOUT = 0.25
# How long a broker that failed is left alone: what it costs is one timeout in so many seconds, not one a request.
QUIET_SECONDS = 5.0
# Of two seconds both are looked at, so the older one is needed until the younger one is over.
_KEPT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Taken:
    """Whether the request is within the limit, and how many more are at this moment."""

    is_allowed: bool
    limit: int
    remaining: int


class Counter(Protocol):
    """Requests of a tenant by the second in which they came."""

    def add(self, tenant_id: str, second: int) -> tuple[int, int]:
        """Count one; how many came in that second, this one included, and in the one before."""
        ...

    def take_back(self, tenant_id: str, second: int) -> None:
        """It was refused. What is refused does not count, or who is a little too fast would get nothing at all."""
        ...


def weighed(now: float, current: int, previous: int) -> float:
    """How many came in the last second, as near as two counts tell: of the older, the part that is not a second ago.

    >>> weighed(10.0, 1, 4), weighed(10.75, 1, 4)
    (5.0, 2.0)
    """
    return current + previous * (1 - now % 1)


class RequestRates:
    """A sliding window of a second for each tenant. Several threads may take at once; `close` it in the end."""

    def __init__(
        self, broker_url: str, clock: Callable[[], float] = time.monotonic, today: Callable[[], float] = time.time
    ) -> None:
        self._shared, self._local = BrokerCounter(broker_url), ProcessCounter()
        self._clock, self._today = clock, today
        self._quiet_until = 0.0

    def take(self, tenant_id: str, per_second: int) -> Taken:
        """Count one request of the tenant, if it is within the limit."""
        if self._clock() >= self._quiet_until:
            try:
                return self._take(self._shared, tenant_id, per_second)
            except (RedisError, OSError) as exc:
                self._quiet_until = self._clock() + QUIET_SECONDS
                fields = {"action": "rates_are_local"}
                logger.warning("each process counts requests for itself: %s", type(exc).__name__, extra=fields)
        return self._take(self._local, tenant_id, per_second)

    def close(self) -> None:
        self._shared.close()

    def _take(self, counter: Counter, tenant_id: str, per_second: int) -> Taken:
        now = self._today()
        current, previous = counter.add(tenant_id, int(now))
        left = per_second - weighed(now, current, previous)
        if left < 0:
            counter.take_back(tenant_id, int(now))
        return Taken(left >= 0, per_second, max(0, int(left)))


class BrokerCounter:
    """Counts that all processes share. Raises redis-py's errors, after a quarter of a second at most."""

    def __init__(self, broker_url: str) -> None:
        # A connection that was closed while it was idle is made again; a timeout is not tried a second time.
        retry = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
        self._redis = Redis.from_url(
            redis_url(broker_url), socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=retry
        )

    def add(self, tenant_id: str, second: int) -> tuple[int, int]:
        pipe = self._redis.pipeline(transaction=False)
        pipe.incr(_key(tenant_id, second))
        pipe.expire(_key(tenant_id, second), _KEPT_SECONDS)
        pipe.get(_key(tenant_id, second - 1))
        current, _, previous = pipe.execute()
        return int(current), int(previous or 0)

    def take_back(self, tenant_id: str, second: int) -> None:
        self._redis.decr(_key(tenant_id, second))

    def close(self) -> None:
        self._redis.close()


def _key(tenant_id: str, second: int) -> str:
    return f"bushel:requests:{tenant_id}:{second}"


class ProcessCounter:
    """Counts of this process alone; of seconds that are over, only the last is kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[int, int]] = {}

    def add(self, tenant_id: str, second: int) -> tuple[int, int]:
        with self._lock:
            before = self._counts.get(tenant_id, {})
            counts = {each: before.get(each, 0) for each in (second - 1, second)}
            counts[second] += 1
            self._counts[tenant_id] = counts
            return counts[second], counts[second - 1]

    def take_back(self, tenant_id: str, second: int) -> None:
        with self._lock:
            counts = self._counts[tenant_id]
            if second in counts:
                counts[second] -= 1


def redis_url(broker_url: str) -> str:
    """The broker's URL as redis-py writes it.

    >>> redis_url("redis://h/0"), redis_url("redis+socket:///v.sock"), redis_url("redis+socket://u:p@/v?virtual_host=2")
    ('redis://h/0', 'unix:///v.sock', 'unix://u:p@/v?db=2')
    """
    parts = urlsplit(broker_url)
    if parts.scheme != "redis+socket":
        return broker_url
    database = parse_qs(parts.query).get("virtual_host", [""])[0].lstrip("/")
    query = f"?db={database}" if database else ""
    return f"unix://{parts.netloc}{parts.path}{query}"
