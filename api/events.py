"""What happens to jobs: their logs as JSON, page by page, or as streams that go on while it happens."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import Field

from api import auth, sse
from api.errors import documented
from api.event_object import EventList, EventObject
from api.hub import Hub
from api.jobs import JobPath
from api.paced import PacedSocket
from api.services import services, tenant_id
from api.streams import HandedOver, Stream
from api.strict import Strict
from api.transfers import at_end
from api.wire import listed
from db import events, jobs

tag = Tag(name="events", description="What happens to jobs, as it happens.")
bp = APIBlueprint("events", __name__, url_prefix="/v1", abp_tags=[tag])


class EventsQuery(Strict):
    """A part of a log, the oldest first. To go on, send the `last_id` of the answer as `after`."""

    after: str | None = Field(
        None,
        max_length=40,
        description="Go on behind the event with this id. A stream takes it from the header `Last-Event-ID` too, "
        "which goes before; without either the stream of a job begins with the job, and that of all jobs with now.",
    )
    limit: int = Field(20, ge=1, le=100, description="Most elements to return; of no meaning to a stream.")


_STREAM: dict[str, Any] = {
    "description": "A page of the log; or, with `Accept: text/event-stream`, a stream of server-sent events: `job` "
    "(data: the job as it is now), `log` (data: an event; id: its id), `end` (nothing more will come).",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/EventList"}},
        sse.MIMETYPE: {"schema": {"type": "string"}},
    },
}


@bp.get(
    "/jobs/<job_id>/events",
    operation_id="list_job_events",
    responses={200: _STREAM, **documented(400, 401, 404, 429, 503)},
)
def of_job(path: JobPath, query: EventsQuery) -> Response:
    """Follow a job

    With `Accept: text/event-stream` the answer goes on while the job does: its state at once and whenever that has
    changed, at most once a second, and what is new in its log. It ends with the job. Else a page of the log.
    """
    with services().sessions() as session:
        job_id = jobs.get(session, tenant_id(), path.job_id).id
    return _streamed(job_id, query) if _wants_stream() else _page(job_id, query)


@bp.get(
    "/events",
    operation_id="list_events",
    responses={200: EventList, **documented(400, 401, 429, 503)},
)
def of_all(query: EventsQuery) -> Response:
    """Follow all jobs

    The same of all jobs of the tenant, single requests left out. With `Accept: text/event-stream` it is a stream too,
    which begins with the jobs that are open and does not end by itself.
    """
    return _streamed(None, query) if _wants_stream() else _page(None, query)


def _wants_stream() -> bool:
    """Only who asks for it by name: a client that takes anything could not take this."""
    accepted = request.accept_mimetypes
    named = any(mimetype == sse.MIMETYPE for mimetype, _ in accepted)
    return named and accepted.best_match(["application/json", sse.MIMETYPE]) == sse.MIMETYPE


def _page(job_id: str | None, query: EventsQuery) -> Response:
    after = 0 if query.after is None else events.position(query.after)
    with services().sessions() as session:
        page = events.listing(session, tenant_id(), job_id, after, query.limit)
    return listed(page.rows, page.has_more, EventObject.of)


def _streamed(job_id: str | None, query: EventsQuery) -> Response:
    position = _position(job_id, query)
    headers = {"Content-Type": f"{sse.MIMETYPE}; charset=utf-8", "X-Accel-Buffering": "no"}
    if request.method == "HEAD":
        return Response(b"", headers=headers)
    with services().keyring.begin() as session:
        opened_with = auth.presented(session, datetime.now(UTC))
    hub = services().hub
    stream = hub.open(tenant_id(), job_id, opened_with, position)
    connection = request.environ.get("gunicorn.socket")
    if not isinstance(connection, PacedSocket):
        at_end(lambda: hub.leave(stream))
        return Response(_in_this_thread(hub, stream), headers=headers)
    at_end(lambda: None if connection.is_handed_over else hub.leave(stream))
    is_chunked = request.environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    return Response(_handed_over(hub, stream, connection, is_chunked), headers=headers)


def _handed_over(hub: Hub, stream: Stream, connection: PacedSocket, is_chunked: bool) -> Iterator[bytes]:
    """Under our own worker: the answer begins in this thread and goes on in that of all streams."""
    yield sse.RETRY
    connection.hand_over(lambda: hub.begin(stream, connection, is_chunked))
    raise HandedOver


def _in_this_thread(hub: Hub, stream: Stream) -> Iterator[bytes]:
    """Under servers that cannot hand a connection over."""
    yield sse.RETRY
    hub.begin(stream)
    yield from stream.pieces()


def _position(job_id: str | None, query: EventsQuery) -> int:
    """The id of the event behind which the stream begins."""
    after = request.headers.get("Last-Event-ID") or query.after
    if after is None and job_id is not None:
        return 0
    with services().sessions() as session:
        newest = events.newest(session, tenant_id())
    # An id beyond the last one is of a ledger that was restored from a backup since.
    return newest if after is None else min(newest, events.position(after))
