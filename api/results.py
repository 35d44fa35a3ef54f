"""Results of a job: while it runs, by cursor, or whole as a download."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal
from urllib.parse import urlencode

from flask import Response, stream_with_context
from flask_openapi3.blueprint import APIBlueprint
from pydantic import Field

from api.errors import documented
from api.files import attachment
from api.jobs import JobPath, tag
from api.services import services, tenant_id
from api.strict import Strict
from api.transfers import SMALL_BYTES
from db import jobs, results
from db.lines import LineWriter, ResultRow, writer_for
from db.models import Job
from db.states import JobStatus, is_final

bp = APIBlueprint("results", __name__, url_prefix="/v1/jobs", abp_tags=[tag])

# What goes out in one piece: a line at a time would be a system call each.
_PIECE_BYTES = 64 * 1024
# A page is held in memory, so that it can say whether another follows.
_PAGE_BYTES = 8 * 2**20


class ResultsQuery(Strict):
    after: int | None = Field(
        None, ge=-1, description="Go on behind this one: an `index` in input order, a `seq` in order of finishing."
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Most lines to return, default all. A page may be shorter when lines are long.",
    )
    format: Literal["jsonl", "csv", "txt"] = Field(
        "jsonl",
        description="`csv` keeps the columns of a CSV input and adds output, status and error. `txt` is the output "
        "alone; its line N answers line N of a TXT input. Of several outputs of an input (`n`) both have the first.",
    )
    order: Literal["input", "finished"] = Field(
        "input", description="`finished` never puts a line before one that was read already: use it to follow a job."
    )
    include: Literal["input"] | None = Field(None, description="`input` puts the input into every JSONL line.")
    safe: bool | None = Field(
        None,
        description="CSV: whether a ' goes before cells that begin with = + - @ and the like, which a spreadsheet "
        "would run as a formula. Default: as the job's `format.csv_formulas` says, which is yes unless it is `keep`.",
    )


_EXAMPLE_LINE = (
    '{"index":0,"seq":12,"custom_id":"line-1","status":"succeeded","output":{"text":"Der Zug hat Verspätung.",'
    '"finish_reason":"stop","score":-0.31},"error":null,"usage":{"input_tokens":6,"output_tokens":7}}\n'
)
_ANSWER = {
    "description": "Results, one a line. While the job runs, only of items that are finished; once it has ended, "
    "items that never ran are there as `cancelled` or `expired`.",
    "headers": {
        "x-bushel-complete": {
            "schema": {"type": "string", "enum": ["true", "false"]},
            "description": "true: the job has ended, nothing will be added.",
        },
        "Link": {"schema": {"type": "string"}, "description": 'The next page, as rel="next", when `limit` is given.'},
    },
    "content": {
        "application/jsonl": {"schema": {"type": "string"}, "example": _EXAMPLE_LINE},
        "text/csv": {"schema": {"type": "string"}},
        "text/plain": {"schema": {"type": "string"}},
    },
}


@bp.get("/<job_id>/results", operation_id="get_results", responses={200: _ANSWER, **documented(400, 401, 404, 503)})
def read(path: JobPath, query: ResultsQuery) -> Response:
    """Read results

    Streamed. With `limit` in pages, linked by `Link: <…>; rel="next"`.
    """
    service = services()
    with service.sessions() as session:
        job = jobs.get(session, tenant_id(), path.job_id)
    is_whole = query.after is None
    aligned = is_whole and query.order == "input"
    writer = writer_for(query.format, job.format, query.include == "input", safe=query.safe, aligned=aligned)
    header = writer.header() if is_whole else b""
    after = query.after if query.order == "input" or query.after is None else max(query.after, 0)
    wanted = None if query.limit is None else query.limit + 1
    rows = results.rows(service.sessions, job.id, after, wanted, query.order)
    if query.limit is not None:
        response = _page(job, query, rows, writer, header)
    else:
        response = _download(job, rows, writer, header)
    response.content_type = writer.content_type
    response.headers["x-bushel-complete"] = "true" if is_final(JobStatus(job.status)) else "false"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def _page(job: Job, query: ResultsQuery, rows: Iterator[ResultRow], writer: LineWriter, header: bytes) -> Response:
    assert query.limit is not None
    lines, size, last, has_more = [header], 0, None, False
    for number, row in enumerate(rows):
        if number == query.limit or size > _PAGE_BYTES:
            has_more = True
            break
        lines.append(writer.line(row))
        size += len(lines[-1])
        last = row
    if size > SMALL_BYTES:
        services().transfers.begin()
    response = Response(b"".join(lines))
    if has_more and last is not None:
        cursor = last.index if query.order == "input" else last.seq
        again = query.model_dump(exclude_defaults=True) | {"after": cursor}
        response.headers["Link"] = f'</v1/jobs/{job.id}/results?{urlencode(again)}>; rel="next"'
    return response


def _download(job: Job, rows: Iterator[ResultRow], writer: LineWriter, header: bytes) -> Response:
    return streamed((writer.line(row) for row in rows), f"{job.id}.{writer.extension}", header)


def streamed(lines: Iterator[bytes], filename: str, header: bytes = b"") -> Response:
    """A download of lines as they are read; a transfer, if they are more than a little."""
    pieces = _pieces(chain((header,), lines))
    # Some are fetched now, so that a database that is down, or a lack of places, is an error and not a cut stream.
    ahead: list[bytes] = []
    size = 0
    while size <= SMALL_BYTES and (piece := next(pieces, None)) is not None:
        ahead.append(piece)
        size += len(piece)
    if size > SMALL_BYTES:
        services().transfers.begin()
    response = Response(stream_with_context(chain(ahead, pieces)))
    response.headers["Content-Disposition"] = attachment(filename)
    return response


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
