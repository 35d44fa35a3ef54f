"""A served API with a worker behind it, and the real OpenAI client in front."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from api.config import APISettings
from models.registry import load
from tests.conftest import REGISTRY, LiveAPI, served
from tests.ledger import Ledger
from tests.working import AnsweredDoorbell, working

MORE = """
[models.echo-vectors]
task = "embedding"
source = "."
engine = "echo"
default = true

[models.echo-short]
task = "summarization"
source = "."
engine = "echo"
default = true

[models.echo-slow]
task = "generation"
source = "."
engine = "echo"
options = { seconds_per_item = 30.0 }

[models.echo-odd]
task = "generation"
source = "."
engine = "echo"
options = { markers = true }
"""


@pytest.fixture
def stack(settings: APISettings, ledger: Ledger, tmp_path: Path) -> Iterator[LiveAPI]:
    """The API with models for everything, and a worker that does what it rings for."""
    registry = tmp_path / "more.toml"
    registry.write_text(REGISTRY + MORE)
    bell = AnsweredDoorbell()
    with (
        working(ledger, bell, load([registry])),
        served(settings.model_copy(update={"registry": registry, "sync_wait_seconds": 20}), bell) as api,
    ):
        yield api


def sdk(api: LiveAPI, key: str, max_retries: int = 0, url: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{url or api.url}/v1",
        api_key=key,
        max_retries=max_retries,
        # Plain HTTP; without this every client reads the system's certificates, which takes as long as a test.
        http_client=openai.DefaultHttpxClient(trust_env=False, verify=False),
    )


@pytest.fixture
def ai(api: LiveAPI, key: str) -> Iterator[openai.OpenAI]:
    """The OpenAI client of an API without a worker: nothing happens to a batch but what the test does."""
    with sdk(api, key) as client:
        yield client


@pytest.fixture
def working_ai(stack: LiveAPI, key: str) -> Iterator[openai.OpenAI]:
    with sdk(stack, key) as client:
        yield client
