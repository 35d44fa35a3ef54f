"""What the outlook reads of the ledger, for jobs of one model and of several."""

from typing import Any

import pytest

from db import jobs, workers
from db.outlook import Ahead, Surroundings, outlook, surroundings
from tests.ledger import Ledger


@pytest.fixture(autouse=True)
def two_workers(ledger: Ledger) -> None:
    with ledger.sessions.begin() as session:
        for name, serves in (("first", ["one", "two"]), ("second", ["two"])):
            workers.beat(session, workers.Presence(name, "here", 1, "cpu", "1", serves, serves[:1], {}))
    ledger.run(
        "INSERT INTO model_rates (model, tokens_per_second, output_per_input) VALUES ('one', 10, 1), ('two', 5, 1)"
    )


def of_models(ledger: Ledger, *models: str, **fields: Any) -> str:
    """A job with a chunk of two items and two tokens for each of the models, as if its lines named them."""
    job_id = ledger.started(2 * len(models), **fields)
    ledger.recut(job_id, 2)
    ids = [row.id for row in ledger.rows("SELECT id FROM chunks WHERE job_id = :job ORDER BY id", job=job_id)]
    for chunk, model in zip(ids, models, strict=True):
        ledger.run("UPDATE chunks SET model = :model WHERE id = :id", model=model, id=chunk)
    single = models[0] if len(models) == 1 else None
    ledger.run("UPDATE jobs SET model = :model WHERE id = :job", model=single, job=job_id)
    return job_id


def look(ledger: Ledger, job_id: str) -> tuple[Surroundings, Any]:
    with ledger.sessions() as session:
        job = jobs.get(session, ledger.tenant, job_id)
        around = surroundings(session, [job])
    return around, outlook(job, around)


def test_a_job_of_several_models_knows_what_each_has_to_do(ledger: Ledger) -> None:
    job_id = of_models(ledger, "one", "two")

    around, seen = look(ledger, job_id)

    assert around.open == {job_id: {"one": 2, "two": 2}}
    assert (around.model("one").workers, around.model("two").workers) == (1, 2)
    # 2 tokens in and 2 out at 10 a second, then as many at twice 5.
    assert seen.eta_seconds == 0.8
    assert seen.waiting_for.code == "its_turn"


def test_what_is_done_is_not_counted_any_more(ledger: Ledger) -> None:
    job_id = of_models(ledger, "one", "two")
    claim = ledger.claim(job_id, model="one")
    assert claim is not None
    running, _ = look(ledger, job_id)

    ledger.record(claim)

    assert running.open == {job_id: {"one": 2, "two": 2}}
    assert look(ledger, job_id)[0].open == {job_id: {"two": 2}}


@pytest.mark.parametrize(
    ("first", "second", "ahead"),
    [
        pytest.param(["one", "two"], ["two"], Ahead(1, 2), id="several before one"),
        pytest.param(["one"], ["one", "two"], Ahead(1, 2), id="one before several"),
        pytest.param(["one", "two"], ["one", "two"], Ahead(1, 4), id="several before several"),
        pytest.param(["one"], ["two"], Ahead(0, 0), id="nothing in common"),
        pytest.param(["one", "two"], ["three"], Ahead(0, 0), id="nothing of several in common"),
    ],
)
def test_jobs_that_share_a_model_go_before_each_other(
    ledger: Ledger, first: list[str], second: list[str], ahead: Ahead
) -> None:
    of_models(ledger, *first)
    job_id = of_models(ledger, *second)

    assert look(ledger, job_id)[0].ahead[job_id] == ahead
