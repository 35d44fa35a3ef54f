"""Results over HTTP: while the job runs, by cursor, and whole."""

import csv
import io
import json
from typing import Any

import httpx
import pytest

from db import results
from db.recording import NewResult, record
from db.states import Outcome
from tests.ledger import Ledger


def started(client: httpx.Client, ledger: Ledger, items: int = 10, size: int = 5, **changes: Any) -> str:
    """A job in progress, cut into chunks of `size`."""
    inputs = [f"text {number}" for number in range(items)]
    job_id = str(client.post("/v1/jobs", json={"task": "translation", "inputs": inputs, **changes}).json()["id"])
    ledger.ingest(job_id)
    ledger.recut(job_id, size)
    return job_id


def started_from(client: httpx.Client, ledger: Ledger, name: str, data: bytes, **changes: Any) -> str:
    file_id = client.post("/v1/files", files={"file": (name, data)}, data={"purpose": "batch"}).json()["id"]
    body = {"task": "translation", "input_file_id": file_id, **changes}
    job_id = str(client.post("/v1/jobs", json=body).json()["id"])
    assert ledger.ingest(job_id)
    return job_id


def run_one_chunk(ledger: Ledger, job_id: str, *texts: str, fail: int = 0) -> None:
    claim = ledger.claim(job_id)
    assert claim is not None
    outcomes = ledger.outcomes(claim, fail)
    if texts:
        outcomes = [
            NewResult(each.idx, Outcome.SUCCEEDED, {"text": text, "finish_reason": "stop"}, None, None, 2, 1)
            for each, text in zip(outcomes, texts, strict=True)
        ]
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, outcomes)


def read(client: httpx.Client, job_id: str, **params: Any) -> httpx.Response:
    answer = client.get(f"/v1/jobs/{job_id}/results", params=params)
    assert answer.status_code == 200, answer.text
    return answer


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def test_finished_items_can_be_read_while_the_job_runs(client: httpx.Client, ledger: Ledger) -> None:
    job_id = started(client, ledger)
    nothing = read(client, job_id)
    run_one_chunk(ledger, job_id, fail=1)

    some = read(client, job_id)

    assert (nothing.content, nothing.headers["x-bushel-complete"]) == (b"", "false")
    assert [line["index"] for line in lines(some)] == [0, 1, 2, 3, 4]
    assert some.headers["x-bushel-complete"] == "false"
    assert some.headers["content-type"] == "application/jsonl"


def test_a_line_has_the_promised_keys(client: httpx.Client, ledger: Ledger) -> None:
    job_id = started(client, ledger)
    run_one_chunk(ledger, job_id, fail=1)

    failed, succeeded = lines(read(client, job_id, limit=2))

    assert failed == {
        "index": 0,
        "seq": 1,
        "custom_id": "input-1",
        "status": "failed",
        "output": None,
        "error": {"code": "engine_error", "message": "told to"},
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    assert succeeded == {
        "index": 1,
        "seq": 2,
        "custom_id": "input-2",
        "status": "succeeded",
        "output": {"text": "out", "finish_reason": "stop"},
        "error": None,
        "usage": {"input_tokens": 2, "output_tokens": 1},
    }


def test_the_input_comes_along_if_asked_for(client: httpx.Client, ledger: Ledger) -> None:
    job_id = started(client, ledger)
    run_one_chunk(ledger, job_id)

    assert lines(read(client, job_id, include="input"))[0]["input"] == {"text": "text 0"}


def test_following_in_order_of_finishing_misses_nothing(client: httpx.Client, ledger: Ledger) -> None:
    job_id = started(client, ledger, items=9, size=3)
    first, second, third = (ledger.claim(job_id) for _ in range(3))
    seen: list[int] = []
    for claim in (third, first, second):
        assert claim is not None
        with ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, ledger.outcomes(claim))
        new = lines(read(client, job_id, order="finished", after=len(seen)))
        assert [line["seq"] for line in new] == [len(seen) + 1 + place for place in range(3)]
        seen += [line["index"] for line in new]

    assert seen == [6, 7, 8, 0, 1, 2, 3, 4, 5]


def test_pages_are_linked_until_the_last(client: httpx.Client, ledger: Ledger) -> None:
    job_id = started(client, ledger, items=5)
    run_one_chunk(ledger, job_id)
    ledger.finalize(job_id)

    url, pages = f"/v1/jobs/{job_id}/results?limit=2&include=input", []
    while url:
        answer = client.get(url)
        pages.append([line["index"] for line in lines(answer)])
        assert "input" in lines(answer)[0]
        assert "content-disposition" not in answer.headers
        url = answer.links.get("next", {}).get("url")

    assert pages == [[0, 1], [2, 3], [4]]


