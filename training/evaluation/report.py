"""What an evaluation has found, as JSON for machines and as Markdown for people."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scoring.bootstrap import Difference, Interval
from scoring.metrics import Agreement
from training.evaluation import bias_report, examples
from training.evaluation.bias import Bias
from training.evaluation.examples import Example
from training.evaluation.floors import UNTRANSLATED
from training.evaluation.perplexity import Perplexity
from training.markdown import table

NAMES: Mapping[str, str] = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "perplexity": "perplexity",
}

ABOUT_DIFFERENCES = (
    "Differences, above 0 where the model is better, with their 95 % intervals and p-values (two-sided) from paired "
    "resamples. One is *clear* if its interval leaves out 0 and p is below 0.05. With few items the two can disagree, "
    "as the p-value is of resamples moved to a mean of 0; then it is not clear."
)
ABOUT_PERPLEXITY = (
    "Perplexity: how surprised each model is by the references (or the inputs, without any), with the weights and the "
    "arithmetic that its engine works with. Int8 often differs from full precision in the last digits alone, although "
    "its outputs differ. Per token it is comparable only between models with the same tokens; bits per byte between "
    "any. Texts cut: longer than the model can take."
)


@dataclass(frozen=True, slots=True)
class Scored:
    """A score, the interval around it, and what names it exactly."""

    score: float
    interval: Interval
    signature: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Medians over the rounds; `seconds` are those of each round."""

    seconds: list[float]
    items_per_second: float
    input_tokens_per_second: float
    output_tokens_per_second: float


@dataclass(slots=True)
class Findings:
    """Everything about one model. Shares are from 0 to 1; `unfinished` outputs reached the limit of their length."""

    name: str
    speed: Speed
    load_seconds: float
    shipped_bytes: int
    engine_bytes: int
    peak_bytes: int
    cut: int
    unfinished: int
    copied_whole: float
    copied_words: float
    recipe: Mapping[str, Any]
    params: Mapping[str, Any]
    scores: dict[str, Scored] = field(default_factory=dict)
    length_ratio: float | None = None
    twin: str | None = None
    agreement: Agreement | None = None
    perplexity: Perplexity | None = None
    baseline: Perplexity | None = None
    bias: Bias | None = None


@dataclass(frozen=True, slots=True)
class Floor:
    """Outputs made without a model, which every model must be better than."""

    name: str
    scores: dict[str, Scored]
    length_ratio: float
    copied_whole: float
    copied_words: float


@dataclass(frozen=True, slots=True)
class Compared:
    """`model` against `other`: the difference of each metric, above 0 where `model` is better."""

    model: str
    other: str
    differences: Mapping[str, Difference]


@dataclass(frozen=True, slots=True)
class Report:
    """One evaluation. `baseline` is whom the Markdown compares all others with; JSON has every pair.

    `resumed` names the models of which some figures are those of an earlier run.
    """

    data: str
    items: int
    machine: str
    rounds: int
    samples: int
    baseline: str
    shown: tuple[str, ...]
    findings: list[Findings]
    compared: list[Compared]
    floors: list[Floor] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)


def write(report: Report, folder: Path) -> list[Path]:
    """`report.json` and `report.md`."""
    paths = [folder / "report.json", folder / "report.md"]
    content = json.dumps(_finite(asdict(report)), indent=1, ensure_ascii=False, allow_nan=False)
    paths[0].write_text(content + "\n", "utf-8")
    paths[1].write_text(markdown(report) + "\n", "utf-8")
    return paths


def markdown(report: Report) -> str:
    """Quality, differences, speed and size, one table each below what it shows, and what else was asked for."""
    parts = [f"# {report.items:,} items of {report.data}", _about_quality(report), _quality(report)]
    # That a translator is better than no translation is no news.
    floors = [floor.name for floor in report.floors if floor.name != UNTRANSLATED]
    others = [name for name in (report.baseline, *floors) if any(each.other == name for each in report.compared)]
    parts += [ABOUT_DIFFERENCES] if others else []
    for other in others:
        parts += [f"Against {other}:", _differences(report, other)]
    if any(each.perplexity for each in report.findings):
        parts += [ABOUT_PERPLEXITY, _perplexities(report)]
    parts += [_about_costs(report), _costs(report), _resumed(report)]
    if found := {each.name: each.bias for each in report.findings if each.bias is not None}:
        parts.append(bias_report.markdown(found))
    if report.examples:
        parts += ["## Examples", examples.markdown(report.examples, report.items)]
    return "\n\n".join(part for part in parts if part)


