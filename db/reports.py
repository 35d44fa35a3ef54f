"""The report of a job's scores: a header and one line for every scored item, as JSON lines. Pure.

    {"object":"report","job_id":"job_…","task":"translation","model":"…","scores":{…}}
    {"custom_id":"line-1","index":0,"line":1,"references":"5d41402abc4b2a76",
     "scores":{"bleu":31.2,"chrf":60.1},"stats":{"bleu":[7,7,…],"chrf":[35,33,…]}}

`stats` are the numbers whose sums over any lines make the corpus score of those; `references` is a hash of what the
line was scored against. Lines are in the order of the input.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, BinaryIO

import msgspec

from db.lines import json_line


class Header(msgspec.Struct, frozen=True):
    """Whose report it is, and the job's scores."""

    job_id: str
    task: str
    model: str | None
    scores: dict[str, Any]
    object: str = "report"


class ReportLine(msgspec.Struct, frozen=True):
    """One scored item."""

    custom_id: str
    index: int
    line: int
    references: str
    scores: dict[str, float]
    stats: msgspec.Raw

    @property
    def numbers(self) -> dict[str, list[float]]:
        """The stats. They are decoded only here: lines that wait for their other half are smaller without."""
        return msgspec.json.decode(self.stats, type=dict[str, list[float]])


class TooManyLines(Exception):
    """Two reports are too long, or too different, to be joined in memory."""


def digest(references: Sequence[str]) -> str:
    """The same for the same texts in any order.

    >>> digest(["a", "b"]) == digest(["b", "a"]) != digest(["ab"])
    True
    """
    return hashlib.blake2b(msgspec.json.encode(sorted(references)), digest_size=8).hexdigest()


def raw(stats: Mapping[str, Sequence[float]]) -> msgspec.Raw:
    """Stats as a line has them."""
    return msgspec.Raw(msgspec.json.encode(stats))


def encode(value: Header | ReportLine) -> bytes:
    return json_line(msgspec.json.encode(value))


def read(file: BinaryIO) -> tuple[Header, Iterator[ReportLine]]:
    """The header, and the lines as they are read."""
    header = msgspec.json.decode(file.readline(), type=Header)
    return header, map(msgspec.json.Decoder(ReportLine).decode, file)


class Join:
    """Pairs of lines of two reports that have the same `custom_id`, as `a` and `b`; once drawn, how many have no pair.

    Both are read in step, and lines wait for their other half: in reports of the same input only those that one job
    has failed. TooManyLines when more than `most` wait, or are paired.
    """

    def __init__(self, a: Iterable[ReportLine], b: Iterable[ReportLine], most: int) -> None:
        self._a, self._b, self._most = a, b, most
        self.only_a = self.only_b = 0

    def __iter__(self) -> Iterator[tuple[ReportLine, ReportLine]]:
        waiting_a: dict[str, ReportLine] = {}
        waiting_b: dict[str, ReportLine] = {}
        paired = 0
        for a, b in zip_longest(self._a, self._b):
            if a is not None:
                waiting_a[a.custom_id] = a
            if b is not None:
                waiting_b[b.custom_id] = b
            # Twice only where lines cross: each waited for the other's line.
            for custom_id in {line.custom_id: None for line in (a, b) if line is not None}:
                if custom_id in waiting_a and custom_id in waiting_b:
                    paired += 1
                    yield waiting_a.pop(custom_id), waiting_b.pop(custom_id)
            if max(paired, len(waiting_a) + len(waiting_b)) > self._most:
                raise TooManyLines
        self.only_a, self.only_b = len(waiting_a), len(waiting_b)
