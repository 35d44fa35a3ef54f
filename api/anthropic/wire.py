"""Anthropic's objects: our values in, theirs out. Pure, standard library only."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

PREFIX = "msgbatch_"
# Our status -> theirs. Writing the results down is no news to them.
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class BatchJob(Protocol):
    """What of a job its message batch shows."""

    @property
    def status(self) -> str: ...
    @property
    def format(self) -> Mapping[str, Any]: ...
    @property
    def selection(self) -> str | None: ...
    @property
    def total(self) -> int: ...
    @property
    def succeeded(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def cancelled(self) -> int: ...
    @property
    def expired(self) -> int: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def expires_at(self) -> datetime | None: ...
    @property
    def cancelling_at(self) -> datetime | None: ...
    @property
    def completed_at(self) -> datetime | None: ...
    @property
    def failed_at(self) -> datetime | None: ...
    @property
    def expired_at(self) -> datetime | None: ...
    @property
    def cancelled_at(self) -> datetime | None: ...


def message_batch(job: BatchJob, id: str, requests: int, results_url: str) -> dict[str, Any]:
    """The batch with all its keys; `requests` is how many it was made of, which the job counts as it reads them."""
    is_over = has_ended(job.status)
    return {
        "id": id,
        "type": "message_batch",
        "processing_status": processing_status(job.status),
        "request_counts": request_counts(job, requests),
        "created_at": moment(job.created_at),
        "expires_at": moment(job.expires_at or job.created_at),
        "cancel_initiated_at": moment(job.cancelling_at),
        "ended_at": moment(job.completed_at or job.failed_at or job.expired_at or job.cancelled_at),
        "archived_at": None,
        "results_url": results_url if is_over else None,
    }


def has_ended(status: str) -> bool:
    return status in _ENDED


def processing_status(status: str) -> str:
    """
    >>> processing_status("validating"), processing_status("cancelling"), processing_status("expired")
    ('in_progress', 'canceling', 'ended')
    """
    if has_ended(status):
        return "ended"
    return "canceling" if status == "cancelling" else "in_progress"


def request_counts(job: BatchJob, requests: int) -> dict[str, int]:
    """They sum to the number of requests. As in their API, none but `processing` moves before the batch has ended."""
    if not has_ended(job.status):
        return {"processing": max(requests, job.total), "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    counts = {
        "processing": 0,
        "succeeded": job.succeeded,
        "errored": job.failed,
        "canceled": job.cancelled,
        "expired": job.expired,
    }
    counts[_fate(job.status)] += max(0, requests - job.total)
    return counts


def unread_result(status: str) -> dict[str, Any]:
    """The result of a request that was not even read before its batch ended, in this status."""
    fate = _fate(status)
    if fate != "errored":
        return {"type": fate}
    message = "the batch failed before this request was read; send it again"
    return {"type": "errored", "error": envelope(500, message, None, None)}


def _fate(status: str) -> str:
    return {"cancelled": "canceled", "failed": "errored"}.get(status, "expired")


def envelope(status: int, message: str, details: Mapping[str, Any] | None, request_id: str | None) -> dict[str, Any]:
    """An error as all their answers have it. In `details` their clients look for an `error_code`."""
    type = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    error: dict[str, Any] = {"type": type, "message": message}
    if details:
        error["details"] = dict(details)
    return {"type": "error", "error": error, "request_id": request_id}


def moment(at: datetime | None) -> str | None:
    """
    >>> moment(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    '2026-01-02T03:04:05.000000Z'
    """
    return None if at is None else f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
