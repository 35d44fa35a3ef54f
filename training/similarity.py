"""How near outputs are to what was wanted, by the metric a recipe names."""

from collections.abc import Sequence

import sacrebleu

from training.errors import BadRecipe


def similarity(metric: str, made: Sequence[str], wanted: Sequence[str]) -> float:
    """chrF of the corpus, or the mean ROUGE-1 F-measure; both of 100, higher is better."""
    if metric == "chrf":
        return float(sacrebleu.corpus_chrf(made, [wanted]).score)
    if metric != "rouge":
        raise BadRecipe(f"no metric is called {metric!r}; there are chrf and rouge")
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1"], use_stemmer=True)
    found = [scorer.score(each, other)["rouge1"].fmeasure for each, other in zip(wanted, made, strict=True)]
    return float(100 * sum(found) / len(found))
