"""Scores over HTTP: what a job shows of them, and two jobs side by side."""

import json
from typing import Any

import httpx
import pytest

from api import comparison
from db import keys
from tests.conftest import LiveAPI
from tests.ledger import Ledger
from tests.waiting import eventually

TEXTS = ["the old cat sees a small house", "a dog likes the river", "green trees are high"]
REFERENCES = [["the old cat sees the small house"], ["a dog likes the river", "dogs like rivers"], ["what else"]]


def inputs(texts: list[str] = TEXTS, references: list[list[str]] = REFERENCES) -> list[dict[str, Any]]:
    return [
        {"custom_id": f"id-{place}", "text": text, "reference": accepted}
        for place, (text, accepted) in enumerate(zip(texts, references, strict=True))
    ]


@pytest.fixture
def http(stack: LiveAPI, key: str) -> Any:
    with stack.client(key) as client:
        yield client


def ended(http: httpx.Client, given: list[dict[str, Any]] | None = None, **body: Any) -> dict[str, Any]:
    """A job over `given`, echoed, once it has ended."""
    answer = http.post("/v1/jobs", json={"task": "translation", "inputs": given or inputs(), **body})
    assert answer.status_code == 202, answer.text
    return awaited(http, answer.json()["id"])


def awaited(http: httpx.Client, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").json()
        return job if job["status"] in ("completed", "failed", "cancelled") else None

    return eventually(look)


def compared(http: httpx.Client, a: dict[str, Any], b: dict[str, Any], **query: Any) -> httpx.Response:
    return http.get(f"/v1/jobs/{a['id']}/compare/{b['id']}", params=query)


def test_a_job_with_references_shows_its_scores_and_its_report(http: httpx.Client) -> None:
    job = ended(http)

    assert sorted(job["scores"]["metrics"]) == ["bleu", "chrf"]
    bleu = job["scores"]["metrics"]["bleu"]
    assert bleu["low"] <= bleu["score"] <= bleu["high"] and bleu["signature"].startswith("bleu|nrefs:var|")
    assert (job["scores"]["scored"], job["scores"]["unscored"]) == (3, 0)
    content = http.get(f"/v1/files/{job['report_file_id']}/content").text.splitlines()
    header, *lines = map(json.loads, content)
    assert header["scores"] == job["scores"] and header["object"] == "report"
    assert [line["custom_id"] for line in lines] == ["id-0", "id-1", "id-2"]
    results = http.get(f"/v1/jobs/{job['id']}/results", params={"include": "input"}).text
    assert "reference" not in results


def test_bad_references_of_inline_inputs_are_named_by_their_place(client: httpx.Client) -> None:
    given = ["fine", {"text": "a", "reference": []}, {"text": "b", "reference": ["x", ""]}]

    answer = client.post("/v1/jobs", json={"task": "translation", "inputs": given})

    assert answer.status_code == 400
    found = [(each["param"], each["code"]) for each in answer.json()["error"]["details"]]
    assert found == [("inputs.1.reference", "invalid_reference"), ("inputs.2.reference", "empty_reference")]


@pytest.mark.parametrize(
    ("format", "status"),
    [
        ({"type": "csv", "reference_column": "ref"}, 202),
        ({"type": "jsonl", "reference_column": "ref"}, 202),
        ({"type": "txt", "reference_column": "ref"}, 400),
        ({"type": "csv", "has_header": False, "reference_column": "ref"}, 400),
    ],
    ids=["csv", "jsonl", "txt", "no header"],
)
def test_a_reference_column_is_for_what_has_columns(client: httpx.Client, format: dict[str, Any], status: int) -> None:
    file = client.post("/v1/files", files={"file": ("in", b"x")}, data={"purpose": "batch"}).json()["id"]

    answer = client.post("/v1/jobs", json={"task": "translation", "input_file_id": file, "format": format})

    assert answer.status_code == status
    if status == 202:
        assert answer.json()["format"]["reference_column"] == "ref"


def test_two_jobs_are_compared_over_the_lines_they_share(http: httpx.Client) -> None:
    a = ended(http)
    worse = inputs(["the old dog", TEXTS[1], "what else"])
    b = ended(http, [*worse, {"custom_id": "more", "text": "x", "reference": "x"}])

    answer = compared(http, a, b)

    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["a"], found["b"], found["common"], found["only_a"], found["only_b"]) == (a["id"], b["id"], 3, 0, 1)
    chrf = found["metrics"]["chrf"]
    assert chrf["a"] == pytest.approx(a["scores"]["metrics"]["chrf"]["score"], abs=1e-3)
    assert chrf["difference"] == pytest.approx(chrf["a"] - chrf["b"], abs=1e-3)
    assert chrf["low"] <= chrf["high"] and 0 < chrf["p_value"] <= 1
    [better], [worse_line] = found["lines"]["a_better"], found["lines"]["b_better"]
    assert (better["custom_id"], worse_line["custom_id"]) == ("id-0", "id-2")
    assert better["source"] == TEXTS[0] and better["references"] == REFERENCES[0]
    assert (better["a"]["output"], better["b"]["output"]) == (TEXTS[0], "the old dog")
    assert better["difference"] == pytest.approx(better["a"]["score"] - better["b"]["score"], abs=0.01)


