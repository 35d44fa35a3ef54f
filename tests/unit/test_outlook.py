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
        pytest.param({}, around(ModelState(), 3), "no_worker", "none of the 3", id="no worker for the model"),
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
