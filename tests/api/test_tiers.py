"""A tier instead of a model, over HTTP: of a job, of its clone, and as models and jobs tell it."""

from typing import Any

import httpx
import openai
import pytest

from api.config import APISettings
from tests.conftest import LiveAPI
from tests.ledger import Ledger

FAMILY = """
[models.tower]
task = "translation"
source = "."
engine = "echo"
family = "echoes"
tier = "best"
source_languages = ["en"]
target_languages = ["de", "fr"]

[models.hut]
task = "translation"
source = "."
engine = "echo"
family = "echoes"
tier = "fast"
source_languages = ["en"]
target_languages = ["de"]
"""
JOB = {"task": "translation", "inputs": ["one"]}


@pytest.fixture
def settings(settings: APISettings) -> APISettings:
    """With a family of two, whose best is the default."""
    assert settings.registry is not None
    text = settings.registry.read_text() + FAMILY
    text = text.replace("default = true\n", "", 1).replace('tier = "best"\n', 'tier = "best"\ndefault = true\n')
    settings.registry.write_text(text)
    return settings


def submit(client: httpx.Client, key: str | None = None, **changes: Any) -> httpx.Response:
    return client.post("/v1/jobs", json={**JOB, **changes}, headers={"Idempotency-Key": key} if key else {})


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param({"params": {"target_lang": "de"}}, ("tower", "best"), id="nothing"),
        pytest.param({"tier": None, "params": {"target_lang": "de"}}, ("tower", "best"), id="null"),
        pytest.param({"tier": "fast"}, ("hut", "fast"), id="a tier"),
        pytest.param({"tier": "fast", "model": "tower"}, ("hut", "fast"), id="a tier of a model"),
        pytest.param({"tier": "fast", "model": "echoes"}, ("hut", "fast"), id="a tier of a family"),
        pytest.param({"model": "echo"}, ("echo", None), id="a model without tiers"),
    ],
)
def test_a_job_runs_on_the_tier_it_asks_for(
    client: httpx.Client, said: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    job = submit(client, **said)

    assert job.status_code == 202, job.text
    assert (job.json()["model"], job.json()["tier"]) == expected
    again = client.get(f"/v1/jobs/{job.json()['id']}").json()
    assert (again["model"], again["tier"]) == expected
    [listed] = client.get("/v1/jobs").json()["data"]
    assert (listed["model"], listed["tier"]) == expected


@pytest.mark.parametrize(
    ("said", "expected", "message"),
    [
        pytest.param({"tier": "turbo"}, (400, "invalid_value", "tier"), "'best', 'balanced' or 'fast'", id="unknown"),
        pytest.param({"tier": "balanced"}, (400, "tier_not_found", "tier"), "it has best, fast", id="not there"),
        pytest.param(
            {"tier": "best", "model": "echo"}, (400, "tier_not_found", "tier"), "echoes (best, fast)", id="no family"
        ),
        pytest.param({"tier": "best", "model": "echos"}, (404, "model_not_found", "model"), "echoes", id="no model"),
        pytest.param({"model": "echoes"}, (404, "model_not_found", "model"), "there is no model", id="family alone"),
        pytest.param(
            {"tier": "best", "model": "echoes", "task": "generation"},
            (400, "task_mismatch", "model"),
            "model tower does translation, not generation",
            id="another task",
        ),
        pytest.param(
            {"tier": "fast", "params": {"target_lang": "fr"}},
            (400, "invalid_params", "params.target_lang"),
            "not a language of model hut",
            id="another language",
        ),
    ],
)
def test_a_tier_that_cannot_be_had_is_refused(
    client: httpx.Client, said: dict[str, Any], expected: tuple[int, str, str], message: str
) -> None:
    answer = submit(client, **said)

    assert error(answer) == expected
    assert message in answer.json()["error"]["message"]


def test_the_tier_belongs_to_what_an_idempotency_key_stands_for(client: httpx.Client) -> None:
    first = submit(client, "k", tier="fast")

    assert submit(client, "k", tier="fast").json()["id"] == first.json()["id"]
    other = submit(client, "k", tier="best", params={"target_lang": "de"})
    assert error(other)[:2] == (422, "idempotency_key_reused")
    assert error(submit(client, "k"))[:2] == (422, "idempotency_key_reused")


def test_a_file_is_run_on_the_tier_too(client: httpx.Client, ledger: Ledger) -> None:
    files = {"file": ("in.txt", b"one\ntwo\n")}
    file_id = client.post("/v1/files", data={"purpose": "batch"}, files=files).json()["id"]

    job = client.post("/v1/jobs", json={"task": "translation", "tier": "fast", "input_file_id": file_id}).json()

    assert (job["model"], job["tier"]) == ("hut", "fast")


class TestClone:
    def clone(self, client: httpx.Client, parent: str, **said: Any) -> httpx.Response:
        return client.post(f"/v1/jobs/{parent}/clone", json=said)

    def test_a_clone_may_say_another_tier(self, client: httpx.Client) -> None:
        parent = submit(client, params={"target_lang": "de"}).json()

        fast = self.clone(client, parent["id"], tier="fast").json()
        of_model = self.clone(client, parent["id"], model="hut", tier="best").json()
        same = self.clone(client, fast["id"]).json()

        assert (parent["model"], fast["model"], of_model["model"]) == ("tower", "hut", "tower")
        assert (same["model"], same["tier"]) == ("hut", "fast")
        assert fast["params"] == parent["params"]

    def test_a_tier_that_cannot_be_had_is_refused(self, client: httpx.Client) -> None:
        french = submit(client, params={"target_lang": "fr"}).json()["id"]
        plain = submit(client, model="echo").json()["id"]

        assert error(self.clone(client, french, tier="balanced")) == (400, "tier_not_found", "tier")
        assert error(self.clone(client, french, tier="fast")) == (400, "invalid_params", "params.target_lang")
        assert error(self.clone(client, plain, tier="fast")) == (400, "tier_not_found", "tier")

    def test_a_batch_says_its_models_on_its_lines(self, client: httpx.Client, ai: openai.OpenAI) -> None:
        line = b'{"custom_id":"a","method":"POST","url":"/v1/translations","body":{"model":"hut","input":"one"}}\n'
        file = ai.files.create(file=("in.jsonl", line), purpose="batch")
        batch = client.post(
            "/v1/batches",
            json={"input_file_id": file.id, "endpoint": "/v1/translations", "completion_window": "24h"},
        ).json()

        answer = self.clone(client, batch["id"].replace("batch_", "job_"), tier="best")

        assert error(answer) == (400, "invalid_value", "tier")


def test_models_tell_their_family_and_tier(client: httpx.Client) -> None:
    shown = {model["id"]: (model["family"], model["tier"]) for model in client.get("/v1/models").json()["data"]}

    assert shown["tower"] == ("echoes", "best")
    assert shown["echo"] == (None, None)
    one = client.get("/v1/models/hut").json()
    assert (one["family"], one["tier"]) == ("echoes", "fast")


def test_a_job_whose_model_has_gone_has_no_tier(client: httpx.Client, api: LiveAPI, settings: APISettings) -> None:
    job = submit(client, tier="fast").json()
    assert settings.registry is not None
    settings.registry.write_text(settings.registry.read_text().replace("[models.hut]", "[models.shed]"))

    shown = client.get(f"/v1/jobs/{job['id']}").json()

    assert (shown["model"], shown["tier"]) == ("hut", None)