def test_a_page_of_long_lines_is_cut_short_and_goes_on(
    client: httpx.Client, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.results._PAGE_BYTES", 1500)
    job_id = started(client, ledger, items=5)
    run_one_chunk(ledger, job_id, *["x" * 900] * 5)

    first = read(client, job_id, limit=100)

    assert len(lines(first)) == 2
    assert len(lines(client.get(first.links["next"]["url"]))) == 2


def test_a_whole_result_is_a_download_with_a_name(client: httpx.Client, ledger: Ledger) -> None:
    job_id = started(client, ledger, items=5)
    run_one_chunk(ledger, job_id)
    ledger.finalize(job_id)

    answer = read(client, job_id, format="csv")

    assert answer.headers["content-disposition"] == f"attachment; filename={job_id}.csv"
    assert answer.headers["x-bushel-complete"] == "true"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_never_ran_is_there_once_the_job_has_ended(client: httpx.Client, ledger: Ledger) -> None:
    job_id = started(client, ledger, items=6, size=3)
    run_one_chunk(ledger, job_id)
    client.post(f"/v1/jobs/{job_id}/cancel")
    ledger.finalize(job_id)

    by_input, by_finish = lines(read(client, job_id)), lines(read(client, job_id, order="finished"))

    assert [line["status"] for line in by_input] == ["succeeded"] * 3 + ["cancelled"] * 3
    assert by_input == by_finish
    assert [line["seq"] for line in by_input] == [1, 2, 3, 7, 8, 9]
    assert by_input[4]["error"]["code"] == "job_cancelled"
    for after, expected in ((2, [3, 7, 8, 9]), (3, [7, 8, 9]), (8, [9]), (9, [])):
        assert [line["seq"] for line in lines(read(client, job_id, order="finished", after=after))] == expected


def test_blocks_change_nothing_about_what_is_read(
    client: httpx.Client, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FIRST_BLOCK_ROWS", 2)
    monkeypatch.setattr(results, "BLOCK_ROWS", 3)
    job_id = started(client, ledger, items=23, size=10)
    run_one_chunk(ledger, job_id)
    run_one_chunk(ledger, job_id)
    client.post(f"/v1/jobs/{job_id}/cancel")
    ledger.finalize(job_id)

    for order in ("input", "finished"):
        assert [line["index"] for line in lines(read(client, job_id, order=order))] == list(range(23))
        assert [line["index"] for line in lines(read(client, job_id, order=order, limit=22))] == list(range(22))


def test_csv_comes_back_with_its_columns_and_the_output_added(client: httpx.Client, ledger: Ledger) -> None:
    data = b'id,output,sentence\n1,"old, quoted","Good\nmorning"\n2,,Night\n'
    format = {"type": "csv", "text_column": "sentence", "id_column": "id"}
    job_id = started_from(client, ledger, "in.csv", data, format=format)
    run_one_chunk(ledger, job_id, 'Guten "Morgen"', "=Nacht")

    plain, safe = (
        list(csv.reader(io.StringIO(read(client, job_id, format="csv", **asked).content.decode(), newline="")))
        for asked in ({"safe": "false"}, {})
    )

    assert plain == [
        ["id", "output", "sentence", "bushel_output", "status", "error"],
        ["1", "old, quoted", "Good\nmorning", 'Guten "Morgen"', "succeeded", ""],
        ["2", "", "Night", "=Nacht", "succeeded", ""],
    ]
    assert safe[2][3] == "'=Nacht"
    assert [line["custom_id"] for line in lines(read(client, job_id))] == ["1", "2"]


def test_txt_answers_line_by_line_even_while_lines_are_missing(client: httpx.Client, ledger: Ledger) -> None:
    job_id = started_from(client, ledger, "in.txt", b"one\n\nthree\nfour\n")
    run_one_chunk(ledger, job_id, "eins", "drei\nDREI", "vier")
    assert read(client, job_id, format="txt").text == "eins\n\ndrei DREI\nvier\n"

    ledger.run("DELETE FROM results WHERE idx = 0")

    assert read(client, job_id, format="txt").text == "\n\ndrei DREI\nvier\n"
    assert read(client, job_id, format="txt", after=1).text == "drei DREI\nvier\n"


def test_a_job_that_failed_in_validation_has_no_results(client: httpx.Client, ledger: Ledger) -> None:
    job_id = started_from(client, ledger, "in.jsonl", b"nonsense\n")

    answer = read(client, job_id)

    assert (answer.content, answer.headers["x-bushel-complete"]) == (b"", "true")


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"after": "x"}, "after"),
        ({"after": -2}, "after"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"format": "xml"}, "format"),
        ({"order": "random"}, "order"),
        ({"include": "secrets"}, "include"),
        ({"fromat": "csv"}, "fromat"),
    ],
)
def test_a_bad_query_is_refused(client: httpx.Client, ledger: Ledger, params: dict[str, Any], param: str) -> None:
    job_id = client.post("/v1/jobs", json={"task": "translation", "inputs": ["a"]}).json()["id"]

    answer = client.get(f"/v1/jobs/{job_id}/results", params=params)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
