"""What can go wrong in the ledger.

LedgerError
├── NotFound               no such row for this tenant (a foreign row looks the same)
├── IllegalTransition      the job's present status forbids the move
├── Conflict               the request contradicts an earlier one (idempotency key, running job)
├── QuotaExceeded          the tenant would have more of something than it may
├── LeaseLost              another worker, or nobody, holds what we thought was ours
└── ConfigError            a setting is missing or unusable
"""


class LedgerError(Exception):
    """Root of the ledger's errors."""


class NotFound(LedgerError):
    def __init__(self, noun: str, id: str) -> None:
        super().__init__(f"there is no {noun} {id!r}")
        self.noun, self.id = noun, id


class IllegalTransition(LedgerError):
    """The job cannot move from its present status to the one asked for."""

    def __init__(self, job_id: str, now: str, wanted: str) -> None:
        super().__init__(f"job {job_id} is {now}; it cannot become {wanted}")
        self.job_id, self.now, self.wanted = job_id, now, wanted


class Conflict(LedgerError):
    """What is asked contradicts what is recorded; the message says both."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class QuotaExceeded(LedgerError):
    """Nothing was made. `used` of the quota is taken, `wanted` would come on top, `limit` is what there may be.

    `ends_by_itself`: waiting helps, because jobs end; stored bytes stay until somebody deletes them.
    """

    def __init__(self, quota: str, used: int, wanted: int, limit: int, remedy: str, *, ends_by_itself: bool) -> None:
        what = quota.replace("_", " ")
        super().__init__(
            f"the quota of {what} does not allow it: {used:,} used, {wanted:,} wanted, {limit:,} allowed; {remedy}"
        )
        self.quota, self.used, self.wanted, self.limit = quota, used, wanted, limit
        self.ends_by_itself = ends_by_itself


class LeaseLost(LedgerError):
    """The chunk or job step was taken from us; our work on it must be thrown away."""

    def __init__(self, what: str, attempt: int) -> None:
        super().__init__(f"the lease on {what} (attempt {attempt}) is gone; its work is discarded")
        self.what, self.attempt = what, attempt


class ConfigError(LedgerError):
    """A setting is missing or cannot be used; the message names the variable."""
