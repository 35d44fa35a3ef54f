"""Checked lines become drafts of items: an id, effective parameters and - for refused and blank ones - a result."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from db.inputs import Problem
from db.recording import NewResult
from db.states import Outcome
from models.params import check as check_params
from models.spec import ModelSpec
from workers.formats import Line
from workers.planning import ITEM_OVERHEAD_TOKENS, estimate_tokens

_MOST_KNOWN = 10_000


@dataclass(slots=True)
class Draft:
    """A line on its way to become the item `idx`; `params` is None when it is settled already."""

    idx: int
    line: Line
    custom_id: str
    tokens: int
    params: str | None
    settled: NewResult | None = None


class Effective:
    """Effective decoding parameters per distinct set of item parameters, checked once each."""

    def __init__(self, job_params: Mapping[str, Any], spec: ModelSpec) -> None:
        self._job_params, self._spec = dict(job_params), spec
        self._known: dict[str, tuple[str, tuple[Problem, ...]]] = {}

    def of(self, params: Mapping[str, Any]) -> tuple[str, tuple[Problem, ...]]:
        """Canonical JSON of the parameters that will be used, or why they cannot be."""
        key = msgspec.json.encode(params, order="deterministic").decode() if params else "{}"
        if key not in self._known:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known[key] = self._check(params)
        return self._known[key]

    def _check(self, params: Mapping[str, Any]) -> tuple[str, tuple[Problem, ...]]:
        clean, found = check_params({**self._job_params, **params}, self._spec)
        if found:
            return "", tuple(Problem("invalid_params", each.message, each.hint, param=each.param) for each in found)
        return msgspec.json.encode(clean, order="deterministic").decode(), ()


@dataclass(frozen=True, slots=True)
class Drafter:
    """Makes drafts of the lines of one job. Lines without an id of their own get `id_prefix` and their number."""

    effective: Effective
    id_prefix: str

    def id_of(self, line: Line) -> str:
        return line.custom_id or f"{self.id_prefix}{line.number}"

    def drafts(
        self, window: Sequence[Line], first_idx: int, known: Mapping[str, int]
    ) -> tuple[list[Draft], list[Problem]]:
        """A draft for every line, and all problems. `known` are ids of earlier windows, with their lines."""
        taken = dict(known)
        drafts: list[Draft] = []
        found: list[Problem] = []
        for idx, line in enumerate(window, start=first_idx):
            problems = line.problems
            custom_id = self.id_of(line)
            if custom_id in taken:
                problems += (_duplicate(line, custom_id, taken[custom_id]),)
                custom_id = self._unused(line, taken)
            params = ""
            if line.input and not problems:
                params, wrong = self.effective.of(line.input.params)
                if wrong:
                    problems = tuple(_at(problem, line.number) for problem in wrong)
            taken[custom_id] = line.number
            found += problems
            drafts.append(_draft(idx, line, custom_id, params, problems))
        return drafts, found

    def _unused(self, line: Line, taken: Mapping[str, int]) -> str:
        """An id for a refused duplicate, so that its outcome can still be told apart."""
        wanted = f"{self.id_prefix}{line.number}#duplicate"
        # Random, and tried: an id of the user's, in this window or another, may look like ours.
        while (unused := f"{wanted}-{secrets.token_hex(4)}") in taken:
            pass
        return unused


def _draft(idx: int, line: Line, custom_id: str, params: str, problems: Sequence[Problem]) -> Draft:
    if problems:
        message = "; ".join(_sentence(problem) for problem in problems)
        where = f"line {line.number}: {message}"
        refusal = NewResult(idx, Outcome.FAILED, error_code=problems[0].code, error_message=where)
        return Draft(idx, line, custom_id, 0, None, refusal)
    if line.blank:
        blank = NewResult(idx, Outcome.SUCCEEDED, {"text": "", "finish_reason": "stop"})
        return Draft(idx, line, custom_id, 0, None, blank)
    assert line.input is not None
    return Draft(idx, line, custom_id, _tokens(line.input.body), params)


def _sentence(problem: Problem) -> str:
    return f"{problem.message} ({problem.hint})" if problem.hint else problem.message


def _duplicate(line: Line, custom_id: str, first: int) -> Problem:
    return Problem(
        "duplicate_custom_id",
        f"custom_id {custom_id!r} was used in line {first} already",
        "give every input its own",
        line=line.number,
        param="custom_id",
    )


def _at(problem: Problem, line: int) -> Problem:
    return Problem(problem.code, problem.message, problem.hint, line, problem.column, problem.param)


def _tokens(body: dict[str, Any]) -> int:
    if "messages" in body:
        return sum(estimate_tokens(turn["content"]) + ITEM_OVERHEAD_TOKENS for turn in body["messages"])
    return estimate_tokens(body["text"])
