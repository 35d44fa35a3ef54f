"""How much the outputs of one way agree with those of another."""

from collections.abc import Mapping
from dataclasses import dataclass

from sacrebleu.metrics.chrf import CHRF

from benchmarks.service import BenchmarkFailed


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over so many lines that both did: chrF of one against the other, and the share that is equal to the letter."""

    lines: int
    chrf: float
    same: float


def agreement(outputs: Mapping[int, str], reference: Mapping[int, str]) -> Agreement:
    """By the line's place. BenchmarkFailed where no line was done by both: nobody may win without being looked at.

    >>> agreement({0: "a cat", 1: "b"}, {0: "a cat"})
    Agreement(lines=1, chrf=100.0, same=1.0)
    """
    places = sorted(outputs.keys() & reference.keys())
    if not places:
        raise BenchmarkFailed("there is no line that both ways did, so that nothing tells whether they agree")
    given, wanted = [outputs[place] for place in places], [reference[place] for place in places]
    score = CHRF().corpus_score(given, [wanted]).score
    same = sum(one == other for one, other in zip(given, wanted, strict=True)) / len(places)
    return Agreement(len(places), round(score, 6), same)
