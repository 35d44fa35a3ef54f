"""Jobs made from jobs, over HTTP: retry what did not succeed, clone the whole with other settings."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from pydantic import ConfigDict, Field
from sqlalchemy.orm import Session

from api import creation
from api.choice import model_for
from api.creation import KEY_PARAMETER, Said
from api.errors import InvalidRequest, documented
from api.files import ensure_room
from api.jobs import CREATED, JobPath, accepted, tag
from api.services import services, tenant_id
from api.spooling import spooled
from api.strict import Strict
from api.submission import Metadata, Params, TierName, Window, check_job_params, duration, given
from api.validation import optional, optional_body
from db import children, jobs
from db.errors import NotFound
from db.jobs import NewJob, Submitted
from models.spec import Task, Tier

bp = APIBlueprint("children", __name__, url_prefix="/v1/jobs", abp_tags=[tag])

_PIECE_BYTES = 2**20
# What in another dialect is said on every line, or is always the same.
_FIXED = {
    "bushel": frozenset[str](),
    "openai": frozenset({"model", "tier", "params"}),
    "anthropic": frozenset({"model", "tier", "params", "on_error", "dry_run"}),
}


class RetryRequest(Strict):
    """What is to be otherwise than in the parent; what is left out is the same."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": {"priority": 10}})

    priority: int | None = Field(None, ge=-100, le=100, description="Higher goes first.")
    completion_window: Window | None = Field(
        None, description="Counted from now. null: no end; of a batch it cannot be null."
    )
    metadata: Metadata | None = Field(None, description="Up to 16 pairs, instead of the parent's.")

    def applied(self, new: NewJob) -> NewJob:
        """The child with what is said here."""
        if self.priority is not None:
            new = replace(new, priority=self.priority)
        if "metadata" in self.model_fields_set:
            new = replace(new, metadata=self.metadata)
        if "completion_window" not in self.model_fields_set:
            return new
        if self.completion_window is None:
            if new.dialect != "bushel":
                raise InvalidRequest("`completion_window` of a batch must be a duration", param="completion_window")
            return replace(new, completion_window=None, expires_in=None)
        return replace(new, completion_window=self.completion_window, expires_in=duration(self.completion_window))


class CloneRequest(RetryRequest):
    """What is to be otherwise than in the parent; what is left out is the same."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": {"params": {"num_beams": 4}}})

    model: str | None = Field(None, max_length=200, description="Another model of the same task.")
    tier: TierName | None = Field(None, description="Another of the model's family.")
    params: Params | None = Field(None, description="Decoding parameters, instead of all of the parent's.")
    long_input: Literal["error", "truncate"] | None = Field(None, description="What happens to an input too long.")
    on_error: Literal["fail", "skip"] | None = Field(None, description="What an invalid input does to the job.")
    dry_run: bool | None = Field(None, description="Only check and estimate; false runs what was a dry run.")
    cache: bool | None = Field(None, description="Whether results are taken from your cache, and put there.")

    def applied(self, new: NewJob) -> NewJob:
        said = {name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None}
        self._check(new, said)
        own: dict[str, Any] = {
            name: said[name] for name in ("model", "long_input", "on_error", "dry_run", "cache") if name in said
        }
        if self.params is not None:
            own["params"] = given(self.params)
        return super().applied(replace(new, **own))

    def _check(self, new: NewJob, said: dict[str, Any]) -> None:
        for name in sorted(_FIXED[new.dialect] & said.keys()):
            raise InvalidRequest(
                f"`{name}` of a job of the {new.dialect} dialect cannot be changed: its lines say what they want",
                param=name,
                code="invalid_value",
            )


_STATUSES = documented(400, 401, 404, 409, 413, 415, 422, 429, 503, 507)


@bp.post(
    "/<job_id>/retry",
    operation_id="retry_job",
    openapi_extensions={"parameters": [KEY_PARAMETER], "requestBody": optional(RetryRequest)},
    responses={202: CREATED, **_STATUSES},
)
def retry(path: JobPath) -> Response:
    """Retry a job

    Makes a job of those items that failed, expired or were cancelled; `parent_id` says whose. The parent, which must
    have ended, stays as it is. Items keep their `custom_id` and their line.
    """
    return _repeated(path.job_id, children.retry, optional_body(RetryRequest).applied)


@bp.post(
    "/<job_id>/clone",
    operation_id="clone_job",
    openapi_extensions={"parameters": [KEY_PARAMETER], "requestBody": optional(CloneRequest)},
    responses={202: CREATED, **_STATUSES},
)
def clone(path: JobPath) -> Response:
    """Clone a job

    Makes a job of the whole input of another, which may be in any status, with other settings where you say so.
    """
    body = optional_body(CloneRequest)
    tier = None if body.tier is None else Tier(body.tier)
    return _repeated(path.job_id, children.clone, lambda new: _fitting(body.applied(new), tier))


def _repeated(
    job_id: str, repeat: Callable[[Session, str, str], NewJob], changed: Callable[[NewJob], NewJob]
) -> Response:
    said = creation.said()
    with services().sessions() as session:
        earlier = creation.earlier(session, said)
        if earlier is not None:
            return accepted(Submitted(earlier, is_new=False))
        new = repeat(session, tenant_id(), job_id)
    return accepted(_made(changed(new), said))


def _fitting(new: NewJob, tier: Tier | None) -> NewJob:
    """The models may be others than they were when the parent was checked."""
    if new.dialect != "bushel":
        return new
    spec = model_for(Task(new.task), new.model, tier)
    check_job_params(new.params, spec, new.format["type"])
    return replace(new, model=spec.name)


def _made(new: NewJob, said: Said) -> Submitted:
    parent_id = new.parent_id or ""
    try:
        ensure_room(0)
        if new.input_file_id is None:
            return spooled(new, said, _copied(jobs.inputs_key(parent_id)))
        with services().sessions.begin() as session:
            return creation.submit(session, new, said)
    except FileNotFoundError as exc:
        raise children.gone(parent_id) from exc
    except NotFound as exc:
        if exc.noun == "file":
            raise children.gone(parent_id) from exc
        raise


def _copied(key: str) -> Iterator[bytes]:
    with services().store.open(key) as inputs:
        while piece := inputs.read(_PIECE_BYTES):
            yield piece
