"""Whether the service as a whole takes in more work: a limit on the tokens that wait, of all tenants together."""

import threading
import time
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import LedgerError
from db.workers import ALIVE_SECONDS

# A token of usual text has about so many bytes; what a file will be in tokens, only ingest tells.
BYTES_PER_TOKEN = 4
# Jobs end in minutes: asking sooner than the first would not help, and later than the last looks like a refusal.
LEAST_SECONDS, MOST_SECONDS = 5.0, 600.0
_LOOK_SECONDS = 1.0


class Overloaded(LedgerError):
    """Nothing was made; as much work waits as may."""

    def __init__(self, queued: int, wanted: int, most: int, retry_after: float) -> None:
        super().__init__(
            f"{queued:,} tokens of all users wait to be processed, and about {wanted:,} more would be beyond the "
            f"{most:,} that may (BUSHEL_MAX_QUEUED_TOKENS); send the request again later"
        )
        self.queued, self.wanted, self.most, self.retry_after = queued, wanted, most, retry_after


@dataclass(frozen=True, slots=True)
class Load:
    """Input tokens that wait, and how many of them live workers are known to settle in a second; None: not known."""

    queued: int
    drained_per_second: float | None


_LOAD = text(f"""
    WITH waiting AS (
        -- Of one that is still read, as much as is read already, or as its file promises if that is more.
        SELECT greatest(queued_tokens, CASE WHEN status = 'validating' AND NOT dry_run
            THEN greatest(announced_tokens, coalesce(input_bytes, 0) / {BYTES_PER_TOKEN}) ELSE 0 END) AS tokens
        -- Of all tenants, whose rows a tenant's session does not see: the view tells how much there is, not whose.
        FROM open_work WHERE status IN ('validating', 'in_progress')
    ), speeds AS (
        SELECT worker.id, avg(rate.tokens_per_second / (1 + rate.output_per_input)) AS speed
        FROM workers worker JOIN model_rates rate ON worker.models ? rate.model
        WHERE worker.heartbeat_at > now() - :alive * interval '1 second'
        GROUP BY worker.id
    )
    SELECT (SELECT coalesce(sum(tokens), 0) FROM waiting) AS queued, (SELECT sum(speed) FROM speeds) AS drained
""")


def measure(session: Session) -> Load:
    row = session.execute(_LOAD, {"alive": ALIVE_SECONDS}).one()
    return Load(int(row.queued), None if row.drained is None else float(row.drained))


def seconds_until_room(load: Load, wanted: int, most: int) -> float:
    """When to ask again: pure, bounded, and the upper bound where nothing is known of the speed.

    >>> seconds_until_room(Load(1_200, 10.0), wanted=300, most=1_000)
    50.0
    >>> seconds_until_room(Load(1_200, None), 300, 1_000), seconds_until_room(Load(1_001, 10.0), 0, 1_000)
    (600.0, 5.0)
    """
    if not load.drained_per_second:
        return MOST_SECONDS
    # Work for which nothing has to go first is never refused; what is larger than the limit waits for an empty queue.
    excess = min(load.queued, load.queued + wanted - most)
    return min(max(excess / load.drained_per_second, LEAST_SECONDS), MOST_SECONDS)


class Admission:
    """Admits by the load as it was at most a second ago, and by what was admitted here since.

    Several processes may each admit a second's worth too much: the limit keeps the queue from growing without end, and
    is not a promise to the token.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._load, self._looked_at, self._since = Load(0, None), float("-inf"), 0

    def admit(self, session: Session, wanted: int) -> None:
        """Count `wanted` tokens in, or raise Overloaded. With nothing waiting, a job of any size is admitted."""
        if time.monotonic() - self._looked_at > _LOOK_SECONDS:
            load = measure(session)
            with self._lock:
                self._load, self._looked_at, self._since = load, time.monotonic(), 0
        with self._lock:
            load = Load(self._load.queued + self._since, self._load.drained_per_second)
            if load.queued and load.queued + wanted > self._most:
                raise Overloaded(load.queued, wanted, self._most, seconds_until_room(load, wanted, self._most))
            self._since += wanted
