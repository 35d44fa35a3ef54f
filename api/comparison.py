"""Two jobs over the same inputs: by how much one scores above the other, and where they differ most."""

import heapq
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field

from api.errors import documented
from api.job_object import EXAMPLE_ID
from api.jobs import tag
from api.services import services, tenant_id
from api.strict import Strict
from api.wire import answer
from db import files, jobs, reports, results
from db.errors import Conflict, NotFound
from db.models import File, Job
from db.reports import Header, Join, ReportLine
from db.results import Shown
from db.states import JobStatus, is_final
from scoring.streaming import SENTENCE_METRIC, Compared, Pairs

bp = APIBlueprint("comparison", __name__, url_prefix="/v1/jobs", abp_tags=[tag])

MAX_LINES = 200_000
# Of each text that is shown. A line may have a megabyte of them.
MAX_CHARS = 4_000
_OTHER_ID = "job_0mgcxk2l9h4t8v2c6y0q1w5r3b"


class ComparePath(Strict):
    job_id: str = Field(
        description="One job's id, called `a` in the answer.", json_schema_extra={"example": EXAMPLE_ID}
    )
    other_id: str = Field(description="The other's, called `b`.", json_schema_extra={"example": _OTHER_ID})


class CompareQuery(Strict):
    lines: int = Field(10, ge=0, le=100, description="How many lines to show each way.")


class MetricComparison(BaseModel):
    """One metric of both jobs, from 0 to 100, over the lines they share."""

    a: float
    b: float
    difference: float = Field(description="a minus b.")
    low: float = Field(description="The 95 % interval of the difference begins here,")
    high: float = Field(description="and ends here.")
    p_value: float = Field(description="How often chance alone would make a difference as large.")
    is_clear: bool = Field(description="The p-value is below 0.05, and the interval leaves 0 out.")
    signature: str = Field(description="What names the metric exactly.")


class ComparedOutput(BaseModel):
    """What one of the jobs made of a line, and its chrF."""

    score: float
    output: str


class ComparedLine(BaseModel):
    """A line of both jobs. Texts are cut at 4,000 characters."""

    custom_id: str
    difference: float = Field(description="chrF of a minus that of b.")
    source: str
    references: list[str]
    a: ComparedOutput
    b: ComparedOutput


class FurthestLines(BaseModel):
    """The lines that differ most by chrF, each way, the most different first."""

    a_better: list[ComparedLine]
    b_better: list[ComparedLine]


_EXAMPLE_LINE: dict[str, Any] = {
    "custom_id": "line-17",
    "difference": 41.3,
    "source": "The train is late.",
    "references": ["Der Zug hat Verspätung."],
    "a": {"score": 100.0, "output": "Der Zug hat Verspätung."},
    "b": {"score": 58.7, "output": "Der Zug ist verspätet."},
}
_EXAMPLE_METRIC: dict[str, Any] = {
    "a": 42.0,
    "b": 40.1,
    "difference": 1.9,
    "low": 0.8,
    "high": 3.1,
    "p_value": 0.002,
    "is_clear": True,
    "signature": "bleu|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
}


