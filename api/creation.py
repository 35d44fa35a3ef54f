"""How a request makes a job: once, however often it is sent, and within what its tenant may have open."""

import hashlib
import logging
import re
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from flask import request
from sqlalchemy import event
from sqlalchemy.orm import Session

from api import metrics
from api.errors import InvalidRequest
from api.requests import has_body
from api.services import services, tenant_id
from db import files, jobs, quotas
from db.admission import BYTES_PER_TOKEN, Overloaded
from db.jobs import Idempotency, NewJob, Submitted
from db.models import Job
from telemetry import traces

logger = logging.getLogger(__name__)

_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
_RETRY_COUNT = re.compile(r"\d{0,8}[1-9]\d{0,8}\Z")

# For the OpenAPI document of every operation that makes a job.
KEY_PARAMETER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Any name of yours for this request. Sent again with the same body, it returns the job it made; "
    "with another body it is an error (422).",
    "schema": {"type": "string", "maxLength": 255},
}


@dataclass(frozen=True, slots=True)
class Said:
    """What tells one request from another: the client's own name for it, or else all that it says.

    `is_retry`: the client's library says that it sends the request again by itself.
    """

    idempotency: Idempotency | None
    fingerprint: str
    is_retry: bool


def said() -> Said:
    """Of the request that is being served. InvalidRequest for a key that is none, or a body that is not JSON."""
    body = request.get_json() if has_body() else None
    whole = [request.path.rstrip("/"), body]
    fingerprint = hashlib.sha256(msgspec.json.encode(whole, order="deterministic")).hexdigest()
    # The OpenAI and Anthropic libraries repeat what got no answer, and this header is all they say about it.
    is_retry = _RETRY_COUNT.match(request.headers.get("X-Stainless-Retry-Count", "")) is not None
    return Said(_idempotency(fingerprint), fingerprint, is_retry)


def earlier(session: Session, said: Said) -> Job | None:
    """The job this request made when it was sent before: a look, to spare the work of making it once more."""
    return jobs.earlier(session, tenant_id(), said.idempotency, said.fingerprint if said.is_retry else None)


def submit(session: Session, new: NewJob, said: Said) -> Submitted:
    """Make the job for the tenant who asks, or find the one this request made already."""
    _admit(session, new, said)
    submitted = jobs.submit(
        session,
        tenant_id(),
        replace(new, fingerprint=said.fingerprint, traceparent=traces.current()),
        said.idempotency,
        retried=said.is_retry,
        limits=services().settings.quotas,
    )
    if submitted.is_new:
        note_new(session, submitted.job)
    return submitted


def note_new(session: Session, job: Job) -> None:
    """Once the job is committed, say which request made it; from there on its lines name the job."""
    job_id, task, dialect = job.id, job.task, job.dialect

    def tell(_: Session) -> None:
        metrics.SUBMITTED.labels(task, dialect).inc()
        logger.info("job %s was submitted", job_id, extra={"action": "job_submitted", "job_id": job_id})

    event.listen(session, "after_commit", tell, once=True)


def ensure_allowed(new: NewJob) -> None:
    """Raise QuotaExceeded where the tenant has no room, before anything is stored; `submit` asks again for good."""
    with services().sessions.begin() as session:
        quotas.admit(session, tenant_id(), new.wanted, services().settings.quotas)


def _admit(session: Session, new: NewJob, said: Said) -> None:
    """Raise Overloaded if the service has more to do than it may; not for a request that made its job before."""
    if new.dry_run:
        return
    try:
        services().admission.admit(session, _tokens(session, new))
    except Overloaded:
        if earlier(session, said) is None:
            raise


def _tokens(session: Session, new: NewJob) -> int:
    """About how many the job has; of a file, ingest tells later."""
    if new.input_file_id is None:
        return new.announced_tokens or new.inputs_bytes // BYTES_PER_TOKEN
    return files.get(session, tenant_id(), new.input_file_id).bytes // BYTES_PER_TOKEN


def _idempotency(fingerprint: str) -> Idempotency | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not _KEY.match(key):
        raise InvalidRequest(
            "Idempotency-Key must be 1 to 255 visible ASCII characters", param="Idempotency-Key", code="invalid_value"
        )
    return Idempotency(key, fingerprint)
