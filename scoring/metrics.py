"""How good outputs are, by themselves, against references, and against another model's. Pure: texts in, numbers out.

A corpus metric is kept as one row of numbers for each item, from whose sums it can be computed for any resample.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from scoring.subsequence import longest_common

Floats = npt.NDArray[np.float64]
ROUGE = ("rouge1", "rouge2", "rougeL")
METRICS = ("bleu", "chrf", *ROUGE)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric over a corpus: rows of each item's statistics, the score of their sum, and what names it exactly."""

    name: str
    rows: Floats
    score_of: Callable[[Floats], float]
    signature: str

    @property
    def score(self) -> float:
        """From 0 to 100."""
        return self.score_of(self.rows.sum(0))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near outputs are to those of another model: the share that are equal, and chrF against them."""

    same: float
    chrf: float


def metrics(
    outputs: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "13a", names: Iterable[str] = METRICS
) -> dict[str, Metric]:
    """Each metric by its name. ROUGE is the mean F of the best reference, with English stemming."""
    makers: dict[str, Callable[[], Metric]] = {
        "bleu": lambda: bleu(outputs, references, tokenizer),
        "chrf": lambda: chrf(outputs, references),
    }
    wanted = list(names)
    found = {name: makers[name]() for name in wanted if name in makers}
    if kinds := [name for name in wanted if name in ROUGE]:
        found |= rouge(outputs, references, kinds)
    return found


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "13a") -> Metric:
    """sacreBLEU's; the rows are lengths, then matches and totals for each order."""
    from sacrebleu.metrics.bleu import BLEU

    # `force` silences the advice on tokenized outputs: a model's are what they are.
    return _sacre("bleu", BLEU(tokenize=tokenizer, force=True), outputs, references)


def chrf(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Metric:
    from sacrebleu.metrics.chrf import CHRF

    return _sacre("chrf", CHRF(), outputs, references)


def rouge(
    outputs: Sequence[str], references: Sequence[Sequence[str]], kinds: Sequence[str] = ROUGE
) -> dict[str, Metric]:
    """rouge-score's, which knows English letters only: elsewhere it is a rough guide."""
    rows = np.zeros((len(kinds), len(outputs)))
    for place, (output, accepted) in enumerate(zip(outputs, references, strict=True)):
        found = best_rouge(output, accepted, kinds)
        rows[:, place] = [found[kind] for kind in kinds]
    # A column of ones beside the scores, so that the mean follows from the sums.
    return {
        kind: Metric(kind, np.stack([row, np.ones_like(row)], axis=1), mean, rouge_signature(kind))
        for kind, row in zip(kinds, rows, strict=True)
    }


def best_rouge(output: str, accepted: Sequence[str], kinds: Sequence[str] = ROUGE) -> dict[str, float]:
    """F of each kind, from 0 to 1, against the reference that is best for it."""
    tokens = _rouge_tokens(output)
    found = [_rouge(tokens, _rouge_tokens(reference), kinds) for reference in accepted]
    return {kind: max(each[kind] for each in found) for kind in kinds}


def rouge_signature(kind: str) -> str:
    return f"{kind}|f1|stem:yes|refs:best|rouge-score:{version('rouge-score')}"


def length_ratio(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Characters of the outputs over those of the references, each the nearest in length to its output."""
    return ratio(lengths(*pair) for pair in zip(outputs, references, strict=True))


def copied_whole(outputs: Sequence[str], sources: Sequence[str]) -> float:
    """The share of outputs that are their input, case and spaces aside: what was not translated at all.

    >>> copied_whole(["Guten Tag", "hello  THERE"], ["Good day", "Hello there"])
    0.5
    """
    return ratio(whole_copies(*pair) for pair in zip(outputs, sources, strict=True))


def copied_words(outputs: Sequence[str], sources: Sequence[str]) -> float:
    """The share of the outputs' words that stand in their inputs: how extractive a summary is.

    >>> copied_words(["a small cat"], ["The small dog saw a cat."])
    0.6666666666666666
    """
    return ratio(word_copies(*pair) for pair in zip(outputs, sources, strict=True))


def lengths(output: str, accepted: Sequence[str]) -> tuple[int, int]:
    """Characters of one output, and of the reference that is nearest in length to it."""
    return len(output), _nearest(len(output), accepted)


def whole_copies(output: str, source: str) -> tuple[int, int]:
    """1 or 0 for one output that is its input or not, and the 1 it is of."""
    return int(_folded(output) == _folded(source)), 1


def word_copies(output: str, source: str) -> tuple[int, int]:
    """How many words of one output stand in its input, and how many it has."""
    known, words = set(_folded(source)), _folded(output)
    return sum(word in known for word in words), len(words)


def ratio(counts: Iterable[tuple[int, int]]) -> float:
    """The sum of the first numbers over that of the second ones.

    >>> ratio([(1, 1), (0, 1)]), ratio([])
    (0.5, 0.0)
    """
    above = below = 0
    for part, whole in counts:
        above, below = above + part, below + whole
    return above / max(1, below)


def agreement(outputs: Sequence[str], twin: Sequence[str]) -> Agreement:
    """Against the outputs of `twin`, taken as the references."""
    same = sum(one == other for one, other in zip(outputs, twin, strict=True)) / max(1, len(outputs))
    return Agreement(same, chrf(outputs, [[text] for text in twin]).score)


def streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacreBLEU takes them: the first of each item, the second of each, None where there is none.

    >>> streams([["a", "b"], ["c"]])
    [['a', 'c'], ['b', None]]
    """
    return [list(stream) for stream in zip_longest(*references)]


def _sacre(name: str, metric: Any, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Metric:
    # The two underscored methods are what sacreBLEU's own significance tests are made of.
    rows = metric._extract_corpus_statistics(outputs, streams(references))
    return Metric(
        name,
        np.array(rows, dtype=np.float64),
        lambda total: float(metric._compute_score_from_stats(total.tolist()).score),
        str(metric.get_signature()),
    )


def _rouge(tokens: list[str], reference: list[str], kinds: Sequence[str]) -> dict[str, float]:
    # Not with rouge-score's own table: of two texts of ten thousand words it takes a minute and gigabytes.
    grams = tuple(kind for kind in kinds if kind != "rougeL")
    found = {kind: float(score.fmeasure) for kind, score in _scorer(grams).score(reference, tokens).items()}
    if "rougeL" in kinds:
        common = longest_common(tokens, reference)
        found["rougeL"] = 2 * common / (len(tokens) + len(reference)) if common else 0.0
    return found


def _rouge_tokens(text: str) -> list[str]:
    tokens: list[str] = _rouge_tokenizer().tokenize(text)
    return tokens


@cache
def _rouge_tokenizer() -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)


class _AsTheyAre:
    """The tokenizer for what is tokens already."""

    def tokenize(self, tokens: list[str]) -> list[str]:
        return tokens


@cache
def _scorer(kinds: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(kinds), tokenizer=_AsTheyAre())


def mean(total: Floats) -> float:
    """Of summed rows of a number and a one, in percent."""
    return float(100 * total[0] / total[1])


def _nearest(length: int, accepted: Sequence[str]) -> int:
    """Of two that are as near the shorter, as sacreBLEU has it."""
    return min(map(len, accepted), key=lambda other: (abs(other - length), other))


def _folded(text: str) -> list[str]:
    return text.casefold().split()
