"""How near outputs are to what was wanted, by the metric a recipe names."""

from collections.abc import Sequence

from scoring.metrics import chrf, rouge


def similarity(metric: str, made: Sequence[str], wanted: Sequence[str]) -> float:
    """chrF of the corpus (`chrf`), or the mean ROUGE-1 F-measure (`rouge`); both of 100, higher is better."""
    references = [[text] for text in wanted]
    return chrf(made, references).score if metric == "chrf" else rouge(made, references, ["rouge1"])["rouge1"].score
