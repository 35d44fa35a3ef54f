"""Results that a tenant's earlier jobs have are taken instead of computed: for the very same work, and no other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db import cache, jobs, keys
from db.recording import NewResult, record
from db.states import Outcome
from models.registry import Registry
from models.spec import ModelSpec
from tests.db.test_twins import asked, outcomes
from tests.ledger import Ledger
from tests.pipeline import ended, running, spec

DATA = b"one\ntwo words\nthree\n"

Run = Callable[..., Any]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the engine writes what it was asked."""
    return tmp_path / "log"


@pytest.fixture
def run(ledger: Ledger, log: Path) -> Run:
    """A job from its file to its end, with the cache unless told otherwise; its row."""

    def run(data: bytes = DATA, model: ModelSpec | None = None, of: Ledger = ledger, **fields: Any) -> Any:
        plain = model or spec()
        logged = replace(plain, options={**plain.options, "log": str(log)})
        of.registry = Registry([logged])
        job_id = of.submit(data, **{"cache": True, "model": logged.name, **fields})
        assert of.ingest(job_id)
        with running(of, logged):
            return ended(of, job_id)

    return run


def outputs(ledger: Ledger, job_id: str) -> list[dict[str, Any]]:
    """As clients get them: without what it took to make them, which is told elsewhere."""
    rows = ledger.rows("SELECT output - 'reused' AS said FROM results WHERE job_id = :job ORDER BY idx", job=job_id)
    return [row.said for row in rows]


def entries(ledger: Ledger) -> int:
    with ledger.sessions() as session:
        return cache.size(session, ledger.tenant)


def test_a_second_job_takes_what_the_first_computed(ledger: Ledger, run: Run, log: Path) -> None:
    first = run(model=spec(scores=True), params={"num_beams": 4, "n": 2})
    assert entries(ledger) == 3
    log.unlink()

    second = run(b"two words\nthree\none\n", spec(scores=True), params={"n": 2, "num_beams": 4})

    assert asked(log) == []
    made = outputs(ledger, first.id)
    assert outputs(ledger, second.id) == [made[1], made[2], made[0]] and len(made[0]["choices"]) == 2
    assert (first.cached_items, second.cached_items, second.same_items) == (0, 3, 0)
    assert (second.input_tokens, second.output_tokens) == (0, 0)
    assert (second.saved_input_tokens, second.saved_output_tokens) == (first.input_tokens, first.output_tokens)
    [row] = ledger.rows("SELECT output -> 'reused' AS said FROM results WHERE job_id = :job AND idx = 0", job=second.id)
    assert row.said == {"input_tokens": 2, "output_tokens": 3}


def test_only_what_is_new_is_computed(ledger: Ledger, run: Run, log: Path) -> None:
    run()
    log.unlink()

    job = run(b"one\nnew\ntwo words\nnew\none\n")

    assert asked(log) == ["new"] and outcomes(ledger, job.id) == ["one", "new", "two words", "new", "one"]
    assert (job.cached_items, job.same_items, job.input_tokens, job.saved_input_tokens) == (2, 2, 1, 5)
    assert entries(ledger) == 4


def test_a_hit_is_the_same_whatever_form_the_answer_has(ledger: Ledger, run: Run, log: Path) -> None:
    run(b"one\n")
    log.unlink()
    line = (
        b'{"custom_id": "a", "method": "POST", "url": "/v1/translations", "body": {"model": "echo", "input": "one"}}\n'
    )

    job = run(line, format={"type": "jsonl"}, dialect="openai", endpoint="/v1/translations")

    assert asked(log) == [] and job.cached_items == 1


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)], ids=["to take", "to give"])
def test_without_the_option_a_job_is_not_asked(ledger: Ledger, run: Run, log: Path, first: bool, second: bool) -> None:
    run(cache=first)
    log.unlink()

    job = run(cache=second)

    assert asked(log) == ["one", "three", "two words"] and job.cached_items == 0


