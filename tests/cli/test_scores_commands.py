"""Scores on the command line: with a job, as a report, side by side with another job's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from tests.cli.fake_bushel import FakeBushel

Captured = pytest.CaptureFixture[str]

SCORES = {
    "metrics": {
        "chrf": {"score": 61.24, "low": 60.1, "high": 62.3, "signature": "chrf|nrefs:1"},
        "bleu": {"score": 42.0, "low": 40.5, "high": 43.4, "signature": "bleu|nrefs:1"},
    },
    "scored": 1500,
    "unscored": 2,
    "length_ratio": 0.98,
    "copied_whole": 0.01,
    "copied_words": None,
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeBushel]:
    with FakeBushel() as server:
        monkeypatch.setenv("BUSHEL_URL", server.url)
        monkeypatch.setenv("BUSHEL_API_KEY", "bsh_test")
        monkeypatch.setenv("BUSHEL_DATA", str(tmp_path / "none"))
        yield server


def scored(fake: FakeBushel, **fields: Any) -> str:
    fake.state.files["file-r"] = {"id": "file-r", "bytes": 9, "filename": "r.jsonl", "purpose": "batch_output"}
    fake.state.contents["file-r"] = b'{"a":1}\n'
    return fake.add_job(["one"], **({"scores": SCORES, "report_file_id": "file-r"} | fields))


def test_a_reference_column_is_passed_on(fake: FakeBushel, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,ref\na,A\n", "utf-8")

    assert run(["submit", str(file), "--reference-column", "ref"]) == 0

    assert fake.state.bodies[0]["format"] == {"type": "csv", "reference_column": "ref"}


def test_status_shows_the_scores(fake: FakeBushel, capfd: Captured) -> None:
    job_id = scored(fake)

    assert run(["status", job_id]) == 0

    shown = capfd.readouterr().out.splitlines()
    rows = [line.split() for line in shown if line.startswith(("bleu", "chrf"))]
    assert rows == [
        ["bleu", "42.0", "40.5", "to", "43.4"],
        ["chrf", "61.2", "60.1", "to", "62.3"],
        ["bleu", "bleu|nrefs:1"],
        ["chrf", "chrf|nrefs:1"],
    ]
    assert "of 1,500 outputs; 2 with a reference have no output" in shown[-1]
    assert shown[-1].endswith("0.98 times as long as the references; 1.0% copy their input whole")
    assert not [line for line in shown if line != line.rstrip()]


def test_status_says_when_intervals_mean_little(fake: FakeBushel, capfd: Captured) -> None:
    few = SCORES | {"scored": 29, "copied_whole": None, "copied_words": 0.5}

    assert run(["status", scored(fake, scores=few)]) == 0

    shown = capfd.readouterr().out.splitlines()
    assert shown[-2].endswith("50.0% of their words are the input's")
    assert shown[-1] == "fewer than 30 scored lines: the intervals mean little"


def test_status_says_of_how_many_outputs_only_the_beginning_was_scored(fake: FakeBushel, capfd: Captured) -> None:
    assert run(["status", scored(fake, scores=SCORES | {"scored_in_part": 3})]) == 0

    assert "of 3 only the first 100,000 characters were scored" in " ".join(capfd.readouterr().out.split())


def test_status_of_a_job_without_scores_says_nothing_of_them(fake: FakeBushel, capfd: Captured) -> None:
    assert run(["status", scored(fake, scores=None)]) == 0

    assert "interval" not in capfd.readouterr().out


def test_a_report_goes_to_a_file_or_to_stdout(fake: FakeBushel, tmp_path: Path, capfd: Captured) -> None:
    job_id = scored(fake)

    assert run(["results", job_id, "--report", "-o", str(tmp_path / "r.jsonl")]) == 0
    assert run(["results", job_id, "--report"]) == 0

    assert (tmp_path / "r.jsonl").read_bytes() == b'{"a":1}\n'
    assert capfd.readouterr().out == '{"a":1}\n'


@pytest.mark.parametrize(
    "more",
    [
        ["--follow"],
        ["--include-input"],
        ["--format", "csv"],
        ["-o", "r.jsonl.gz"],
        ["-o", "r.csv"],
        ["-o", "r.txt"],
    ],
)
def test_a_report_has_one_form(fake: FakeBushel, capfd: Captured, more: list[str]) -> None:
    assert run(["results", scored(fake), "--report", *more]) == 2
    assert "--report" in capfd.readouterr().err
    assert not Path(more[-1]).exists()


def test_a_job_without_a_report_says_why(fake: FakeBushel, capfd: Captured) -> None:
    fake.state.polls_until_done = 2
    job_id = scored(fake, report_file_id=None)

    codes = [run(["results", job_id, "--report"]) for _ in range(2)]

    assert codes == [2, 2]
    first, second = capfd.readouterr().err.splitlines()
    assert "has not ended" in first and "has no references" in second


def test_compare_shows_differences_and_lines(fake: FakeBushel, capfd: Captured) -> None:
    metric = {"a": 42.0, "b": 40.1, "difference": 1.9, "low": 0.8, "high": 3.1, "p_value": 0.002, "is_clear": True}
    line = {
        "custom_id": "line-17",
        "difference": -41.3,
        "source": "The [train] is late.",
        "references": ["Der Zug hat Verspätung."],
        "a": {"score": 58.7, "output": "Der Zug ist spät."},
        "b": {"score": 100.0, "output": "Der Zug hat Verspätung."},
    }
    fake.state.comparison = {
        "metrics": {"bleu": metric},
        "common": 1500,
        "only_a": 0,
        "only_b": 2,
        "lines": {"a_better": [], "b_better": [line]},
    }

    fake.add_job(["one"], model="big", tier="best", params={"num_beams": 4, "target_lang": "de"})
    fake.add_job(["one"], model=None, tier=None)

    assert run(["compare", "job_0000", "batch_0001", "--lines", "5"]) == 0

    assert fake.state.requests[0] == ("GET", "/v1/jobs/job_0000/compare/job_0001", {"lines": "5"})
    shown = capfd.readouterr().out
    assert shown.splitlines()[:2] == [
        "A  job_0000  big  tier best  num_beams=4  target_lang=de",
        "B  job_0001  several models",
    ]
    assert "+1.90" in shown and "+0.80 to +3.10" in shown and "yes" in shown
    assert "over 1,500 lines that both have scored; 2 only in B" in shown
    assert "B is better by 41.3 chrF: line-17" in shown and "The [train] is late." in shown

    assert run(["compare", "job_1", "job_2", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == fake.state.comparison

    fake.state.comparison["common"] = 1
    assert run(["compare", "job_0000", "job_0001"]) == 0
    assert "over 1 line that both" in capfd.readouterr().out
