"""What a check has found, how bad it is, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """From the best to the worst; only a problem makes the command fail."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    outcome: Outcome
    found: str
    advice: str = ""


def ok(found: str) -> Finding:
    return Finding(Outcome.OK, found)


def info(found: str, advice: str = "") -> Finding:
    """Worth knowing, and nobody's fault; also for what could not be looked at."""
    return Finding(Outcome.INFO, found, advice)


def warning(found: str, advice: str) -> Finding:
    return Finding(Outcome.WARNING, found, advice)


def problem(found: str, advice: str) -> Finding:
    return Finding(Outcome.PROBLEM, found, advice)


def worst(findings: list[Finding]) -> Outcome:
    """
    >>> worst([ok("a"), warning("b", "mend it"), info("c")])
    <Outcome.WARNING: 'warning'>
    """
    order = list(Outcome)
    return max((finding.outcome for finding in findings), key=order.index, default=Outcome.OK)
