"""What a job's owner is told: progress, speed, the end, and why it waits. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from db.models import Job
from db.outlook import Ahead, ModelState, Surroundings, outlook

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
COUNTS = ("total", "queued", "running", "succeeded", "failed", "cancelled", "expired")


def job(status: str = "in_progress", **fields: Any) -> Job:
    zeros = dict.fromkeys((*COUNTS, "queued_tokens", "input_tokens", "output_tokens", "priority"), 0)
    values = {
        "id": "job",
        "model": "m",
        "paused": False,
        "in_progress_at": NOW,
        "progressed_at": None,
        **zeros,
        **fields,
    }
    return Job(status=status, **values)


def around(model: ModelState | None = None, workers: int = 1, ahead: Ahead | None = None) -> Surroundings:
    return Surroundings(NOW, workers, {"m": model or ModelState(1, 1)}, {"job": ahead} if ahead else {})


@pytest.mark.parametrize(
    ("fields", "progress"),
    [
        pytest.param({"status": "validating"}, 0.0, id="nothing known yet"),
        pytest.param({"total": 4, "queued": 3, "succeeded": 1}, 0.25, id="one of four"),
        pytest.param({"total": 4, "running": 1, "succeeded": 1, "failed": 1, "expired": 1}, 0.75, id="any end counts"),
        pytest.param({"total": 4, "cancelled": 4, "status": "cancelled"}, 1.0, id="cancelled is settled"),
        pytest.param({"status": "completed"}, 1.0, id="a dry run is done"),
        pytest.param({"status": "failed"}, 0.0, id="a refused file is not"),
    ],
)
def test_progress_is_the_share_of_settled_items(fields: dict[str, Any], progress: float) -> None:
    assert outlook(job(**fields), around()).progress == progress


def test_speed_is_the_average_up_to_the_last_result() -> None:
    fields = {"total": 10, "queued": 4, "succeeded": 5, "failed": 1, "input_tokens": 60, "output_tokens": 30}

    seen = outlook(job(**fields, progressed_at=NOW + timedelta(seconds=3)), around())

    assert (seen.items_per_second, seen.tokens_per_second) == (2.0, 30.0)


def test_there_is_no_speed_before_the_first_result() -> None:
    seen = outlook(job(total=10, queued=10), around())

    assert (seen.items_per_second, seen.tokens_per_second) == (None, None)


@pytest.mark.parametrize(
    ("fields", "model", "ahead", "eta"),
    [
        pytest.param({}, ModelState(1, 1, None, 100.0, 1.0), None, 20.0, id="own tokens, input and output"),
        pytest.param({}, ModelState(2, 2, None, 100.0, 1.0), None, 10.0, id="two workers"),
        pytest.param({}, ModelState(1, 1, None, 100.0, 0.5), None, 15.0, id="short outputs"),
        pytest.param({}, ModelState(1, 1, None, 100.0, 1.0), Ahead(1, 500), 30.0, id="after the jobs ahead"),
        pytest.param({"running": 10}, ModelState(1, 1, None, 100.0, 1.0), None, 21.0, id="half of what runs is done"),
        pytest.param({}, ModelState(0, 0, None, 100.0, 1.0), None, None, id="nobody serves the model"),
        pytest.param({"paused": True}, ModelState(1, 1, None, 100.0, 1.0), None, None, id="paused"),
        pytest.param({"status": "validating"}, ModelState(1, 1, None, 100.0, 1.0), None, None, id="not yet known"),
        pytest.param({"status": "completed"}, ModelState(1, 1, None, 100.0, 1.0), None, None, id="over"),
        pytest.param({}, ModelState(1, 1), None, None, id="never measured, nothing done"),
        pytest.param(
            {"succeeded": 50, "progressed_at": NOW + timedelta(seconds=25)},
            *(ModelState(1, 1), None, 50.0),
            id="never measured, own pace",
        ),
    ],
)
def test_the_end_is_told_from_tokens_and_measured_speed(
    fields: dict[str, Any], model: ModelState, ahead: Ahead | None, eta: float | None
) -> None:
    values = {"total": 100, "queued": 100, "queued_tokens": 1000, **fields}

    assert outlook(job(**values), around(model, ahead=ahead)).eta_seconds == eta


def test_the_last_items_running_are_sized_by_those_done() -> None:
    values = {"total": 20, "running": 10, "succeeded": 10, "input_tokens": 400}

    assert outlook(job(**values), around(ModelState(1, 1, None, 100.0, 1.0))).eta_seconds == 4.0


@pytest.mark.parametrize(
    ("fields", "surroundings", "code", "said"),
    [
        pytest.param({"status": "completed"}, around(workers=0), None, "", id="over"),
        pytest.param({"running": 1}, around(workers=0), None, "", id="something runs"),
        pytest.param({"status": "validating"}, around(), "validating", "checked", id="validating"),
        pytest.param({"status": "validating"}, around(workers=0), "no_worker", "start one", id="no worker to validate"),
        pytest.param({"status": "finalizing"}, around(), "finalizing", "written", id="finalizing"),
        pytest.param({"status": "cancelling"}, around(), "cancelling", "giving up", id="cancelling"),
        pytest.param({"paused": True}, around(), "paused", "paused", id="paused"),
        pytest.param({}, around(workers=0), "no_worker", "no worker is running", id="no worker at all"),
        pytest.param({}, around(ModelState(), 3), "no_worker", "restart `bushel up`", id="no worker for the model"),
        pytest.param({}, around(ModelState(0, 0, "no weights")), "model_unavailable", "no weights", id="cannot load"),
        pytest.param({}, around(ModelState(1, 1, "no GPU there")), "its_turn", "next", id="another worker can"),
        pytest.param({}, around(ahead=Ahead(1, 9)), "jobs_ahead", "1 job is", id="one ahead"),
        pytest.param({}, around(ahead=Ahead(1234, 9)), "jobs_ahead", "1,234 jobs are", id="many ahead"),
        pytest.param({}, around(ModelState(1, 0)), "model_loading", "not loaded", id="loading"),
        pytest.param({}, around(), "its_turn", "next free worker", id="its turn"),
        pytest.param({"queued": 0}, around(), None, "", id="nothing left to wait for"),
    ],
)
def test_a_job_says_why_it_waits(
    fields: dict[str, Any], surroundings: Surroundings, code: str | None, said: str
) -> None:
    waiting = outlook(job(**{"total": 5, "queued": 5, **fields}), surroundings).waiting_for

    assert (waiting.code if waiting else None) == code
    assert waiting is None or said in waiting.message


SEVERAL: dict[str, Any] = {"model": None, "total": 30, "queued": 30, "queued_tokens": 300}


def around_several(a: ModelState, b: ModelState, ahead: Ahead | None = None) -> Surroundings:
    return Surroundings(NOW, 2, {"a": a, "b": b}, {"job": ahead} if ahead else {}, {"job": {"a": 100, "b": 200}})


@pytest.mark.parametrize(
    ("a", "b", "ahead", "eta"),
    [
        pytest.param(ModelState(1, 1, None, 100.0, 1.0), ModelState(1, 1, None, 50.0, 1.0), None, 10.0, id="in turn"),
        pytest.param(ModelState(1, 1, None, 100.0, 1.0), ModelState(2, 1, None, 50.0, 1.0), None, 6.0, id="shared"),
        pytest.param(ModelState(1, 1, None, 9.0, 1.0), ModelState(0, 0, None, 9.0, 1.0), None, None, id="one unserved"),
        pytest.param(ModelState(1, 1, None, 9.0, 1.0), ModelState(1, 1), None, None, id="one unmeasured"),
        pytest.param(
            ModelState(1, 1, None, 100.0, 1.0),
            ModelState(1, 1, None, 50.0, 1.0),
            Ahead(1, 150),
            15.0,
            id="others ahead",
        ),
    ],
)
def test_a_job_of_several_models_ends_when_all_of_them_have(
    a: ModelState, b: ModelState, ahead: Ahead | None, eta: float | None
) -> None:
    assert outlook(job(**SEVERAL), around_several(a, b, ahead)).eta_seconds == eta


@pytest.mark.parametrize(
    ("a", "b", "code", "said"),
    [
        pytest.param(ModelState(), ModelState(), "no_worker", "serves models a, b", id="no worker"),
        pytest.param(ModelState(), ModelState(0, 0, "no GPU"), "model_unavailable", "model b cannot", id="one cannot"),
        pytest.param(
            ModelState(0, 0, "no GPU"), ModelState(1, 0), "model_loading", "model b is not", id="the other loads"
        ),
        pytest.param(ModelState(1, 0), ModelState(1, 0), "model_loading", "models a, b are not", id="both load"),
        pytest.param(ModelState(1, 1), ModelState(1, 0), "its_turn", "next free worker", id="one is loaded"),
    ],
)
def test_a_job_of_several_models_waits_for_the_first_that_can_run(
    a: ModelState, b: ModelState, code: str, said: str
) -> None:
    waiting = outlook(job(**SEVERAL), around_several(a, b)).waiting_for

    assert waiting is not None and waiting.code == code and said in waiting.message


def test_a_job_of_several_models_whose_last_chunk_was_just_claimed_waits_for_nothing() -> None:
    assert outlook(job(**SEVERAL), Surroundings(NOW, 1)).waiting_for is None