def test_a_job_does_not_differ_from_itself(http: httpx.Client) -> None:
    job = ended(http)

    found = compared(http, job, job).json()

    assert [each["difference"] for each in found["metrics"].values()] == [0, 0]
    assert not any(each["is_clear"] for each in found["metrics"].values())
    assert found["lines"] == {"a_better": [], "b_better": []}


def test_comparing_the_other_way_round_turns_the_signs(http: httpx.Client) -> None:
    a, b = ended(http), ended(http, inputs(["the old dog", TEXTS[1], "what else"]))

    there, back = compared(http, a, b).json(), compared(http, b, a).json()

    for name, metric in there["metrics"].items():
        other = back["metrics"][name]
        assert (metric["difference"], metric["p_value"]) == (-other["difference"], other["p_value"])
        assert (metric["low"], metric["high"]) == (-other["high"], -other["low"])


def test_no_more_lines_are_shown_than_asked_for(http: httpx.Client) -> None:
    texts = [f"the cat number {n} sees a house" for n in range(8)]
    a = ended(http, inputs(texts, [[text] for text in texts]))
    b = ended(http, inputs([text[: 25 - place] for place, text in enumerate(texts)], [[text] for text in texts]))

    counts = {wanted: len(compared(http, a, b, lines=wanted).json()["lines"]["a_better"]) for wanted in (0, 3, 100)}
    differences = [line["difference"] for line in compared(http, a, b).json()["lines"]["a_better"]]

    assert counts == {0: 0, 3: 3, 100: 8}
    assert differences == sorted(differences, reverse=True)
    assert compared(http, a, b, lines=101).status_code == 400


def test_long_texts_are_cut_where_lines_are_shown(http: httpx.Client) -> None:
    long = f"{'w' * 40} " * 150
    a = ended(http, [{"custom_id": "x", "text": long, "reference": long}])
    b = ended(http, [{"custom_id": "x", "text": "word", "reference": long}])

    [line] = compared(http, a, b).json()["lines"]["a_better"]

    assert [len(text) for text in (line["source"], line["references"][0], line["a"]["output"])] == [4001] * 3
    assert line["source"].endswith("…") and line["b"]["output"] == "word"


def test_only_jobs_that_have_ended_with_scores_can_be_compared(http: httpx.Client, client: httpx.Client) -> None:
    scored, plain = ended(http), ended(http, [{"text": "a"}])
    # Asked of an API that no worker hears.
    running = client.post("/v1/jobs", json={"task": "translation", "inputs": ["x"]}).json()
    deleted = ended(http)
    http.delete(f"/v1/files/{deleted['report_file_id']}")

    found = [compared(http, scored, other).json()["error"] for other in (plain, running, deleted)]

    assert [error["code"] for error in found] == ["job_not_scored", "job_not_final", "report_gone"]
    assert plain["id"] in found[0]["message"] and "`reference`" in found[0]["message"]


def test_a_job_that_had_references_is_not_told_to_get_some(http: httpx.Client) -> None:
    failed = ended(http, [{"text": "[[fail]]", "reference": "x"}], task="generation", model="echo-odd")

    found = compared(http, failed, failed).json()["error"]

    assert failed["scores"] is None and found["code"] == "job_not_scored"
    assert found["message"].startswith(f"job {failed['id']} has no scores; none of its inputs with a `reference`")


def test_scores_that_mean_different_things_are_not_compared(http: httpx.Client) -> None:
    a = ended(http)
    other_task = ended(http, task="summarization")
    other_references = ended(http, inputs(references=[["another"], *REFERENCES[1:]]))
    other_ids = ended(http, [each | {"custom_id": f"new-{n}"} for n, each in enumerate(inputs())])

    answers = [compared(http, a, b) for b in (other_task, other_references, other_ids)]

    assert [answer.status_code for answer in answers] == [409] * 3
    codes = [answer.json()["error"]["code"] for answer in answers]
    assert codes == ["signatures_differ", "references_differ", "nothing_in_common"]
    assert "'id-0'" in answers[1].json()["error"]["message"]


def test_how_many_references_the_other_lines_have_does_not_matter(http: httpx.Client) -> None:
    a, b = ended(http), ended(http, inputs()[:1])

    found = compared(http, a, b)

    assert "nrefs:var" in a["scores"]["metrics"]["bleu"]["signature"]
    assert "nrefs:1" in b["scores"]["metrics"]["bleu"]["signature"]
    assert (found.status_code, found.json()["common"], found.json()["only_a"]) == (200, 1, 2)


def test_ones_own_job_is_not_compared_with_a_foreign_one(http: httpx.Client, stack: LiveAPI, ledger: Ledger) -> None:
    mine = ended(http)
    with ledger.sessions.begin() as session:
        other = keys.issue_key(session, "stranger", "tests")
    with stack.client(other) as stranger:
        theirs = ended(stranger)

    answers = [compared(http, mine, theirs), compared(http, theirs, mine)]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert all(theirs["id"] in answer.json()["error"]["message"] for answer in answers)


def test_the_bounds_are_said_in_the_document(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/jobs/{job_id}/compare/{other_id}"]["get"]

    assert operation["operationId"] == "compare_jobs"
    assert {parameter["name"] for parameter in operation["parameters"]} == {"job_id", "other_id", "lines"}
    assert f"{comparison.MAX_CHARS:,}" in (comparison.ComparedLine.__doc__ or "")
