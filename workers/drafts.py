"""Checked lines become drafts of items: an id, what they run with and - for refused and blank ones - a result."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from db.inputs import Problem, estimated_tokens
from db.recording import NewResult
from db.states import Outcome
from workers.effective import MODEL_NOT_FOUND, Setup, Setups
from workers.formats import Line


class Draft(msgspec.Struct):
    """A line on its way to become the item `idx`; `setup` is None when it is settled already."""

    idx: int
    line: Line
    custom_id: str
    tokens: int
    setup: Setup | None
    settled: NewResult | None = None


@dataclass(frozen=True, slots=True)
class Drafter:
    """Makes drafts of the lines of one job. Lines without an id of their own get `id_prefix` and their number.

    What is wrong with a line is a problem of the job; what is wrong with the request on it, in dialects whose lines
    are whole requests, is that request's own answer.
    """

    setups: Setups
    dialect: str
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
            setup, refusal = (None, ()) if problems else self._judged(line)
            if refusal and self._is_of_line(refusal):
                problems, refusal = tuple(_at(problem, line.number) for problem in refusal), ()
            taken[custom_id] = line.number
            found += problems
            drafts.append(_draft(idx, line, custom_id, setup, problems, refusal))
        return drafts, found

    def _judged(self, line: Line) -> tuple[Setup | None, tuple[Problem, ...]]:
        """What the line's input runs with, or why it cannot."""
        assert line.input is not None
        refusal = line.input.refusal
        if refusal and line.input.model is None:
            return None, refusal
        found = self.setups.of(line.input)
        if isinstance(found, Setup):
            return (None, refusal) if refusal else (found, ())
        # A model that does not exist is said first: there, nothing else of the line was judged for that model.
        return None, refusal if refusal and found.problems[0].code != MODEL_NOT_FOUND else found.problems

    def _is_of_line(self, problems: Sequence[Problem]) -> bool:
        if self.dialect == "openai":
            return problems[0].code == MODEL_NOT_FOUND
        return self.dialect == "bushel"

    def _unused(self, line: Line, taken: Mapping[str, int]) -> str:
        """An id for a refused duplicate, so that its outcome can still be told apart."""
        wanted = f"{self.id_prefix}{line.number}#duplicate"
        # Random, and tried: an id of the user's, in this window or another, may look like ours.
        while (unused := f"{wanted}-{secrets.token_hex(4)}") in taken:
            pass
        return unused


def _draft(
    idx: int,
    line: Line,
    custom_id: str,
    setup: Setup | None,
    problems: Sequence[Problem],
    refusal: Sequence[Problem],
) -> Draft:
    if problems:
        return Draft(idx, line, custom_id, 0, None, _refused(idx, problems, f"line {line.number}: "))
    if refusal:
        return Draft(idx, line, custom_id, 0, None, _refused(idx, refusal))
    if line.blank:
        blank = NewResult(idx, Outcome.SUCCEEDED, {"text": "", "finish_reason": "stop"})
        return Draft(idx, line, custom_id, 0, None, blank)
    assert line.input is not None
    if setup is not None:
        line.input.answered_by(setup.model)
    return Draft(idx, line, custom_id, estimated_tokens(line.input.body), setup)


def _refused(idx: int, problems: Sequence[Problem], where: str = "") -> NewResult:
    first, said = problems[0], "; ".join(_sentence(problem) for problem in problems)
    return NewResult(idx, Outcome.FAILED, error_code=first.code, error_message=where + said, error_param=first.param)


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
