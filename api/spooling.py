"""Inputs that come inside a request go to the store first, so that ingest has one way in."""

from collections.abc import Iterable
from dataclasses import replace

from api import creation
from api.creation import Said
from api.services import services
from db import jobs


def spooled(new: jobs.NewJob, said: Said, inputs: Iterable[bytes]) -> jobs.Submitted:
    """Write the inputs and make the job of them; should it not come to be, take them out again."""
    creation.ensure_allowed(new)
    store, key = services().store, jobs.inputs_key(new.id)
    with store.writer(key) as writer:
        for piece in inputs:
            writer.write(piece)
    is_needed: bool | None = None
    try:
        with services().sessions.begin() as session:
            submitted = creation.submit(session, replace(new, inputs_key=key, inputs_bytes=writer.bytes), said)
        is_needed = submitted.is_new
        return submitted
    finally:
        # After an error there may be a job: a commit whose answer was lost has happened.
        if not (_exists(new.id) if is_needed is None else is_needed):
            store.delete(key)


def _exists(job_id: str) -> bool:
    with services().sessions() as session:
        return jobs.exists(session, job_id)
