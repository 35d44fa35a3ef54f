"""docs/compatibility.md: what each version of each SDK could do when the checks were run."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.environments import SDK, python

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "compatibility.md"
MARKS = {"ok": "yes", "absent": "-", "failed": "**no**"}
KINDS = ("sync", "async")


@dataclass(frozen=True)
class Report:
    feature: str
    outcome: str
    detail: str


def run(sdk: SDK, kind: str, url: str, key: str, other_key: str) -> list[Report]:
    """All checks with one version and one kind of client."""
    script = HERE / f"{sdk.package}_checks.py"
    done = subprocess.run(
        [python(sdk), script, kind, url, key, other_key], capture_output=True, text=True, timeout=240, check=False
    )
    reports = [
        Report(each["feature"], each["outcome"], each["detail"]) for each in map(json.loads, done.stdout.splitlines())
    ]
    assert reports and done.returncode in (0, 1), f"{sdk.name} {kind} did not come to its end: {done.stderr[-2000:]}"
    return reports


def rendered(found: Mapping[tuple[SDK, str], Sequence[Report]]) -> str:
    """The document's tables, one for each SDK."""
    parts = []
    for package in dict.fromkeys(sdk.package for sdk, _ in found):
        runs = {f"{sdk.version} {kind}": reports for (sdk, kind), reports in found.items() if sdk.package == package}
        features = list(dict.fromkeys(report.feature for reports in runs.values() for report in reports))
        outcomes = {name: {report.feature: report.outcome for report in reports} for name, reports in runs.items()}
        parts += [f"## The `{package}` package", "", f"| | {' | '.join(runs)} |", f"|---|{'---|' * len(runs)}"]
        for feature in features:
            marks = (MARKS[outcomes[name].get(feature, "absent")] for name in runs)
            parts.append(f"| {feature} | {' | '.join(marks)} |")
        parts.append("")
    return "\n".join(parts)


def written() -> str:
    """The tables as they stand in the document, without what was written around them by hand."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text.split("<!-- tables -->\n")[1].split("<!-- end of tables -->")[0]


def write(tables: str) -> None:
    before, rest = DOCUMENT.read_text(encoding="utf-8").split("<!-- tables -->\n")
    after = rest.split("<!-- end of tables -->")[1]
    DOCUMENT.write_text(f"{before}<!-- tables -->\n{tables}<!-- end of tables -->{after}", encoding="utf-8")
