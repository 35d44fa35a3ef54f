"""What a job's outputs score against their references, corpus-wide and line by line."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from db import reports
from db.inputs import MAX_REFERENCE_CHARS
from db.lines import source_text
from db.reports import Header, ReportLine, digest
from db.results import Referenced
from scoring.metrics import lengths, whole_copies, word_copies
from scoring.streaming import Score, Scorer, Stats, metrics_of, sentence_score
from scoring.tokenizers import tokenizer_for

# What of a report waits in memory; a longer one waits on the disk.
_SPOOLED_BYTES = 4 * 2**20
_PIECE_BYTES = 2**18
# Of an output; no references are longer. Scoring one of a million characters took two gigabytes, and of 16 references
# longer than the step's lease, which is renewed between two items.
MAX_SCORED_CHARS = MAX_REFERENCE_CHARS


class ScoringFailed(Exception):
    """The metrics could not be computed. They depend on nothing but the texts: trying again is of no use.

    `line` is the input's whose output was being scored; None if it was not a single one.
    """

    def __init__(self, line: int | None) -> None:
        super().__init__("the outputs could not be scored")
        self.line = line


class Sink(Protocol):
    """Where a report goes."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose outputs are scored. `languages` are all that they may be in."""

    job_id: str
    task: str
    model: str | None
    languages: frozenset[str | None]


@dataclass(slots=True)
class _Tally:
    """What is counted beside the metrics."""

    scored: int = 0
    unscored: int = 0
    in_part: int = 0
    sums: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, counts: tuple[int, int]) -> None:
        before = self.sums.setdefault(name, [0, 0])
        before[0] += counts[0]
        before[1] += counts[1]

    def share(self, name: str) -> float | None:
        """None for what the task does not count."""
        if name not in self.sums:
            return None
        part, whole = self.sums[name]
        return round(part / max(1, whole), 4)


def write_report(rows: Iterable[Referenced], sink: Sink, subject: Subject, each: Callable[[], None]) -> dict[str, Any]:
    """Score the rows that have an output, which one must; the job's scores, as its row keeps them.

    `each` is called after every row, and may raise to end it. ScoringFailed is raised for what goes wrong with the
    metrics, and not for trouble with the rows or the sink.
    """
    with _scoring():
        scorer = Scorer(metrics_of(subject.task), tokenizer_for(subject.languages))
    tally = _Tally()
    # The header says what is known only when all lines are written.
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as lines:
        for row in rows:
            if row.output is None:
                tally.unscored += 1
            else:
                with _scoring(row.line):
                    line = _line(row, scorer.add(row.output[:MAX_SCORED_CHARS], row.references))
                    _count(tally, subject.task, row, row.output)
                lines.write(reports.encode(line))
            each()
        with _scoring():
            scores = _as_json(scorer.scores(), scorer.signatures(), tally)
        sink.write(reports.encode(Header(subject.job_id, subject.task, subject.model, scores)))
        lines.seek(0)
        _copy(lines, sink, each)
    return scores


@contextmanager
def _scoring(line: int | None = None) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        raise ScoringFailed(line) from exc


def _copy(lines: BinaryIO | tempfile.SpooledTemporaryFile[bytes], sink: Sink, each: Callable[[], None]) -> None:
    while piece := lines.read(_PIECE_BYTES):
        sink.write(piece)
        each()


def _line(row: Referenced, stats: Stats) -> ReportLine:
    scores = {name: round(sentence_score(name, stats[name]), 2) for name in stats}
    return ReportLine(row.custom_id, row.index, row.line, digest(row.references), scores, reports.raw(stats))


def _count(tally: _Tally, task: str, row: Referenced, output: str) -> None:
    tally.scored += 1
    tally.in_part += len(output) > MAX_SCORED_CHARS
    tally.add("lengths", lengths(output, row.references))
    source = source_text(row.input)
    if task == "translation":
        tally.add("whole", whole_copies(output, source))
    else:
        tally.add("words", word_copies(output, source))


def _as_json(scores: dict[str, Score], signatures: dict[str, str], tally: _Tally) -> dict[str, Any]:
    metrics = {
        name: {
            "score": round(found.score, 4),
            "low": round(found.interval.low, 4),
            "high": round(found.interval.high, 4),
            "signature": signatures[name],
        }
        for name, found in scores.items()
    }
    return {
        "metrics": metrics,
        "scored": tally.scored,
        "unscored": tally.unscored,
        "scored_in_part": tally.in_part,
        "length_ratio": tally.share("lengths"),
        "copied_whole": tally.share("whole"),
        "copied_words": tally.share("words"),
    }
