"""The pipeline over a real ledger, with the echo engine misbehaving as it is told."""

import csv
import io
import time
from typing import Any

import pytest

from db import jobs
from models.registry import Registry
from tests.ledger import Ledger
from tests.pipeline import Handled, ended, outcome, runner_of, running, spec
from tests.waiting import eventually
from workers.engines.echo import EchoEngine, open_echo
from workers.runner import Runner
from workers.shelf import Shelf


def test_a_job_runs_to_its_end(ledger: Ledger) -> None:
    job_id = ledger.started(500)

    with running(ledger):
        job = ended(ledger, job_id)

    assert job.status == "completed" and job.succeeded == 500
    assert outcome(ledger, 42) == ("this is line 42", None)
    assert job.input_tokens == job.output_tokens == 4 * 500


def test_twins_get_the_output_of_their_original_and_cost_nothing(ledger: Ledger) -> None:
    job_id = ledger.submit(b"two words\nother\ntwo words\n")
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    assert outcome(ledger, 2) == ("two words", None)
    assert job.succeeded == 3 and job.output_tokens == 3


def test_a_poisonous_item_fails_alone(ledger: Ledger) -> None:
    job_id = ledger.submit(b"".join(b"line %d\n" % n if n != 7 else b"[[fail]]\n" for n in range(50)))
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (49, 1)
    assert outcome(ledger, 7) == (None, "engine_error")


def test_an_input_that_cannot_be_encoded_fails_alone(ledger: Ledger) -> None:
    job_id = ledger.submit(b"fine\n[[garbled]]\nfine too\n[[garbled]]\n")
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (2, 2)
    [first, twin] = ledger.rows("SELECT error_code, error_message FROM results WHERE outcome = 'failed'")
    assert first == twin == ("invalid_input", "this input is garbled")


def test_an_input_the_engine_leaves_out_when_it_encodes_fails_alone(ledger: Ledger) -> None:
    job_id = ledger.submit(b"fine\n[[unencoded]]\nfine too\n")
    ledger.ingest(job_id)

    with running(ledger) as (runner, _):
        job = ended(ledger, job_id)
        assert runner.leases_held() == 0

    assert (job.succeeded, job.failed) == (2, 1)
    assert outcome(ledger, 0) == ("fine", None)
    assert outcome(ledger, 1) == (None, "engine_error")
    assert outcome(ledger, 2) == ("fine too", None)


def test_an_output_the_engine_leaves_out_when_it_decodes_fails_alone(ledger: Ledger) -> None:
    job_id = ledger.submit(b"fine\n[[undecoded]]\nfine too\n")
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (2, 1)
    assert outcome(ledger, 1) == (None, "engine_error")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("UPDATE chunks SET params = '{\"unheard_of\": 1}'", id="parameters"),
        pytest.param("UPDATE items SET input = '{}' WHERE idx = 1", id="an input"),
    ],
)
def test_a_chunk_that_can_never_be_prepared_fails_and_does_not_come_again(ledger: Ledger, damage: str) -> None:
    job_id = ledger.submit(b"one\ntwo\none\n")
    ledger.ingest(job_id)
    ledger.run(damage)

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (0, 3)
    assert outcome(ledger, 0) == (None, "engine_error")
    assert [(row.attempt, row.crashes) for row in ledger.rows("SELECT attempt, crashes FROM chunks")] == [(1, 0)]


def test_an_item_that_does_not_fit_the_device_fails_alone(ledger: Ledger) -> None:
    lines = [b"line %d" % n for n in range(1_000)]
    lines[500] = b"word " * 60
    job_id = ledger.submit(b"\n".join(lines))
    ledger.ingest(job_id)

    with running(ledger, spec(capacity=40)) as (_, exits):
        job = ended(ledger, job_id)

    assert (job.succeeded, job.failed) == (999, 1)
    assert outcome(ledger, 500) == (None, "item_too_large")
    assert exits == []
    assert ledger.rows("SELECT DISTINCT attempt, crashes FROM chunks") == [(1, 0)]


@pytest.mark.parametrize(("long_input", "code"), [("error", "input_too_long"), ("truncate", None)])
def test_long_input_is_refused_or_cut_and_said_so(ledger: Ledger, long_input: str, code: str | None) -> None:
    job_id = ledger.submit(b"short\n" + b" ".join([b"word"] * 2000) + b"\n", long_input=long_input)
    ledger.ingest(job_id)

    with running(ledger):
        ended(ledger, job_id)

    [row] = ledger.rows("SELECT error_code, output->'truncated_tokens' AS cut FROM results WHERE idx = 1")
    assert row.error_code == code
    assert row.cut == (None if code else 2000 - 1024)


