"""What documents, dashboards and alert rules say about metrics."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/observability.md"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
PROMETHEUS = ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARD = ROOT / "deploy/grafana/bushel.json"
_METRIC = re.compile(r"\b(?:bushel|process|python)_[a-z_]+\b")


def documented_metrics() -> set[str]:
    """Bushel's own that the page explains, one a row, without the endings that counters and histograms get."""
    rows = re.findall(r"^\| `(bushel_\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    return set(rows)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[str]:
    """Every query of the dashboard and of the rules."""
    for rule in rules():
        yield rule["expr"]
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def named_metrics() -> set[str]:
    """Of Bushel's own, with their endings."""
    found = {name for expression in expressions() for name in _METRIC.findall(expression)}
    return {name for name in found if name.startswith("bushel_")}
