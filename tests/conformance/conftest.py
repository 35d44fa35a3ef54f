"""The whole stack with echo models for every task, shared by the tests of this folder."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cli.stack.valkey import Valkey
from db.keys import issue_key
from db.session import Sessions, connect
from db.session import sessions as sessions_of
from tests.conftest import fresh_database
from tests.stack.conftest import Stack, built, valkey  # noqa: F401

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


@dataclass(frozen=True)
class Server:
    stack: Stack
    sessions: Sessions

    def key(self, tenant: str) -> str:
        with self.sessions.begin() as session:
            return issue_key(session, tenant, "conformance")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, postgres: str, valkey: Valkey) -> Iterator[Server]:  # noqa: F811
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