class ComparisonObject(BaseModel):
    """Two jobs side by side, over the lines that both have scored."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "comparison",
                "a": EXAMPLE_ID,
                "b": _OTHER_ID,
                "metrics": {"bleu": _EXAMPLE_METRIC},
                "common": 1500,
                "only_a": 0,
                "only_b": 2,
                "lines": {"a_better": [_EXAMPLE_LINE], "b_better": []},
            }
        }
    )

    object: Literal["comparison"] = "comparison"
    a: str
    b: str
    metrics: dict[str, MetricComparison]
    common: int = Field(description="Lines that both have scored; `custom_id` says which belong together.")
    only_a: int
    only_b: int
    lines: FurthestLines


@bp.get(
    "/<job_id>/compare/<other_id>",
    operation_id="compare_jobs",
    responses={200: ComparisonObject, **documented(400, 401, 404, 409, 503)},
)
def compare(path: ComparePath, query: CompareQuery) -> Response:
    """Compare two jobs

    Both must have ended with a report: their inputs came with references, the same in both. Differences are those of
    1,000 resamples that both jobs share.
    """
    with services().sessions() as session:
        ids = (path.job_id, path.other_id)
        pair = [jobs.get(session, tenant_id(), job_id) for job_id in ids]
        keys = [_report_key(job, files.find(session, tenant_id(), job.report_file_id)) for job in pair]
    with ExitStack() as opened:
        a, b = (_opened(opened, job, key) for job, key in zip(pair, keys, strict=True))
        signatures = _signatures(a[0], b[0])
        seen = _Seen(signatures, query.lines)
        join = Join(a[1], b[1], MAX_LINES)
        try:
            seen.take(join)
        except reports.TooManyLines as exc:
            raise Conflict(
                f"jobs {ids[0]} and {ids[1]} have more than {MAX_LINES:,} scored lines; download the two reports and "
                "compare their `stats` yourself, or submit a sample of the lines to both",
                "too_many_lines",
            ) from exc
    if not seen.common:
        raise Conflict(
            f"jobs {ids[0]} and {ids[1]} have no scored line in common; lines belong together by their `custom_id`",
            "nothing_in_common",
        )
    metrics = {name: _metric(found, signatures[name]) for name, found in seen.pairs.compared().items()}
    lines = FurthestLines(a_better=_shown(ids, seen.a_better), b_better=_shown(ids, seen.b_better))
    return answer(
        ComparisonObject(
            a=ids[0],
            b=ids[1],
            metrics=metrics,
            common=seen.common,
            only_a=join.only_a,
            only_b=join.only_b,
            lines=lines,
        )
    )


def _report_key(job: Job, file: File | None) -> str:
    if not is_final(JobStatus(job.status)):
        raise Conflict(f"job {job.id} is {job.status}; only jobs that have ended can be compared", "job_not_final")
    if job.report_file_id is None:
        reason = (
            "none of its inputs with a `reference` has an output, or its `errors` say that scoring failed"
            if job.referenced
            else "give its inputs a `reference` each, and run it again"
        )
        raise Conflict(f"job {job.id} has no scores; {reason}", "job_not_scored")
    if file is None:
        raise _gone(job)
    return file.store_key


def _gone(job: Job) -> Conflict:
    return Conflict(f"the report of job {job.id} was deleted; clone the job to have it scored again", "report_gone")


def _opened(opened: ExitStack, job: Job, key: str) -> tuple[Header, Iterator[ReportLine]]:
    try:
        return reports.read(opened.enter_context(services().store.open(key)))
    except FileNotFoundError as exc:
        raise _gone(job) from exc


def _signatures(a: Header, b: Header) -> dict[str, str]:
    """Of the metrics that both jobs were scored by, without how many references a line has; Conflict if they differ.

    References are compared line by line, and lines that only one job has may have more or fewer.
    """
    found = [
        {name: re.sub(r"nrefs:[^|]*\|", "", metric["signature"]) for name, metric in header.scores["metrics"].items()}
        for header in (a, b)
    ]
    if found[0] != found[1]:
        shown = ["; ".join(sorted(signatures.values())) for signatures in found]
        raise Conflict(
            f"jobs {a.job_id} and {b.job_id} were scored in different ways ({shown[0]} against {shown[1]}); "
            "clone the older one to have it scored again",
            "signatures_differ",
        )
    return found[0]


class _Seen:
    """One pass over the pairs of lines: sums, and the lines that differ most."""

    def __init__(self, signatures: dict[str, str], most: int) -> None:
        self.pairs = Pairs(tuple(signatures))
        self.common = 0
        self._most = most
        # By how much, minus the place so that the earlier of equals is kept, and the lines.
        self._a: list[tuple[float, int, ReportLine, ReportLine]] = []
        self._b: list[tuple[float, int, ReportLine, ReportLine]] = []

    @property
    def a_better(self) -> list[tuple[ReportLine, ReportLine]]:
        return [(a, b) for _, _, a, b in sorted(self._a, reverse=True)]

    @property
    def b_better(self) -> list[tuple[ReportLine, ReportLine]]:
        return [(a, b) for _, _, a, b in sorted(self._b, reverse=True)]

    def take(self, join: Join) -> None:
        for a, b in join:
            if a.references != b.references:
                raise Conflict(
                    f"line {a.custom_id!r} was scored against other references in one job than in the other; "
                    "such scores cannot be compared",
                    "references_differ",
                )
            self.common += 1
            self.pairs.add(a.numbers, b.numbers)
            by = round(a.scores[SENTENCE_METRIC] - b.scores[SENTENCE_METRIC], 2)
            if by:
                self._keep(self._a if by > 0 else self._b, (abs(by), -self.common, a, b))

    def _keep(
        self, kept: list[tuple[float, int, ReportLine, ReportLine]], line: tuple[float, int, ReportLine, ReportLine]
    ) -> None:
        if len(kept) < self._most:
            heapq.heappush(kept, line)
        elif kept:
            heapq.heappushpop(kept, line)


def _metric(found: Compared, signature: str) -> MetricComparison:
    difference = found.difference
    return MetricComparison(
        a=round(found.a, 4),
        b=round(found.b, 4),
        difference=round(difference.difference, 4),
        low=round(difference.interval.low, 4),
        high=round(difference.interval.high, 4),
        p_value=round(difference.p_value, 4),
        is_clear=difference.is_clear,
        signature=signature,
    )


def _shown(ids: tuple[str, str], lines: list[tuple[ReportLine, ReportLine]]) -> list[ComparedLine]:
    """The lines with their texts, which the reports do not have."""
    a_texts = _texts(ids[0], [a.index for a, _ in lines])
    b_texts = _texts(ids[1], [b.index for _, b in lines])
    shown = []
    for a, b in lines:
        mine, other = a_texts[a.index], b_texts[b.index]
        scores = (a.scores[SENTENCE_METRIC], b.scores[SENTENCE_METRIC])
        shown.append(
            ComparedLine(
                custom_id=a.custom_id,
                difference=round(scores[0] - scores[1], 2),
                source=_cut(mine.source),
                references=[_cut(reference) for reference in mine.references],
                a=ComparedOutput(score=scores[0], output=_cut(mine.output)),
                b=ComparedOutput(score=scores[1], output=_cut(other.output)),
            )
        )
    return shown


def _texts(job_id: str, indices: list[int]) -> dict[int, Shown]:
    with services().sessions() as session:
        found = results.shown(session, job_id, indices, MAX_CHARS + 1)
    if len(found) < len(set(indices)):
        # Deleted since its report was opened.
        raise NotFound("job", job_id)
    return found


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + "…"
