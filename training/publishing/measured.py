"""models/measured.json: of every measured model its first score and its speed, for pages that let one choose."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.evaluation.report import NAMES
from training.publishing.figures import Figures


def write_measured(root: Path, figures: Sequence[Figures]) -> Path:
    """Write it anew; of a model in several groups the first one counts. Models without a score are left out."""
    found: dict[str, dict[str, Any]] = {}
    for each in figures:
        said = json.loads((each.folder / "report.json").read_text("utf-8"))
        for metric in said["shown"][:1]:
            for one in said["findings"]:
                # One with a baseline of its own is judged by its perplexity, which only that can be compared with.
                if metric in one["scores"] and one["baseline"] is None:
                    found.setdefault(one["name"], _measured(one, metric, each))
    path = root / "models" / "measured.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")
    return path


def _measured(said: dict[str, Any], metric: str, figures: Figures) -> dict[str, Any]:
    score = said["scores"][metric]
    return {
        "metric": NAMES[metric],
        "score": round(score["score"], 2),
        "low": round(score["interval"]["low"], 2),
        "high": round(score["interval"]["high"], 2),
        "items": figures.items,
        "items_per_second": round(said["speed"]["items_per_second"], 2),
        "data": figures.group.title,
    }