def _quality(report: Report) -> str:
    has_twin = any(each.agreement for each in report.findings)
    has_scores = any(each.scores for each in report.findings)
    header = ["model", *(NAMES[name] for name in report.shown if has_scores)]
    header += ["length", "copied whole", "copied words"] + (["same as twin", "chrF to twin"] if has_twin else [])
    rows = []
    ranked: list[Findings | Floor] = [*report.findings, *report.floors]
    for each in ranked:
        row = [each.name, *(_scored(each.scores[name]) for name in report.shown if has_scores)]
        row.append("" if each.length_ratio is None else f"{each.length_ratio:.2f}")
        row += [f"{each.copied_whole:.1%}", f"{each.copied_words:.1%}"]
        if has_twin:
            near = each.agreement if isinstance(each, Findings) else None
            row += [f"{near.same:.1%}", f"{near.chrf:.1f}"] if near else ["", ""]
        rows.append(row)
    return table(header, rows)


def _scored(scored: Scored) -> str:
    return f"{scored.score:.1f} ({scored.interval.low:.1f} to {scored.interval.high:.1f})"


def _differences(report: Report, other: str) -> str:
    rows = [
        [each.model, *(_difference(each.differences[name]) for name in report.shown)]
        for each in report.compared
        if each.other == other
    ]
    return table(["model", *(NAMES[name] for name in report.shown)], rows)


def _difference(found: Difference) -> str:
    low, high = found.interval.low, found.interval.high
    clear = ", clear" if found.is_clear else ""
    return f"{found.difference:+.2f} ({low:+.2f} to {high:+.2f}, p = {found.p_value:.3f}{clear})"


def _perplexities(report: Report) -> str:
    rows = []
    for each in report.findings:
        for name, found in ((each.name, each.perplexity), (f"{each.name}: 3-gram baseline", each.baseline)):
            if found is not None:
                bits = "" if found.bits_per_byte is None else f"{found.bits_per_byte:.4f}"
                rows.append([name, _large(found.perplexity), bits, f"{found.tokens:,}", str(found.cut)])
    return table(["model", "perplexity", "bits/byte", "tokens", "texts cut"], rows)


def _costs(report: Report) -> str:
    header = ["model", "items/s", "x", "output tokens/s", "seconds (least to most)", "weights", "as run", "peak memory"]
    header += ["cut", "unfinished"]
    first = next(each for each in report.findings if each.name == report.baseline).speed.items_per_second
    rows = []
    for each in report.findings:
        speed, seconds = each.speed, each.speed.seconds
        row = [each.name, f"{speed.items_per_second:,.1f}", f"{speed.items_per_second / first:.2f}"]
        row += [f"{speed.output_tokens_per_second:,.0f}", f"{min(seconds):.2f} to {max(seconds):.2f}"]
        row += [f"{size / 1e6:,.1f} MB" for size in (each.shipped_bytes, each.engine_bytes, each.peak_bytes)]
        rows.append([*row, str(each.cut), str(each.unfinished)])
    return table(header, rows)


def _about_quality(report: Report) -> str:
    lines = []
    signatures = {name: scored.signature for each in report.findings for name, scored in each.scores.items()}
    if signatures:
        lines.append(
            f"Scores from 0 to 100, with 95 % intervals of {report.samples:,} bootstrap resamples, the same ones for "
            "all models: "
            + "; ".join(f"{NAMES[name]} `{text}`" for name, text in signatures.items() if name in report.shown)
            + ". Length: characters over those of the reference nearest in length."
        )
    lines.append(
        "Copied whole: the share of outputs that are their input. Copied words: the share of the outputs' words that "
        "the input has."
    )
    if twins := sorted({each.twin for each in report.findings if each.twin}):
        lines.append(
            f"Same as twin: the share of outputs that are those of {', '.join(twins)} to the letter; chrF to twin: how "
            "near they are."
        )
    return " ".join(lines)


def _about_costs(report: Report) -> str:
    return (
        f"Speed: median of {report.rounds} rounds in which the models took turns, each in a process of its own, from "
        f"text to text; x: the speed over that of {report.baseline}. {report.machine}. Weights: as shipped; as run: as "
        "the engine reads them. Peak memory: the highest resident size of the model's process while it worked, "
        "libraries included. Cut: inputs longer than the model can take. Unfinished: outputs that reached the limit of "
        "their length."
    )


def _resumed(report: Report) -> str:
    if not report.resumed:
        return ""
    return (
        f"Of {', '.join(report.resumed)}, figures of an earlier run on this machine were taken up again, so that "
        "rounds of different models may lie further apart."
    )


def _large(value: float) -> str:
    # An int8 model often differs from its twin in the fourth digit and not before.
    return f"{value:,.4f}" if value < 100 else f"{value:,.2f}" if value < 1e6 else f"{value:.2e}"


def _finite(value: Any) -> Any:
    """JSON has no infinity: null instead."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
