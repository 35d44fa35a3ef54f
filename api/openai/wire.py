"""The OpenAI API's objects made of our values. Pure: plain values in, JSON-ready dicts out, every key always there."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

# While the file is read, its lines so far are no total; and of a refused file nothing was run.
_UNCOUNTED = ("validating",)
_NOTHING_RAN = ("validating", "failed")


class Batch(Protocol):
    """The parts of a job that its batch shows."""

    @property
    def endpoint(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...
    @property
    def status(self) -> str: ...
    @property
    def errors(self) -> Mapping[str, Any] | None: ...
    @property
    def input_file_id(self) -> str | None: ...
    @property
    def output_file_id(self) -> str | None: ...
    @property
    def error_file_id(self) -> str | None: ...
    @property
    def completion_window(self) -> str | None: ...
    @property
    def job_metadata(self) -> Mapping[str, Any] | None: ...
    @property
    def total(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def succeeded(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def cancelled(self) -> int: ...
    @property
    def expired(self) -> int: ...
    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def in_progress_at(self) -> datetime | None: ...
    @property
    def expires_at(self) -> datetime | None: ...
    @property
    def finalizing_at(self) -> datetime | None: ...
    @property
    def completed_at(self) -> datetime | None: ...
    @property
    def failed_at(self) -> datetime | None: ...
    @property
    def expired_at(self) -> datetime | None: ...
    @property
    def cancelling_at(self) -> datetime | None: ...
    @property
    def cancelled_at(self) -> datetime | None: ...


def batch(id: str, job: Batch, extension: Mapping[str, Any]) -> dict[str, Any]:
    """The Batch object: OpenAI's 22 keys, and ours under `bushel`."""
    return {
        "id": id,
        "object": "batch",
        "endpoint": job.endpoint,
        "model": job.model,
        # Lines that `on_error: skip` failed alone are in the error file.
        "errors": errors(job.errors) if job.status == "failed" else None,
        "input_file_id": job.input_file_id,
        "completion_window": job.completion_window,
        "status": job.status,
        "output_file_id": job.output_file_id,
        "error_file_id": job.error_file_id,
        "created_at": unix(job.created_at),
        # Without a line to run there is no such moment; to a batch's clients it is the one in which it began to end.
        "in_progress_at": unix(job.in_progress_at or job.finalizing_at),
        "expires_at": unix(job.expires_at),
        "finalizing_at": unix(job.finalizing_at),
        "completed_at": unix(job.completed_at),
        "failed_at": unix(job.failed_at),
        "expired_at": unix(job.expired_at),
        "cancelling_at": unix(job.cancelling_at),
        "cancelled_at": unix(job.cancelled_at),
        "request_counts": _request_counts(job),
        "usage": _usage(job),
        "metadata": job.job_metadata,
        "bushel": dict(extension),
    }


def counts(job: Batch) -> dict[str, int]:
    """All six, which sum to `total` at every moment."""
    return {
        "total": job.total,
        "queued": job.queued,
        "running": job.running,
        "succeeded": job.succeeded,
        "failed": job.failed,
        "cancelled": job.cancelled,
        "expired": job.expired,
    }


def errors(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The `errors` of a batch from those of a job; lines count from 1.

    >>> problem = {"line": 3, "column": 1, "param": "url", "code": "url_mismatch", "message": "no", "hint": "yes"}
    >>> errors({"total": 1, "data": [problem]})["data"]
    [{'code': 'url_mismatch', 'message': 'no; yes', 'param': 'url', 'line': 3}]
    """
    if not found:
        return None
    return {"object": "list", "data": [_error(each) for each in found["data"]]}


def _error(problem: Mapping[str, Any]) -> dict[str, Any]:
    message, hint = problem.get("message"), problem.get("hint")
    return {
        "code": problem.get("code"),
        "message": f"{message}; {hint}" if hint else message,
        "param": problem.get("param"),
        "line": problem.get("line"),
    }


def _request_counts(job: Batch) -> dict[str, int]:
    """`completed` are successes only. What was cancelled or expired is in neither count, only in the total."""
    if job.status in _UNCOUNTED:
        return {"total": 0, "completed": 0, "failed": 0}
    return {"total": job.total, "completed": job.succeeded, "failed": job.failed}


def _usage(job: Batch) -> dict[str, Any] | None:
    if job.status in _NOTHING_RAN:
        return None
    return {
        "input_tokens": job.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": job.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": job.input_tokens + job.output_tokens,
    }


class Upload(Protocol):
    """The parts of an upload that are shown."""

    @property
    def id(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def expires_at(self) -> datetime: ...
    @property
    def filename(self) -> str: ...
    @property
    def purpose(self) -> str: ...
    @property
    def status(self) -> str: ...


def upload(found: Upload, file: Mapping[str, Any] | None) -> dict[str, Any]:
    """The Upload object; `file` is the File object it became."""
    return {
        "id": found.id,
        "object": "upload",
        "bytes": found.bytes,
        "created_at": unix(found.created_at),
        "expires_at": unix(found.expires_at),
        "filename": found.filename,
        "purpose": found.purpose,
        "status": found.status,
        "file": file,
    }


def part(id: str, upload_id: str, created_at: datetime) -> dict[str, Any]:
    return {"id": id, "object": "upload.part", "created_at": unix(created_at), "upload_id": upload_id}


def listing(data: Sequence[Mapping[str, Any]], has_more: bool) -> dict[str, Any]:
    """The list object. Clients go on behind the id of the last element."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": list(data), "first_id": first, "last_id": last, "has_more": has_more}


def unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