MANY = replace(spec(), source_languages=("en",), target_languages=("de", "fr"))
GERMAN = {"params": {"target_lang": "de"}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {"params": {"num_beams": 2}}, id="parameters"),
        pytest.param({}, {"long_input": "truncate"}, id="what becomes of long inputs"),
        pytest.param({}, {"model": spec(transform="upper")}, id="the model itself"),
        pytest.param({}, {"model": spec("another")}, id="a model of another name"),
        pytest.param({}, {"model": replace(spec(), prefix="x: ")}, id="its prefix"),
        pytest.param({}, {"model": replace(spec(), quantization="int8")}, id="its quantization"),
        pytest.param({}, {"model": replace(spec(), max_output_tokens=7)}, id="its limits"),
        pytest.param({}, {"model": spec(scores=True)}, id="scores"),
        pytest.param({"model": MANY, **GERMAN}, {"model": MANY, "params": {"target_lang": "fr"}}, id="the language"),
        pytest.param({}, {"data": b" one\n"}, id="a blank in the text"),
        pytest.param(
            {},
            {"data": b'{"text": "one", "params": {"max_new_tokens": 9}}', "format": {"type": "jsonl"}},
            id="the line",
        ),
    ],
)
def test_nothing_is_taken_that_was_made_otherwise(
    ledger: Ledger, run: Run, before: dict[str, Any], after: dict[str, Any]
) -> None:
    run(b"one\n", **before)
    assert run(b"one\n", **before).cached_items == 1

    assert run(**{"data": b"one\n", **after}).cached_items == 0


def test_nothing_is_taken_of_another_tenant(ledger: Ledger, run: Run, log: Path, tmp_path: Path) -> None:
    with ledger.sessions.begin() as session:
        other = Ledger(ledger.sessions, keys.tenant(session, "stranger"), tmp_path / "files")
    run()
    log.unlink()

    job = run(of=other)

    assert asked(log) == ["one", "three", "two words"] and job.cached_items == 0
    assert entries(ledger) == entries(other) == 3


def test_what_was_deleted_is_taken_no_more(ledger: Ledger, run: Run, log: Path) -> None:
    first, second = run(), run(b"two words\nfour\n")
    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, first.id)
    assert entries(ledger) == 1
    log.unlink()

    job = run(b"one\ntwo words\nfour\n")

    # What the second took from the first is not passed on as if it were its own.
    assert asked(log) == ["one", "two words"] and (job.cached_items, second.cached_items) == (1, 1)


def test_samples_are_neither_kept_nor_taken(ledger: Ledger, run: Run, log: Path) -> None:
    run(params={"temperature": 0.5, "seed": 7})
    log.unlink()

    job = run(params={"temperature": 0.5, "seed": 7})

    assert asked(log) == ["one", "three", "two words"] and job.cached_items == entries(ledger) == 0


def test_failures_are_computed_again(ledger: Ledger, run: Run, log: Path) -> None:
    run(b"one\n[[fail]]\n")
    assert entries(ledger) == 1

    job = run(b"one\n[[fail]]\n")

    assert (job.cached_items, job.failed) == (1, 1)


def test_an_emptied_cache_begins_anew(ledger: Ledger, run: Run, log: Path) -> None:
    run()
    with ledger.sessions.begin() as session:
        assert cache.clear(session, ledger.tenant) == 3 and cache.clear(session, ledger.tenant) == 0
    log.unlink()

    assert run().cached_items == 0 and asked(log) == ["one", "three", "two words"]
    assert run().cached_items == 3


def test_counting_stops_where_it_is_told(ledger: Ledger, run: Run) -> None:
    run()

    with ledger.sessions() as session:
        assert cache.size(session, ledger.tenant, 2) == 2


def test_of_two_that_computed_the_same_at_once_the_first_is_kept(ledger: Ledger) -> None:
    first, second = (ledger.started(1, cache=True) for _ in range(2))
    claims = [ledger.claim(first), ledger.claim(second)]
    result = NewResult(0, Outcome.SUCCEEDED, {"text": "out", "finish_reason": "stop"}, cache_key=b"key")

    for claim in claims:
        assert claim is not None
        with ledger.sessions.begin() as session:
            record(session, claim.chunk_id, claim.attempt, [result])

    with ledger.sessions() as session:
        assert list(cache.find(session, ledger.tenant, [b"key"])) == [b"key"]
    [row] = ledger.rows("SELECT job_id FROM cached_results WHERE key = 'key'")
    assert row.job_id == first


def test_a_model_that_was_slow_to_hit_is_not_taken_for_fast(ledger: Ledger, run: Run) -> None:
    """What comes from the cache says nothing of the model's speed."""
    run()
    before = ledger.rows("SELECT tokens_per_second, log_variance, updated_at FROM model_rates")

    run()

    assert ledger.rows("SELECT tokens_per_second, log_variance, updated_at FROM model_rates") == before != []


def test_copies_have_the_recipe_of_what_they_were_made_by(ledger: Ledger, run: Run) -> None:
    first, second = run(), run()

    rows = ledger.rows("SELECT DISTINCT job_id, recipe_id FROM chunks WHERE recipe_id IS NOT NULL")

    assert len({row.recipe_id for row in rows}) == 1 and {row.job_id for row in rows} == {first.id, second.id}