def test_an_input_may_have_exactly_as_many_tokens_as_the_model_takes(ledger: Ledger) -> None:
    # To the echo engine a word is a token.
    most = EchoEngine(spec()).limits.max_input
    job_id = ledger.submit(b"\n".join(b" ".join([b"word"] * words) for words in (most - 1, most, most + 1)))
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    rows = ledger.rows("SELECT error_code, output->'truncated_tokens' AS cut FROM results ORDER BY idx")
    assert [tuple(row) for row in rows] == [(None, None), (None, None), ("input_too_long", None)]
    assert job.input_tokens == most - 1 + most
    [row] = ledger.rows("SELECT error_message FROM results WHERE idx = 2")
    assert f"has {most + 1} tokens, the model takes {most};" in row.error_message


def test_cancel_reaches_a_running_chunk_within_a_second(ledger: Ledger) -> None:
    job_id = ledger.started(50)

    with running(ledger, spec(seconds_per_item=0.5)):
        eventually(lambda: ledger.job(job_id).running)
        with ledger.sessions.begin() as session:
            jobs.cancel(session, ledger.tenant, job_id)
        asked = time.monotonic()
        eventually(lambda: ledger.job(job_id).running == 0)
        took = time.monotonic() - asked
        ledger.finalize(job_id)

    job = ledger.job(job_id)
    assert job.status == "cancelled" and job.cancelled > 0
    assert job.succeeded + job.cancelled == 50
    assert took < 1.5


def test_a_model_that_cannot_be_loaded_touches_no_item(ledger: Ledger) -> None:
    job_id = ledger.started(3)
    broken = spec(unavailable="the weights are damaged")
    registry = Registry([broken])
    shelf = Shelf(registry, lambda wanted: open_echo(wanted, None), capacity=2)
    runner = Runner(ledger.sessions, shelf, ledger.bell, "runner", ["echo"], 600, 0.05)

    runner.start()
    eventually(lambda: shelf.unavailable())
    runner.stop(1)

    assert "the weights are damaged" in shelf.unavailable()["echo"]
    assert ledger.counts(job_id) == {"queued": 3}
    assert [row.attempt for row in ledger.rows("SELECT attempt FROM chunks")] == [0]


def test_jobs_of_several_models_share_a_worker(ledger: Ledger) -> None:
    specs = [spec("echo"), spec("loud", transform="upper"), spec("back", transform="reverse")]
    ledger.registry = Registry(specs)
    found = [ledger.started(20, model=one.name) for one in specs]

    with running(ledger, *specs):
        for job_id in found:
            assert ended(ledger, job_id).succeeded == 20

    texts = {row.text for row in ledger.rows("SELECT output->>'text' AS text FROM results WHERE idx = 5")}
    assert texts == {"this is line 5", "THIS IS LINE 5", "5 enil si siht"}


def test_the_measured_rate_is_kept(ledger: Ledger) -> None:
    job_id = ledger.started(100)

    with running(ledger, spec(seconds_per_item=0.001)):
        ended(ledger, job_id)

    [rate] = ledger.rows("SELECT * FROM model_rates")
    assert rate.model == "echo" and rate.output_per_input == 1.0
    assert 100 < rate.tokens_per_second < 8_000


def test_every_chunk_names_the_recipe_of_its_results(ledger: Ledger) -> None:
    job_id = ledger.started(10)

    with running(ledger):
        ended(ledger, job_id)

    [row] = ledger.rows("SELECT recipe FROM chunks JOIN recipes ON recipes.id = chunks.recipe_id")
    assert row.recipe["model"] == "echo" and row.recipe["engine"] == "echo"


def test_an_output_that_cannot_be_decoded_fails_alone(ledger: Ledger) -> None:
    job_id = ledger.started(10)
    echo = open_echo(spec(), None)

    def decode(generations: list[Any], params: Any) -> list[str]:
        if any(" 7" in generation.tokens for generation in generations):
            raise ValueError("no such token")
        return echo.decode(generations, params)

    runner, _, _ = runner_of(ledger, Handled(echo, decode=decode))
    runner.start()
    job = ended(ledger, job_id)
    runner.stop(1)

    assert (job.succeeded, job.failed) == (9, 1)
    assert outcome(ledger, 7) == (None, "engine_error")


def test_what_was_cut_is_counted_and_said_in_csv_too(ledger: Ledger) -> None:
    data = b"text\n" + b" ".join([b"word"] * 2000) + b"\nfour words are here\nok\n"
    job_id = ledger.submit(data, {"type": "csv"}, long_input="truncate", params={"max_new_tokens": 3})
    ledger.ingest(job_id)

    with running(ledger):
        job = ended(ledger, job_id)

    assert (job.truncated_inputs, job.cut_outputs) == (1, 2)
    notices = [row["error"] for row in csv.DictReader(io.StringIO(ledger.read(job.output_file_id).decode()))]
    assert "input_truncated: the last 976 tokens" in notices[0] and "output_cut" in notices[0]
    assert notices[1].startswith("output_cut") and notices[2] == ""
