"""Real SDKs, unmodified and each in an environment of its own, against the real server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack.valkey import Valkey
from db.keys import issue_key
from db.session import connect
from db.session import sessions as sessions_of
from tests.conformance import matrix
from tests.conformance.environments import SDK, SDKS, Unavailable, python
from tests.conformance.matrix import KINDS, Report
from tests.conftest import fresh_database
from tests.stack.conftest import Stack, built

pytestmark = pytest.mark.slow

REGISTRY = """
[models.echo]
task = "translation"
source = "."
engine = "echo"
default = true

[models.echo-chat]
task = "generation"
source = "."
engine = "echo"
options = { markers = true, batch_tokens = 64 }

[models.echo-chat-2]
task = "generation"
source = "."
engine = "echo"

[models.echo-slow-chat]
task = "generation"
source = "."
engine = "echo"
options = { markers = true, batch_tokens = 1 }

[models.echo-summary]
task = "summarization"
source = "."
engine = "echo"

[models.echo-vectors]
task = "embedding"
source = "."
engine = "echo"
"""

found: dict[tuple[SDK, str], list[Report]] = {}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, postgres: str, valkey: Valkey) -> Iterator[tuple[Stack, str]]:
    """The whole stack, and a key of another tenant."""
    with (
        fresh_database(postgres) as url,
        built(tmp_path_factory.mktemp("conformance"), url, valkey) as stack,
    ):
        engine = connect(url)
        with sessions_of(engine).begin() as session:
            other = issue_key(session, "stranger", "conformance")
        engine.dispose()
        stack.registry.write_text(REGISTRY)
        stack.environment["BUSHEL_WEBHOOK_PRIVATE_ADDRESSES"] = "true"
        stack.start_api()
        stack.start_worker("io", "bushel.io")
        names = ("echo", "echo-chat", "echo-chat-2", "echo-summary", "echo-vectors")
        stack.start_worker("models", ",".join(f"bushel.model.{name}" for name in names))
        # Beside it, so that what is slow on purpose holds nothing up.
        stack.start_worker("slow", "bushel.model.echo-slow-chat")
        yield stack, other


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: f"{sdk.package}-{sdk.version}")
def test_an_unmodified_sdk_works(sdk: SDK, kind: str, server: tuple[Stack, str]) -> None:
    stack, other = server
    try:
        python(sdk)
    except Unavailable as exc:
        pytest.skip(f"NOT CHECKED: {exc}")

    reports = matrix.run(sdk, kind, f"http://127.0.0.1:{stack.port}", stack.key, other)

    found[sdk, kind] = reports
    failed = [f"{report.feature}\n{report.detail}" for report in reports if report.outcome == "failed"]
    assert not failed, "\n".join(failed)


def test_the_compatibility_document_says_what_was_found() -> None:
    if len(found) < len(SDKS) * len(KINDS):
        pytest.skip("not every SDK was run")
    tables = matrix.rendered(found)

    if os.environ.get("BUSHEL_WRITE_COMPATIBILITY"):
        matrix.write(tables)

    assert matrix.written() == tables, "write it anew with `make compatibility`"


def test_every_sdk_has_its_checks() -> None:
    for sdk in SDKS:
        assert Path(matrix.HERE / f"{sdk.package}_checks.py").exists()
