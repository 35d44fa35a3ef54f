"""References from a file through API, worker and command line to scores, a report and a comparison."""

import csv
import json
import subprocess
from pathlib import Path

import pytest

from tests.stack.conftest import BIN, REGISTRY, Stack

pytestmark = pytest.mark.slow

SHOUTING = """
[models.echo-upper]
task = "translation"
source = "."
engine = "echo"
options = { transform = "upper" }
"""
LINES = 1200


def written(path: Path) -> Path:
    """Every tenth line without a reference, every third one with a wrong word in it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "text", "ref"])
        for n in range(LINES):
            wrong = "mouse" if n % 3 == 0 else "cat"
            rows.writerow(
                [f"id-{n}", f"the cat number {n} sat here", "" if n % 10 == 9 else f"the {wrong} number {n} sat here"]
            )
    return path


def test_a_file_with_references_is_scored_and_compared(stack: Stack, tmp_path: Path) -> None:
    stack.registry.write_text(REGISTRY + SHOUTING)
    stack.start_api()
    stack.start_worker()

    def bushel(*arguments: str) -> str:
        environment = stack.environment | {"BUSHEL_URL": str(stack.http.base_url), "BUSHEL_API_KEY": stack.key}
        command = [str(BIN / "bushel"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    columns = ("--id-column", "id", "--reference-column", "ref", "--wait")
    file = str(written(tmp_path / "lines.csv"))
    good, bad = (bushel("submit", file, *columns, "--model", model).strip() for model in ("echo", "echo-upper"))

    scores = stack.finished(good)["scores"]
    assert (scores["scored"], scores["unscored"]) == (LINES * 9 // 10, 0)
    assert scores["metrics"]["bleu"]["low"] < scores["metrics"]["bleu"]["score"] < scores["metrics"]["bleu"]["high"]
    assert "bleu" in bushel("status", good)
    report = bushel("results", good, "--report").splitlines()
    assert len(report) == 1 + scores["scored"] and json.loads(report[0])["scores"] == scores

    found = json.loads(bushel("compare", good, bad, "--json", "--lines", "2"))

    assert (found["common"], found["only_a"], found["only_b"]) == (scores["scored"], 0, 0)
    assert found["metrics"]["chrf"]["is_clear"] and found["metrics"]["chrf"]["difference"] > 20
    assert len(found["lines"]["a_better"]) == 2 and found["lines"]["b_better"] == []
    assert found["lines"]["a_better"][0]["b"]["output"].startswith("THE CAT NUMBER")
