"""How a job goes, over HTTP, as far as it has come."""

from datetime import UTC, datetime
from itertools import pairwise

import httpx
import pytest

from db import jobs, statistics
from db.statistics import SAMPLE, Distribution, spread
from tests.conftest import LiveAPI
from tests.ledger import Ledger, json_lines


def asked(client: httpx.Client, job_id: str) -> dict[str, object]:
    answer = client.get(f"/v1/jobs/{job_id}/statistics")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def finished(ledger: Ledger, job_id: str, fail: int = 0) -> None:
    """Every chunk run once, the first items of each failing."""
    while (claim := ledger.claim(job_id)) is not None:
        ledger.record(claim, fail)


def test_a_job_that_has_not_begun_has_none(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\n")

    assert asked(client, job_id) == {
        "object": "job.statistics",
        "job_id": job_id,
        "sampled_items": 0,
        "settled": [],
        "input_tokens": None,
        "output_tokens": None,
        "chunk_seconds": None,
        "waited_seconds": None,
        "failures": {"total": 0, "counted": 0, "groups": []},
        "recipes": [],
    }


def test_what_is_settled_by_now_is_told_as_it_came(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(12)
    ledger.recut(job_id, 4)
    moments = [datetime.now(UTC).timestamp()]
    for _ in range(2):
        claim = ledger.claim(job_id)
        assert claim is not None
        ledger.record(claim)
        moments.append(datetime.now(UTC).timestamp())

    found = asked(client, job_id)

    settled = found["settled"]
    assert isinstance(settled, list)
    assert [point["items"] for point in settled] == list(range(9))
    assert sorted(point["at"] for point in settled) == [point["at"] for point in settled]
    # All of a chunk come at once.
    assert len({point["at"] for point in settled[1:5]}) == len({point["at"] for point in settled[5:]}) == 1
    assert settled[0]["at"] <= moments[0] + 0.01
    assert settled[4]["at"] <= moments[1] + 0.01 and settled[8]["at"] >= moments[1] - 0.01


def test_lengths_are_of_inputs_and_of_outputs_that_there_are(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(10)
    ledger.recut(job_id, 5)
    before = asked(client, job_id)
    claim = ledger.claim(job_id)
    assert claim is not None
    ledger.record(claim, fail=2)

    found = asked(client, job_id)

    assert before["output_tokens"] is None and before["chunk_seconds"] is None
    inputs, outputs = found["input_tokens"], found["output_tokens"]
    assert isinstance(inputs, dict) and isinstance(outputs, dict)
    assert found["sampled_items"] == inputs["count"] == sum(bin["count"] for bin in inputs["bins"]) == 10
    # Each of the ledger's outputs has one token.
    assert (outputs["count"], outputs["low"], outputs["median"], outputs["high"]) == (3, 1, 1, 1)
    assert outputs["bins"] == [{"low": 1, "high": 1, "count": 3}]


def test_an_input_that_is_equal_to_an_earlier_one_has_no_length_of_its_own(
    client: httpx.Client, ledger: Ledger
) -> None:
    job_id = ledger.submit(b"same\nsame\nother\n")
    assert ledger.ingest(job_id)
    finished(ledger, job_id)

    found = asked(client, job_id)

    assert isinstance(found["input_tokens"], dict) and isinstance(found["output_tokens"], dict)
    assert (found["input_tokens"]["count"], found["output_tokens"]["count"]) == (3, 2)


def test_latency_is_that_of_the_chunk_and_waiting_what_went_before(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(4)
    finished(ledger, job_id)
    ledger.run(
        "UPDATE chunks SET started_at = job.created_at + interval '30 s', finished_at = job.created_at"
        " + interval '32.5 s' FROM jobs job WHERE job.id = chunks.job_id"
    )

    found = asked(client, job_id)

    for name, seconds in (("chunk_seconds", 2.5), ("waited_seconds", 30.0)):
        spread = found[name]
        assert isinstance(spread, dict)
        assert spread["count"] == 4
        assert spread["low"] == spread["high"] == pytest.approx(seconds, abs=0.001)


def test_failures_are_grouped_by_code_with_examples(client: httpx.Client, ledger: Ledger) -> None:
    lines = [{"custom_id": f"no-{number}", "text": f"text {number}"} for number in range(12)]
    job_id = ledger.submit(json_lines(*lines), {"type": "jsonl"})
    assert ledger.ingest(job_id)
    finished(ledger, job_id, fail=6)
    ledger.run("UPDATE results SET error_code = 'worker_crashed', error_message = repeat('é', 9000) WHERE idx = 3")

    failures = asked(client, job_id)["failures"]

    assert isinstance(failures, dict)
    assert (failures["total"], failures["counted"]) == (6, 6)
    first, second = failures["groups"]
    assert (first["code"], first["count"], second["code"], second["count"]) == ("engine_error", 5, "worker_crashed", 1)
    assert [example["custom_id"] for example in first["examples"]] == ["no-0", "no-1", "no-2"]
    assert first["examples"][1] == {"index": 1, "line": 2, "custom_id": "no-1", "message": "told to"}
    assert second["examples"][0]["message"] == "é" * 500


def test_what_made_the_results_is_told_once(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(6)
    ledger.recut(job_id, 2)
    finished(ledger, job_id)
    ledger.run('INSERT INTO recipes (digest, recipe) VALUES (\'d\', \'{"model": "echo", "revision": "r1"}\')')
    ledger.run("UPDATE chunks SET recipe_id = (SELECT id FROM recipes)")

    assert asked(client, job_id)["recipes"] == [{"model": "echo", "revision": "r1"}]


def test_a_large_job_is_sampled_from_its_first_item_to_its_last(ledger: Ledger) -> None:
    job_id = ledger.started(5_000)
    finished(ledger, job_id)

    with ledger.sessions() as session:
        found = statistics.statistics(session, jobs.get(session, ledger.tenant, job_id))

    assert found.sampled == SAMPLE
    assert len(found.settled) == statistics.POINTS
    assert (found.settled[0][1], found.settled[-1][1]) == (1, 5_000)
    places = spread(5_000, SAMPLE)
    assert (places[0], places[-1], len(set(places))) == (0, 4_999, SAMPLE)


@pytest.mark.parametrize(
    ("values", "bins"),
    [
        pytest.param([5, 5, 5], [(5, 5, 3)], id="all the same"),
        pytest.param([1, 2], [(1, 2, 1), (2, 3, 1)], id="two"),
        pytest.param([0.25, 0.75], None, id="fractions"),
        pytest.param([1] * 99 + [10_000], None, id="a giant"),
        pytest.param(list(range(1, 1_000)), None, id="many"),
    ],
)
def test_every_value_is_in_one_bin(values: list[float], bins: list[tuple[float, float, int]] | None) -> None:
    found = Distribution.of(values)

    assert found is not None
    seen = [(bin.low, bin.high, bin.count) for bin in found.bins]
    if bins is not None:
        assert seen == bins
    assert sum(count for _, _, count in seen) == len(values)
    assert 1 <= len(seen) <= statistics.BINS
    assert seen[0][0] == min(values) and seen[-1][1] >= max(values)
    for (_, high, _), (low, _, _) in pairwise(seen):
        assert high == low
    for low, high, count in seen[:-1]:
        assert count == sum(low <= value < high for value in values)


def test_statistics_of_others_are_not_there(stranger: httpx.Client, ledger: Ledger, api: LiveAPI) -> None:
    job_id = ledger.started(2)

    assert stranger.get(f"/v1/jobs/{job_id}/statistics").status_code == 404


@pytest.mark.parametrize(
    ("search", "wanted"),
    [
        pytest.param("nightly", ["a"], id="a value"),
        pytest.param("NIGHTLY", ["a"], id="in capitals"),
        pytest.param("project", ["b", "a"], id="a name"),
        pytest.param("100%", ["b"], id="what would be a pattern"),
        pytest.param("%", ["b"], id="nothing but a pattern"),
        pytest.param("echo", ["b", "a"], id="the model"),
        pytest.param("'; DROP TABLE jobs; --", [], id="what would be a statement"),
        pytest.param("", ["b", "a"], id="nothing"),
    ],
)
def test_jobs_are_found_by_a_text(client: httpx.Client, search: str, wanted: list[str]) -> None:
    for name, value in (("a", "Nightly import"), ("b", "100% wool")):
        metadata = {"project": value, "which": name}
        answer = client.post("/v1/jobs", json={"task": "translation", "inputs": ["x"], "metadata": metadata})
        assert answer.status_code == 202

    page = client.get("/v1/jobs", params={"search": search}).json()

    assert [job["metadata"]["which"] for job in page["data"]] == wanted


def test_a_job_is_found_by_a_part_of_its_id_and_by_no_control_character(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.submit(b"one\n")

    assert [job["id"] for job in client.get("/v1/jobs", params={"search": job_id[8:20].upper()}).json()["data"]] == [
        job_id
    ]
    assert client.get("/v1/jobs", params={"search": "a\x00b"}).status_code == 400
    assert client.get("/v1/jobs", params={"search": "a" * 101}).status_code == 400


def test_an_output_that_came_from_the_cache_has_no_length_of_its_own(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(3)
    finished(ledger, job_id)
    ledger.run("UPDATE results SET output = output || '{\"reused\": {}}', output_tokens = 0 WHERE idx = 1")

    found = asked(client, job_id)

    assert isinstance(found["output_tokens"], dict) and found["output_tokens"]["count"] == 2
