"""Real SDKs, unmodified and each in an environment of its own, against the real server."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.stack.valkey import Valkey
from db.keys import issue_key
from db.session import Sessions, connect
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


@dataclass(frozen=True)
class Server:
    stack: Stack
    sessions: Sessions

    def key(self, tenant: str) -> str:
        with self.sessions.begin() as session:
            return issue_key(session, tenant, "conformance")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, postgres: str, valkey: Valkey) -> Iterator[Server]:
    """The whole stack, and a database to make tenants in."""
    with (
        fresh_database(postgres) as url,
        built(tmp_path_factory.mktemp("conformance"), url, valkey) as stack,
    ):
        engine = connect(url)
        stack.registry.write_text(REGISTRY)
        stack.environment["BUSHEL_WEBHOOK_PRIVATE_ADDRESSES"] = "true"
        stack.start_api()
        stack.start_worker("io", "bushel.io")
        names = ("echo", "echo-chat", "echo-chat-2", "echo-summary", "echo-vectors")
        stack.start_worker("models", ",".join(f"bushel.model.{name}" for name in names))
        # Beside it, so that what is slow on purpose holds nothing up.
        stack.start_worker("slow", "bushel.model.echo-slow-chat")
        yield Server(stack, sessions_of(engine))
        engine.dispose()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: f"{sdk.package}-{sdk.version}")
def test_an_unmodified_sdk_works(sdk: SDK, server: Server) -> None:
    """Its synchronous and its asynchronous client at once, each a tenant of its own."""
    try:
        python(sdk)
    except Unavailable as exc:
        pytest.skip(f"NOT CHECKED: {exc}")

    def run(kind: str) -> list[Report]:
        mine, others = server.key(f"{sdk.name} {kind}"), server.key("stranger")
        return matrix.run(sdk, kind, f"http://127.0.0.1:{server.stack.port}", mine, others)

    with ThreadPoolExecutor(len(KINDS)) as pool:
        found.update({(sdk, kind): reports for kind, reports in zip(KINDS, pool.map(run, KINDS), strict=True)})

    reports = [(kind, report) for kind in KINDS for report in found[sdk, kind]]
    failed = [f"{kind}: {each.feature}\n{each.detail}" for kind, each in reports if each.outcome == "failed"]
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
